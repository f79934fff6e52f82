//! Every byte of a body in ring memory is offered with custody, and never copied by anybody on its way to the sink. This guards
//! against upgrades of hyper, h2 and axum.

use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use zerosink::{Ring, SinkConfig};

use crate::{
    app::Order,
    client::Client,
    counting::{CountingListener, Counts},
    harness::{self, within},
    server::Way,
    support::poisoned_ring,
};

const SIZES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const FRAMES: [usize; 3] = [usize::MAX, 64 << 10, 4 << 10];

/// What the tail of a partial write may have: less is not looked up.
const TAIL: u64 = 512;

/// Asks for each order on a connection of its own and checks it. Returns when the server has seen the end of the connections.
async fn ask(orders: Vec<Order>, way: Way, config: SinkConfig, ring: &Ring) -> Arc<Counts> {
    let listener = CountingListener::bind().await;
    let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
    let server = way.serve(listener, config, ring.clone());
    let connections = orders.len();
    let client = tokio::task::spawn_blocking(move || {
        for order in orders {
            let reply = Client::connect(address).get(&order.path());
            assert_eq!(reply.status, 200);
            order.check(&reply.body);
        }
    });
    within("the client", client).await.unwrap();
    harness::until("the end of the connections", || counts.stats().len() == connections).await;
    server.abort();
    counts
}

async fn matrix(way: Way) {
    let ring = poisoned_ring(8 << 20);
    for bytes in SIZES {
        for frame in FRAMES {
            for chunked in [false, true] {
                let order = Order::of(bytes).in_frames(frame).chunked(chunked);
                let counts = ask(vec![order], way, SinkConfig::new(), &ring).await;
                assert_eq!(counts.owned() + counts.stray(), bytes as u64, "{way:?} {order:?}: {counts:?}");
                assert!(counts.stray() <= counts.partial() * TAIL, "{way:?} {order:?}: {counts:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_http_1_hands_down_every_byte_of_a_ring_body() {
    matrix(Way::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_util_hands_down_every_byte_of_a_ring_body() {
    matrix(Way::Auto).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_hands_down_every_byte_of_a_ring_body() {
    matrix(Way::Axum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_hands_down_every_byte_of_a_ring_body() {
    matrix(Way::Serve).await;
}

#[tokio::test]
async fn bodies_on_heap_are_copied() {
    let ring = poisoned_ring(1 << 20);
    for way in Way::ALL {
        let counts = ask(vec![Order::of(1 << 20).heap()], way, SinkConfig::new(), &ring).await;
        assert_eq!((counts.owned(), counts.stray()), (0, 0), "{way:?}: {counts:?}");
        assert!(counts.copied() > 1 << 20, "{way:?}: {counts:?}");
    }
}

/// What is offered with custody is also sent so, if the mechanism is one that does.
#[cfg(zerosink_linux)]
#[tokio::test]
async fn a_ring_body_is_sent_by_the_mechanism_and_not_copied_by_the_send_call() {
    let config = SinkConfig::new().mechanism(zerosink::Mechanism::MsgZerocopy);
    let ring = poisoned_ring(8 << 20);
    for way in Way::ALL {
        let order = Order::of(4 << 20).in_frames(256 << 10);
        let counts = ask(vec![order], way, config.clone(), &ring).await;
        let [stats] = &counts.stats()[..] else { panic!("one connection: {counts:?}") };
        // What was copied is the head, tails, and what the kernel had no memory for.
        let copied = stats.bytes_copied - stats.copied[zerosink::Refusal::NoBuffers.index()];
        assert_eq!(stats.no_buffers, 0, "{stats:?}");
        assert!(copied <= 1024 + counts.partial() * TAIL, "{way:?}: {stats:?}");
        assert!(stats.bytes_zero_copy + 1024 + counts.partial() * TAIL >= 4 << 20, "{way:?}: {stats:?}");
    }
}

/// A response by HTTP/2 in frames of at most `frame` bytes, and what the sink was offered for it.
async fn ask_http_2(order: Order, frame: u32, way: Way) -> Arc<Counts> {
    use http_body_util::{BodyExt as _, Empty};
    let ring = poisoned_ring(8 << 20);
    let listener = CountingListener::bind().await;
    let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
    let server = way.serve(listener, SinkConfig::new(), ring);
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_frame_size(frame)
        .initial_connection_window_size(16 << 20)
        .initial_stream_window_size(16 << 20)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://test{}", order.path()));
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = within("the head", client.send_request(request)).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    let body = within("the body", response.into_body().collect()).await.unwrap().to_bytes();
    order.check(&body);
    drop(client);
    within("the end", connection).await.unwrap().unwrap();
    harness::until("the end of the connection", || counts.stats().len() == 1).await;
    server.abort();
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_copies_no_more_than_256_bytes_of_each_frame() {
    for way in [Way::Auto, Way::Axum, Way::Serve] {
        for frame in [16 << 10, 1 << 20] {
            let order = Order::of(4 << 20).in_frames(1 << 20);
            let counts = ask_http_2(order, frame, way).await;
            let frames = (order.bytes as u64).div_ceil(frame.into());
            let most = 256 * frames + 1024 + counts.partial() * TAIL;
            assert!(counts.copied() + counts.stray() <= most, "{way:?} {frame}: {counts:?}");
            assert!(
                counts.owned() + 256 * frames + counts.partial() * TAIL >= order.bytes as u64,
                "{way:?}: {counts:?}"
            );
        }
    }
}
