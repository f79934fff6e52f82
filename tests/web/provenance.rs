//! Every byte of a body in ring memory is offered with custody, and never copied by anybody on its way to the sink. This guards
//! against upgrades of hyper, h2 and axum.

use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use zerosink::{Mechanism, Refusal, Ring, SinkConfig};

use crate::{
    app::Order,
    client::Client,
    counting::{CountingListener, Counts},
    endings::cases_of,
    harness::{self, within},
    server::Way,
    support::poisoned_ring,
};

const SIZES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const RING: usize = 8 << 20;
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

/// A sink that chooses, and one that insists on each mechanism.
fn sinks() -> impl Iterator<Item = (SinkConfig, Ring)> {
    [(SinkConfig::new(), poisoned_ring(RING))].into_iter().chain(cases_of(RING))
}

async fn matrix(way: Way) {
    for (config, ring) in sinks() {
        let mechanism = config.mechanism;
        for bytes in SIZES {
            for frame in FRAMES {
                for chunked in [false, true] {
                    let order = Order::of(bytes).in_frames(frame).chunked(chunked);
                    let counts = ask(vec![order], way, config.clone(), &ring).await;
                    let what = format!("{way:?} {mechanism:?} {order:?}: {counts:?}");
                    assert_eq!(counts.owned() + counts.stray(), bytes as u64, "{what}");
                    assert!(counts.stray() <= counts.partial() * TAIL, "{what}");
                    if let Some(mechanism) = mechanism {
                        by_the_mechanism(&counts, mechanism, bytes as u64, &what);
                    }
                }
            }
        }
    }
}

/// What is offered with custody is also sent so: copied are the heads, the tails, and what the kernel had no memory for.
fn by_the_mechanism(counts: &Counts, mechanism: Mechanism, bytes: u64, what: &str) {
    let [stats] = &counts.stats()[..] else { panic!("one connection: {what}") };
    let sent = stats.sent[mechanism.index()] + stats.copied[Refusal::NoBuffers.index()];
    assert!(sent + counts.partial() * TAIL >= bytes, "{what}");
    if mechanism != Mechanism::Copy {
        assert_eq!(stats.no_buffers, 0, "{what}");
        assert!(stats.bytes_copied <= counts.copied() + counts.partial() * TAIL, "{what}");
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

/// A response by HTTP/2 in frames of at most `frame` bytes, and what the sink was offered for it.
async fn ask_http_2(order: Order, frame: u32, way: Way, config: SinkConfig, ring: Ring) -> Arc<Counts> {
    use http_body_util::{BodyExt as _, Empty};
    let listener = CountingListener::bind().await;
    let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
    let server = way.serve(listener, config, ring);
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
    for (config, ring) in sinks() {
        for way in [Way::Auto, Way::Axum, Way::Serve] {
            for frame in [16 << 10, 1 << 20] {
                let order = Order::of(4 << 20).in_frames(1 << 20);
                let counts = ask_http_2(order, frame, way, config.clone(), ring.clone()).await;
                let what = format!("{way:?} {:?} {frame}: {counts:?}", config.mechanism);
                let frames = (order.bytes as u64).div_ceil(frame.into());
                let most = 256 * frames + 1024 + counts.partial() * TAIL;
                assert!(counts.copied() + counts.stray() <= most, "{what}");
                let least = order.bytes as u64 - 256 * frames;
                assert!(counts.owned() + counts.partial() * TAIL >= least, "{what}");
                if let Some(mechanism) = config.mechanism {
                    by_the_mechanism(&counts, mechanism, least, &what);
                }
            }
        }
    }
}
