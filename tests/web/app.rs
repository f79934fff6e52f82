//! A service whose bodies are leases of a ring, and what its clients check.

use std::{convert::Infallible, sync::OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Channel, Full, combinators::UnsyncBoxBody};
use zerosink::Ring;

use crate::support::pattern;

/// The body of each response.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a path asks for: `/BYTES?frame=BYTES&chunked=BOOL&heap=BOOL&trailer=BOOL`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) bytes: usize,
    pub(crate) frame: usize,
    pub(crate) chunked: bool,
    pub(crate) heap: bool,
    pub(crate) trailer: bool,
}

impl Order {
    pub(crate) const fn of(bytes: usize) -> Self {
        Self { bytes, frame: bytes, chunked: false, heap: false, trailer: false }
    }

    pub(crate) const fn in_frames(mut self, frame: usize) -> Self {
        self.frame = if frame < self.bytes { frame } else { self.bytes };
        self
    }

    pub(crate) const fn chunked(mut self, chunked: bool) -> Self {
        self.chunked = chunked;
        self
    }

    pub(crate) const fn heap(mut self) -> Self {
        self.heap = true;
        self
    }

    /// Chunked, and with a trailer.
    pub(crate) const fn trailer(mut self) -> Self {
        (self.chunked, self.trailer) = (true, true);
        self
    }

    pub(crate) fn path(self) -> String {
        let Self { bytes, frame, chunked, heap, trailer } = self;
        format!("/{bytes}?frame={frame}&chunked={chunked}&heap={heap}&trailer={trailer}")
    }

    fn parse(uri: &http::Uri) -> Self {
        let bytes = uri.path().trim_start_matches('/').parse().unwrap_or(0);
        let mut order = Self::of(bytes);
        for (name, value) in uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "frame" => order = order.in_frames(value.parse().unwrap()),
                "chunked" => order.chunked = value == "true",
                "trailer" => order.trailer = value == "true",
                "heap" => order.heap = value == "true",
                _ => panic!("{name}?"),
            }
        }
        order
    }

    /// Panics unless `body` is what was ordered.
    #[track_caller]
    pub(crate) fn check(self, body: &[u8]) {
        assert_eq!(body.len(), self.bytes, "{self:?}");
        let (known, rest) = body.split_at(body.len().min(BEGINNING));
        let mut expected = vec![0; rest.len()];
        pattern::fill(known.len() as u64, &mut expected);
        assert!(known == &beginning()[..known.len()] && rest == expected, "{self:?}: wrong bytes");
    }
}

const BEGINNING: usize = 4 << 20;

/// The first bytes of the pattern, made once: that takes long in a debug build.
fn beginning() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes = vec![0; BEGINNING];
        pattern::fill(0, &mut bytes);
        bytes
    })
}

/// The pattern from `at` on.
fn fill(at: usize, out: &mut [u8]) {
    match beginning().get(at..at + out.len()) {
        Some(known) => out.copy_from_slice(known),
        None => pattern::fill(at as u64, out),
    }
}

/// Answers with the pattern of all tests.
pub(crate) async fn respond<B>(ring: Ring, request: Request<B>) -> Result<Response<Body>, Infallible> {
    let order = Order::parse(request.uri());
    let mut response = Response::builder();
    if !order.chunked {
        response = response.header(header::CONTENT_LENGTH, order.bytes);
    }
    if order.trailer {
        // hyper sends only trailers that were announced.
        response = response.header(header::TRAILER, "sum");
    }
    Ok(response.body(body(ring, order).await).unwrap())
}

async fn body(ring: Ring, order: Order) -> Body {
    if order.frame == order.bytes && !order.chunked {
        return Full::new(piece(&ring, order, 0).await).boxed_unsync();
    }
    // One frame at a time, each produced when the one before has been taken; dropping the body ends it.
    let (mut frames, body) = Channel::new(1);
    tokio::spawn(async move {
        let mut at = 0;
        while at < order.bytes {
            let piece = piece(&ring, order, at).await;
            at += piece.len();
            if frames.send_data(piece).await.is_err() {
                return;
            }
        }
        if order.trailer {
            let trailers = HeaderMap::from_iter([(HeaderName::from_static("sum"), HeaderValue::from(order.bytes))]);
            frames.send_trailers(trailers).await.ok();
        }
    });
    body.boxed_unsync()
}

/// The frame that begins at `at`.
async fn piece(ring: &Ring, order: Order, at: usize) -> Bytes {
    let bytes = order.frame.min(order.bytes - at);
    if bytes == 0 {
        return Bytes::new();
    }
    if order.heap {
        let mut heap = vec![0; bytes];
        fill(at, &mut heap);
        return heap.into();
    }
    let mut grant = ring.reserve(bytes).await.unwrap();
    fill(at, grant.as_mut_slice());
    grant.fill(bytes).unwrap();
    grant.commit()
}
