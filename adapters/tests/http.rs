//! Bodies through axum and hyper, out of a zero-copy stream: what has an owner, what the ring gives, and how responses end.

mod support;

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    thread,
};

use axum::{
    Router,
    http::{HeaderMap, Method, Request},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::service::TowerToHyperService;
use support::{Accepted, Portion, Probe, Scripted, lease, pattern, ring, within};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::Service;
use zerosink_adapters::{
    body::{BodyError, BodyRing, Budget, RingBody},
    layer::ZeroCopyLayer,
    range::Representation,
    stream::ZeroCopyStream,
};
use zerosink_backends::By;
use zerosink_core::{IntoSink, Ring, SinkConfig};

/// A server that counts what its connections accept.
struct Server {
    address: SocketAddr,
    accepted: Arc<Accepted>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(app: S) -> Server
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::<Accepted>::default());
    let counts = Arc::clone(&accepted);
    let task = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (app, counts) = (app.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                let sink = IntoSink::<By>::into_sink(socket, SinkConfig::new()).await.unwrap();
                let stream = ZeroCopyStream::new(Probe::new(sink, counts));
                // How it ends is for the client to see.
                drop(http1::Builder::new().serve_connection(stream, TowerToHyperService::new(app)).await);
            });
        }
    });
    Server { address, accepted, task }
}

/// What came before end of file: the head as text, empty if none came, and the rest.
async fn request(server: &Server, method: Method, path: &str, fields: &str) -> (String, Vec<u8>) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n{fields}\r\n");
    let address = server.address;
    let client = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(support::LIMIT)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut received = Vec::new();
        match socket.read_to_end(&mut received) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
        received
    });
    let mut received = within(client).await.unwrap();
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = received.split_off(end);
    (String::from_utf8(received).unwrap().to_lowercase(), body)
}

/// Waits until nothing of the ring is out.
async fn all_back(ring: &Ring) {
    within(async {
        while ring.stats().granted + ring.stats().leased > 0 {
            tokio::task::yield_now().await;
            thread::yield_now();
        }
    })
    .await;
}

