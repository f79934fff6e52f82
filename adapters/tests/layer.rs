//! The layer by itself, between a service of tower's tests and its caller.

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Full};
use support::{lease, pattern, ring, within};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_test::mock;
use zerosink_adapters::{
    body::{BodyRing, Budget},
    layer::{ZeroCopyBody, ZeroCopyLayer},
};
use zerosink_core::{owner_of, region};

/// A body of given frames that says of itself what it is told to.
struct Told {
    frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
    hint: SizeHint,
    end: bool,
}

impl Body for Told {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.frames.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.end
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

fn told(frames: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>) -> Told {
    Told { frames: frames.into_iter().collect(), hint: SizeHint::default(), end: false }
}

async fn data<B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(body: &mut B) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn frames_on_heap_from_the_threshold_on_have_an_owner_while_they_live() {
    for (length, found) in [(999, false), (1000, true), (1_000_000, true)] {
        let heap = Bytes::from(pattern(length));
        let address = heap.as_ptr();
        let mut body = ZeroCopyBody::new(Full::new(heap), 1000);
        let frame = data(&mut body).await;
        assert_eq!((frame.as_ptr(), &*frame), (address, &*pattern(length)), "the bytes stay where they are");
        assert_eq!(owner_of(&frame).is_some(), found, "{length}");
        assert_eq!(owner_of(&frame[length / 2..]).is_some(), found, "{length}, a part");
    }
    let mut all = ZeroCopyBody::new(Full::new(Bytes::from(vec![1])), 0);
    assert!(owner_of(&data(&mut all).await).is_some());
    let mut none = ZeroCopyBody::new(Full::new(Bytes::from(pattern(1_000_000))), usize::MAX);
    assert!(owner_of(&data(&mut none).await).is_none());
    let mut empty = ZeroCopyBody::new(told([Ok(Frame::data(Bytes::new()))]), 0);
    assert!(data(&mut empty).await.is_empty());
}

#[tokio::test]
async fn an_owner_outlives_the_frame_and_the_entry_does_not() {
    let heap = Bytes::from(pattern(100_000));
    let frame = data(&mut ZeroCopyBody::new(Full::new(heap.clone()), 1)).await;
    let custody = owner_of(&frame).unwrap();
    drop(frame);
    assert!(owner_of(&heap).is_none(), "the entry is gone");
    drop(heap);
    assert_eq!(custody, pattern(100_000), "the memory is not");
}

#[tokio::test]
async fn one_cached_body_in_two_responses_is_found_until_both_are_done() {
    let cached = Bytes::from(pattern(100_000));
    let first = data(&mut ZeroCopyBody::new(Full::new(cached.clone()), 1)).await;
    let second = data(&mut ZeroCopyBody::new(Full::new(cached.clone()), 1)).await;
    drop(first);
    assert!(owner_of(&second).is_some());
    drop(second);
    assert!(owner_of(&cached).is_none());
}

#[tokio::test]
async fn leases_and_stated_ranges_pass_as_they_are() {
    static CONSTANT: [u8; 4096] = [7; 4096];
    let ring = ring(1 << 16);
    let lease = lease(&ring, &pattern(4096));
    let ring_frame = data(&mut ZeroCopyBody::new(Full::new(lease.clone()), 1)).await;
    assert_eq!(owner_of(&ring_frame).unwrap(), lease);
    let stated = region::register_static(&CONSTANT);
    let frame = data(&mut ZeroCopyBody::new(Full::new(Bytes::from_static(&CONSTANT)), 1)).await;
    drop(stated);
    assert!(owner_of(&frame).is_none(), "it was not entered a second time");
}

#[tokio::test]
async fn length_end_trailers_and_errors_are_the_inner_bodys() {
    let mut trailers = HeaderMap::new();
    trailers.insert("digest", HeaderValue::from_static("abc"));
    let mut inner =
        told([Ok(Frame::data(Bytes::from(pattern(5000)))), Ok(Frame::trailers(trailers.clone())), Err("broke off")]);
    inner.hint = SizeHint::with_exact(5000);
    inner.end = true;
    let mut body = ZeroCopyBody::new(inner, 1);
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5000), true));
    assert!(owner_of(&data(&mut body).await).is_some());
    assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    assert_eq!(body.frame().await.unwrap().unwrap_err(), "broke off");
    assert!(body.frame().await.is_none());
    assert!(!ZeroCopyBody::new(told([]), 1).is_end_stream());
}

#[tokio::test]
async fn requests_carry_the_ring_and_its_budget() {
    let ring = ring(1 << 20);
    let budget = Budget::new().leases(3).chunk(1000);
    let layer = ZeroCopyLayer::new().ring(ring.clone()).budget(budget);
    let (service, mut handle) = mock::spawn_with::<Request<()>, Response<Full<Bytes>>, _, _>(|mock| layer.layer(mock));
    handle.allow(1);
    let mut service = service;
    tokio_ready(&mut service).await;
    let response = tokio::spawn(service.call(Request::new(())));
    let (request, send) = within(handle.next_request()).await.unwrap();
    let given = request.extensions().get::<BodyRing>().unwrap();
    assert_eq!(given.budget(), budget);
    drop(given.ring().try_reserve(1).unwrap());
    assert!(ring.stats().high_water > 0, "it is that ring");
    send.send_response(Response::builder().status(299).body(Full::from(pattern(20_000))).unwrap());
    let mut response = within(response).await.unwrap().unwrap();
    assert_eq!(response.status(), 299);
    assert!(owner_of(&data(response.body_mut()).await).is_some());
}

/// tower's mock starts without capacity, and this waits until the service has some.
async fn tokio_ready<S>(service: &mut mock::Spawn<S>)
where
    S: tower::Service<Request<()>>,
    S::Error: std::fmt::Debug,
{
    within(std::future::poll_fn(|_| service.poll_ready())).await.unwrap();
}

#[tokio::test]
async fn readiness_and_errors_are_the_inner_services() {
    let (mut service, mut handle) =
        mock::spawn_with::<Request<()>, Response<Full<Bytes>>, _, _>(|mock| ZeroCopyLayer::new().layer(mock));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    tokio_ready(&mut service).await;
    let response = tokio::spawn(service.call(Request::new(())));
    let (request, send) = within(handle.next_request()).await.unwrap();
    assert!(request.extensions().get::<BodyRing>().is_none(), "no ring was given to the layer");
    send.send_error("refused");
    assert_eq!(within(response).await.unwrap().unwrap_err().to_string(), "refused");
}

#[tokio::test]
async fn without_the_layer_no_frame_on_heap_has_an_owner() {
    let service = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(pattern(1 << 20)))))
    });
    let mut plain = service.oneshot(Request::new(Empty::new())).await.unwrap();
    assert!(owner_of(&data(plain.body_mut()).await).is_none());
}
