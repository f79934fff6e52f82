//! Answers to `Range`, `If-Range` and `HEAD`.
//!
//! [`Representation`] says what there is: a length and what identifies it. It answers a request with the status and the
//! headers that belong to it, and asks for the body last, if one is sent at all:
//!
//! | request | status | body |
//! |---|---|---|
//! | `GET` | 200 | all |
//! | `GET`, one range | 206, `Content-Range` | that range |
//! | `GET`, a range outside | 416, `Content-Range: bytes */length` | none |
//! | `GET`, several ranges, or none that can be read, or of another version (`If-Range`) | 200 | all |
//! | `HEAD` | 200, with the length | none, and it is not asked for |
//!
//! All as RFC 9110, section 14, has it. Several ranges get the whole, which it allows. Methods are not checked: any other is
//! answered as `GET` without a range.

use std::ops::Range;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};
use http_range_header::RangeUnsatisfiableError;

use crate::body::RingBody;

/// The part of a representation that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// These bytes; never empty, and within the length.
    Part(Range<u64>),
    /// None of the bytes that it has.
    Unsatisfiable,
}

/// What can be answered with: so many bytes, and what identifies them.
///
/// ```
/// use http::{HeaderValue, Method, StatusCode, header::{HeaderMap, RANGE}};
/// use zerosink_adapters::range::Representation;
///
/// let bytes = bytes::Bytes::from_static(b"0123456789");
/// let mut headers = HeaderMap::new();
/// headers.insert(RANGE, HeaderValue::from_static("bytes=2-4"));
/// let response = Representation::new(10).respond_bytes(&Method::GET, &headers, &bytes);
/// assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
/// assert_eq!(response.headers()["content-range"], "bytes 2-4/10");
/// ```
#[derive(Debug, Clone)]
pub struct Representation {
    length: u64,
    content_type: HeaderValue,
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

impl Representation {
    /// So many bytes, of type `application/octet-stream`.
    #[must_use]
    pub const fn new(length: u64) -> Self {
        let content_type = HeaderValue::from_static("application/octet-stream");
        Self { length, content_type, etag: None, last_modified: None }
    }

    /// Sets `Content-Type`.
    #[must_use]
    pub fn content_type(mut self, value: HeaderValue) -> Self {
        self.content_type = value;
        self
    }

    /// Sets `ETag`: with its quotes, and `W/` before it if it is weak. A weak one never matches `If-Range`.
    #[must_use]
    pub fn etag(mut self, value: HeaderValue) -> Self {
        self.etag = Some(value);
        self
    }

    /// Sets `Last-Modified`. `If-Range` matches the very same date.
    ///
    /// That is right only if the bytes cannot change twice within its second; else give an [`etag`](Self::etag) alone.
    #[must_use]
    pub fn last_modified(mut self, value: HeaderValue) -> Self {
        self.last_modified = Some(value);
        self
    }

    /// The length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// What the request asks for.
    #[must_use]
    pub fn select(&self, method: &Method, headers: &HeaderMap) -> Selection {
        if method != Method::GET || !self.is_version(headers.get(IF_RANGE)) {
            return Selection::Whole;
        }
        let mut ranges = headers.get_all(RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Selection::Whole };
        // What cannot be read is ignored, as RFC 9110 has it for unknown units and permits for all else.
        let Some(ranges) = range.to_str().ok().and_then(|range| http_range_header::parse_range_header(range).ok())
        else {
            return Selection::Whole;
        };
        if ranges.len() > 1 {
            return Selection::Whole;
        }
        match ranges.validate(self.length).as_deref() {
            Ok([range]) => Selection::Part(*range.start()..*range.end() + 1),
            Err(RangeUnsatisfiableError::Unsatisfiable) => Selection::Unsatisfiable,
            // The last bytes of none are none.
            Ok(_) | Err(_) => Selection::Whole,
        }
    }

    /// True without `If-Range`, or if it names this version by a strong validator.
    fn is_version(&self, if_range: Option<&HeaderValue>) -> bool {
        let Some(asked) = if_range else { return true };
        let strong = self.etag.as_ref().filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        strong == Some(asked) || self.last_modified.as_ref() == Some(asked)
    }

    /// The response to a request. `body` is called with the range to send, at most once, and not for `HEAD`, for an empty range, or
    /// where nothing can be sent.
    pub fn respond(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: impl FnOnce(Range<u64>) -> RingBody,
    ) -> Response<RingBody> {
        let (status, range, content_range) = match self.select(method, headers) {
            Selection::Whole => (StatusCode::OK, 0..self.length, None),
            Selection::Part(range) => {
                let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.length);
                (StatusCode::PARTIAL_CONTENT, range, Some(content_range))
            }
            Selection::Unsatisfiable => {
                (StatusCode::RANGE_NOT_SATISFIABLE, 0..0, Some(format!("bytes */{}", self.length)))
            }
        };
        let length = range.end - range.start;
        let body = if length == 0 || method == Method::HEAD { RingBody::empty() } else { body(range).exactly(length) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if let Some(value) = content_range.and_then(|text| HeaderValue::try_from(text).ok()) {
            fields.insert(CONTENT_RANGE, value);
        }
        if status != StatusCode::RANGE_NOT_SATISFIABLE {
            fields.insert(CONTENT_TYPE, self.content_type.clone());
        }
        for (name, value) in [(ETAG, &self.etag), (LAST_MODIFIED, &self.last_modified)] {
            if let Some(value) = value {
                fields.insert(name, value.clone());
            }
        }
        response
    }

    /// The response to a request, out of `bytes`: a lease, an immutable region, or anything else. Ranges are slices of it.
    ///
    /// # Panics
    ///
    /// If `bytes` are not as long as this representation.
    pub fn respond_bytes(&self, method: &Method, headers: &HeaderMap, bytes: &Bytes) -> Response<RingBody> {
        assert_eq!(bytes.len() as u64, self.length, "the bytes must be the representation's");
        self.respond(method, headers, |range| RingBody::new(bytes.slice(range.start as usize..range.end as usize)))
    }
}