/// An app whose bodies are on heap.
fn existing() -> Router {
    Router::new()
        .route("/small", get(async || "small"))
        .route("/vector", get(async || pattern(1 << 20)))
        .route("/text", get(async || "text ".repeat(50_000)))
        .route("/pieces", get(async || RingBody::pieces((0..8).map(|_| Bytes::from(pattern(64 << 10))))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layer_gives_bodies_on_heap_an_owner_and_without_it_there_is_none() {
    let layer = ZeroCopyLayer::new();
    owners(true, || serve(existing().layer(layer.clone()))).await;
    owners(true, || serve(layer.around(existing()))).await;
    owners(false, || serve(existing())).await;

    async fn owners<F: Future<Output = Server>>(layered: bool, serve: impl Fn() -> F) {
        for (path, length) in [("/small", 5), ("/vector", 1 << 20), ("/text", 250_000), ("/pieces", 8 * (64 << 10))] {
            let server = serve().await;
            let (head, body) = request(&server, Method::GET, path, "").await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let large = layered && length > ZeroCopyLayer::THRESHOLD;
            assert_eq!(server.accepted.owned(), if large { length } else { 0 }, "{path}, with the layer: {layered}");
            assert!(server.accepted.borrowed() >= head.len());
            let whole = match path {
                "/vector" => body == pattern(1 << 20),
                "/pieces" => body.chunks(64 << 10).all(|piece| piece == pattern(64 << 10)) && body.len() == length,
                _ => body.len() == length,
            };
            assert!(whole, "{path}: {} bytes", body.len());
        }
    }
}

/// Handlers of one ring, all behind the layer that gives it.
fn ringed(ring: &Ring) -> Router {
    async fn file(method: Method, headers: HeaderMap, ring: BodyRing) -> Response {
        let representation = Representation::new(1 << 20);
        representation
            .respond(&method, &headers, |range| {
                let bytes = pattern(1 << 20)[range.start as usize..range.end as usize].to_vec();
                RingBody::reader(&ring, Scripted::new([Portion::Bytes(bytes)]))
            })
            .into_response()
    }
    async fn read(ring: BodyRing) -> RingBody {
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(1 << 20))])).exactly(1 << 20)
    }
    async fn unknown(ring: BodyRing) -> RingBody {
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(1 << 20))]))
    }
    async fn broken(ring: BodyRing) -> RingBody {
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(100_000)), Portion::NotYet, Portion::Error]))
            .exactly(1 << 20)
    }
    async fn panicking(ring: BodyRing) -> RingBody {
        RingBody::produce(&ring, |writer| async move {
            writer.send(lease(writer.ring(), b"so far so good")).await?;
            let _held = writer.reserve(1000).await?;
            tokio::task::yield_now().await;
            if writer.ring().capacity() > 0 {
                panic!("the producer's own");
            }
            Ok::<_, BodyError>(())
        })
    }
    async fn bytes(ring: BodyRing) -> Bytes {
        lease(ring.ring(), &pattern(50_000))
    }
    let layer = ZeroCopyLayer::new().ring(ring.clone()).budget(Budget::new().chunk(64 << 10));
    Router::new()
        .route("/file", get(file))
        .route("/read", get(read))
        .route("/unknown", get(unknown))
        .route("/broken", get(broken))
        .route("/panicking", get(panicking))
        .route("/bytes", get(bytes))
        .layer(layer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ring_bodies_arrive_whole_with_an_owner_for_every_byte() {
    let ring = ring(4 << 20);
    for path in ["/read", "/file"] {
        let server = serve(ringed(&ring)).await;
        let (head, body) = request(&server, Method::GET, path, "").await;
        assert!(head.contains("content-length: 1048576\r\n"), "{head}");
        assert!(body == pattern(1 << 20), "{path}: {} bytes", body.len());
        assert_eq!(server.accepted.owned(), 1 << 20);
    }
    let server = serve(ringed(&ring)).await;
    let (head, body) = request(&server, Method::GET, "/unknown", "").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(body.len() > 1 << 20 && body.ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(server.accepted.owned(), 1 << 20);
    let server = serve(ringed(&ring)).await;
    let (_, body) = request(&server, Method::GET, "/bytes", "").await;
    assert_eq!((body == pattern(50_000), server.accepted.owned()), (true, 50_000), "a lease is a response by itself");
    all_back(&ring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_answered_and_read_no_more_than_they_need() {
    let ring = ring(4 << 20);
    let server = serve(ringed(&ring)).await;
    let (head, body) = request(&server, Method::GET, "/file", "range: bytes=1000-50999\r\n").await;
    assert!(head.starts_with("http/1.1 206") && head.contains("content-range: bytes 1000-50999/1048576\r\n"), "{head}");
    assert!(body == pattern(1 << 20)[1000..51_000]);
    assert_eq!(server.accepted.owned(), 50_000);
    let (head, body) = request(&server, Method::GET, "/file", "range: bytes=2000000-\r\n").await;
    assert!(head.starts_with("http/1.1 416") && head.contains("content-range: bytes */1048576\r\n"), "{head}");
    assert!(body.is_empty() && server.accepted.owned() == 50_000);
    all_back(&ring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_takes_nothing_from_the_ring() {
    let ring = ring(4 << 20);
    let server = serve(ringed(&ring)).await;
    for path in ["/file", "/read"] {
        let (head, body) = request(&server, Method::HEAD, path, "").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 1048576\r\n"), "{head}");
        assert!(body.is_empty());
    }
    assert_eq!(ring.stats().high_water, 0);
    // The control: GET does.
    request(&server, Method::GET, "/read", "").await;
    assert!(ring.stats().high_water > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_shows_as_such_and_the_server_goes_on() {
    let ring = ring(4 << 20);
    let server = serve(ringed(&ring)).await;
    let (head, body) = request(&server, Method::GET, "/broken", "").await;
    assert!(head.contains("content-length: 1048576\r\n"), "{head}");
    assert!(body.len() <= 100_000 && body == pattern(1 << 20)[..body.len()], "{} bytes", body.len());
    let (head, body) = request(&server, Method::GET, "/panicking", "").await;
    assert!(head.is_empty() || head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(!body.ends_with(b"0\r\n\r\n"), "an end was sent: {body:?}");
    all_back(&ring).await;
    let (_, body) = request(&server, Method::GET, "/read", "").await;
    assert!(body == pattern(1 << 20));
    all_back(&ring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_asks_for_a_ring_that_no_layer_gives_answers_500() {
    async fn wants(ring: BodyRing) -> RingBody {
        RingBody::new(lease(ring.ring(), b"has"))
    }
    async fn may(ring: Option<BodyRing>) -> &'static str {
        if ring.is_some() { "has" } else { "has none" }
    }
    let router = || Router::new().route("/wants", get(wants)).route("/may", get(may));
    let ring = ring(1 << 20);
    let with_ring = ZeroCopyLayer::new().ring(ring);
    for (server, status, body) in [
        (serve(router()).await, "http/1.1 500", "has none"),
        (serve(router().layer(ZeroCopyLayer::new())).await, "http/1.1 500", "has none"),
        (serve(router().layer(with_ring.clone())).await, "http/1.1 200", "has"),
        (serve(with_ring.around(router())).await, "http/1.1 200", "has"),
    ] {
        let (head, _) = request(&server, Method::GET, "/wants", "").await;
        assert!(head.starts_with(status), "{head}");
        assert_eq!(request(&server, Method::GET, "/may", "").await.1, body.as_bytes());
    }
}

/// Clients that ask and never read: each holds its budget and what its connection has in flight, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_clients_hold_no_more_than_their_budgets() {
    const CHUNK: usize = 64 << 10;
    const CLIENTS: usize = 3;
    for (leases, clients_served) in [(2, true), (usize::MAX, false)] {
        let ring = ring(CLIENTS * 2 * CHUNK + CHUNK);
        let layer = ZeroCopyLayer::new().ring(ring.clone()).budget(Budget::new().leases(leases).chunk(CHUNK));
        let router = Router::new().route("/endless", get(endless)).route("/whole", get(whole)).layer(layer);
        let server = serve(router).await;
        let stalled: Vec<_> = (0..CLIENTS).map(|_| stall(server.address)).collect();
        if clients_served {
            for _ in 0..3 {
                assert!(request(&server, Method::GET, "/whole", "").await.1 == pattern(10 * CHUNK));
            }
            assert!(ring.stats().high_water <= ring.capacity());
        } else {
            // The control: without a budget the same clients take the whole ring.
            within(async {
                while ring.stats().leased + ring.stats().granted < ring.capacity() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        drop(stalled);
        all_back(&ring).await;
    }

    async fn endless(ring: BodyRing) -> RingBody {
        RingBody::reader(&ring, tokio::io::repeat(7))
    }
    async fn whole(ring: BodyRing) -> RingBody {
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(10 * CHUNK))])).exactly(10 * CHUNK as u64)
    }
    fn stall(address: SocketAddr) -> std::net::TcpStream {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(b"GET /endless HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
        // The response has begun.
        socket.read_exact(&mut [0; 16]).unwrap();
        socket
    }
}
