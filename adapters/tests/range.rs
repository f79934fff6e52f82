//! Which part of a representation a request gets.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use zerosink_adapters::{
    body::RingBody,
    range::{Representation, Selection},
};

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn representation() -> Representation {
    Representation::new(10)
        .content_type(HeaderValue::from_static("text/plain"))
        .etag(HeaderValue::from_static("\"v1\""))
        .last_modified(HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"))
}

#[test]
fn ranges_are_selected_as_the_standard_has_it() {
    use Selection::{Part, Unsatisfiable, Whole};
    for (range, expected) in [
        ("bytes=0-3", Part(0..4)),
        ("bytes=3-", Part(3..10)),
        ("bytes=-3", Part(7..10)),
        ("bytes=-300", Part(0..10)),
        ("bytes=9-9", Part(9..10)),
        ("bytes=4-99999999999999999999999", Part(4..10)),
        ("bytes=10-", Unsatisfiable),
        ("bytes=10-20", Unsatisfiable),
        ("bytes=-0", Unsatisfiable),
        // Several ranges, and what cannot be read: the whole.
        ("bytes=0-1,4-5", Whole),
        ("bytes=5-2", Whole),
        ("bytes=a-b", Whole),
        ("bytes=", Whole),
        ("lines=0-3", Whole),
        ("\u{e9}", Whole),
    ] {
        assert_eq!(representation().select(&Method::GET, &headers(&[("range", range)])), expected, "{range}");
    }
    assert_eq!(representation().select(&Method::GET, &HeaderMap::new()), Whole);
    let twice = headers(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]);
    assert_eq!(twice.len(), 2);
    assert_eq!(representation().select(&Method::GET, &twice), Whole);
    for method in [Method::HEAD, Method::POST] {
        assert_eq!(representation().select(&method, &headers(&[("range", "bytes=0-3")])), Whole, "{method}");
    }
    let nothing = Representation::new(0);
    assert_eq!(nothing.select(&Method::GET, &headers(&[("range", "bytes=0-")])), Unsatisfiable);
    assert_eq!(nothing.select(&Method::GET, &headers(&[("range", "bytes=-1")])), Whole);
}

#[test]
fn a_range_of_another_version_gets_the_whole() {
    let select = |representation: &Representation, if_range: &str| {
        representation.select(&Method::GET, &headers(&[("range", "bytes=0-3"), ("if-range", if_range)]))
    };
    let both = representation();
    assert_eq!(select(&both, "\"v1\""), Selection::Part(0..4));
    assert_eq!(select(&both, "Wed, 21 Oct 2015 07:28:00 GMT"), Selection::Part(0..4));
    for other in ["\"v2\"", "W/\"v1\"", "Wed, 21 Oct 2015 07:28:01 GMT", "nonsense"] {
        assert_eq!(select(&both, other), Selection::Whole, "{other}");
    }
    let weak = Representation::new(10).etag(HeaderValue::from_static("W/\"v1\""));
    assert_eq!(select(&weak, "W/\"v1\""), Selection::Whole, "a weak validator never matches");
    assert_eq!(select(&Representation::new(10), "\"v1\""), Selection::Whole, "nothing to match");
}

#[tokio::test]
async fn responses_have_the_status_the_headers_and_the_slice() {
    let bytes = Bytes::from_static(b"0123456789");
    for (method, range, status, content_range, length, body) in [
        (Method::GET, None, 200, None, "10", &b"0123456789"[..]),
        (Method::GET, Some("bytes=2-4"), 206, Some("bytes 2-4/10"), "3", b"234"),
        (Method::GET, Some("bytes=0-"), 206, Some("bytes 0-9/10"), "10", b"0123456789"),
        (Method::GET, Some("bytes=10-"), 416, Some("bytes */10"), "0", b""),
        (Method::HEAD, None, 200, None, "10", b""),
        (Method::HEAD, Some("bytes=2-4"), 200, None, "10", b""),
    ] {
        let fields: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        let response = representation().respond_bytes(&method, &headers(&fields), &bytes);
        let fields = response.headers();
        let text = |name: header::HeaderName| fields.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(response.status(), status, "{method} {range:?}");
        assert_eq!(text(header::CONTENT_RANGE), content_range, "{method} {range:?}");
        assert_eq!(text(header::CONTENT_LENGTH), Some(length));
        assert_eq!(text(header::ACCEPT_RANGES), Some("bytes"));
        assert_eq!(text(header::ETAG), Some("\"v1\""));
        assert_eq!(text(header::CONTENT_TYPE), (status != 416).then_some("text/plain"));
        let exact = response.body().size_hint().exact();
        let sent = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((exact, &*sent), (Some(body.len() as u64), body));
        if !sent.is_empty() {
            assert!(bytes.as_ptr_range().contains(&sent.as_ptr()), "a slice, not a copy");
        }
    }
}

#[test]
fn a_body_is_asked_for_only_where_one_is_sent() {
    let asked = |method: Method, range: &str, length: u64| {
        let mut asked = None;
        let _response = Representation::new(length).respond(&method, &headers(&[("range", range)]), |range| {
            asked = Some(range);
            RingBody::new("some")
        });
        asked
    };
    assert_eq!(asked(Method::GET, "bytes=2-5", 10), Some(2..6), "the control");
    assert_eq!(asked(Method::HEAD, "bytes=2-5", 10), None);
    assert_eq!(asked(Method::GET, "bytes=20-", 10), None);
    assert_eq!(asked(Method::GET, "bytes=-5", 0), None);
}
