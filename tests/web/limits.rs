//! The knobs of `serve`, and listeners in trouble.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use zerosink::{
    IntoSink, SinkConfig,
    axum::ZeroCopyListenerExt as _,
    hyper::{Accept, ZeroCopyListener},
};

use crate::{
    app::Order,
    client::Client,
    harness::{self, STEP, within},
    server::router,
    support::poisoned_ring,
};

const LIMIT: Duration = Duration::from_millis(200);

/// What a server says to `opening` before it closes the connection.
fn said(address: SocketAddr, opening: &'static [u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    socket.write_all(opening).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_so_long_for_the_head_of_its_request() {
    let slow = || async {
        // Time is the subject: a handler may take longer than the client's head.
        tokio::time::sleep(3 * LIMIT).await;
        "slow"
    };
    let app = Router::new().route("/", get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = zerosink::serve(listener, app).header_read_timeout(LIMIT);
    let server = tokio::spawn(server.into_future());
    let openings: [&[u8]; 5] =
        [b"", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"GET / HT", b"GET / HTTP/1.1\r\nhost: test\r\n"];
    for opening in openings {
        let start = Instant::now();
        within("to be closed", tokio::task::spawn_blocking(move || said(address, opening))).await.unwrap();
        assert!(start.elapsed() >= LIMIT / 2, "{:?} after {:?}", String::from_utf8_lossy(opening), start.elapsed());
    }
    // A request that is shorter than the preface of HTTP/2 is over, and nothing limits the handler.
    let answer = tokio::task::spawn_blocking(move || said(address, b"GET / HTTP/1.0\r\n\r\n"));
    let answer = within("the answer", answer).await.unwrap();
    assert!(answer.ends_with(b"slow"), "{}", String::from_utf8_lossy(&answer));
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_than_permitted_are_served_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let high = Arc::clone(&most);
    let handler = move || {
        let (now, high) = (Arc::clone(&now), Arc::clone(&high));
        async move {
            high.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, SeqCst);
            "done"
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = zerosink::serve(listener, Router::new().route("/", get(handler))).max_connections(2);
    let server = tokio::spawn(server.into_future());
    let clients: Vec<_> =
        (0..8).map(|_| tokio::task::spawn_blocking(move || Client::connect(address).get("/").body)).collect();
    for client in clients {
        assert_eq!(within("a client", client).await.unwrap(), b"done");
    }
    assert_eq!(most.load(SeqCst), 2);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_close_a_client_may_say_no_more_and_still_be_answered() {
    for half_close in [true, false] {
        let (begun, wait_begun) = tokio::sync::mpsc::unbounded_channel::<()>();
        let handler = move || {
            let begun = begun.clone();
            async move {
                begun.send(()).ok();
                // Long enough for the end of file to be seen meanwhile.
                tokio::time::sleep(LIMIT).await;
                "answered"
            }
        };
        let mut wait_begun = wait_begun;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = zerosink::serve(listener, Router::new().route("/", get(handler))).half_close(half_close);
        let server = tokio::spawn(server.into_future());
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(STEP)).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        within("the handler", wait_begun.recv()).await.unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            socket.read_to_string(&mut answer).map(|_| answer).unwrap_or_default()
        });
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.ends_with("answered"), half_close, "{answer}");
        server.abort();
    }
}

/// The most that a client gets without reading: what is in the two sockets and, beyond the low-water mark, nothing.
#[cfg(zerosink_linux)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_low_water_mark_bounds_what_a_silent_client_holds() {
    let held = async |config: SinkConfig| {
        let (near, _far) = harness::connection(None);
        let mut sink = near.into_sink(config).await.unwrap();
        let mut queue = zerosink::SendQueue::from(vec![0; 64 << 20]);
        // The kernel moves what it has meanwhile; that a client is silent shows in nothing else.
        let offer = zerosink::ZeroCopySinkExt::send_queue(&mut sink, &mut queue);
        let full = tokio::time::timeout(LIMIT, offer).await;
        assert!(full.is_err(), "64 MiB fit into a socket");
        zerosink::ZeroCopySink::position(&sink).accepted
    };
    let without = held(SinkConfig::new()).await;
    let with = held(SinkConfig::new().notsent_low_water(64 << 10)).await;
    assert!(with < without, "{with} bytes with, {without} without");
}

/// What a client that does not read has of the ring, and the counters of its sink.
#[cfg(zerosink_linux)]
async fn pinned_by_a_silent_client(ring: &zerosink::Ring) -> (usize, zerosink::SinkStats) {
    let (near, _far) = harness::connection(None);
    let config = SinkConfig::new().mechanism(zerosink::Mechanism::MsgZerocopy);
    let mut sink = near.into_sink(config).await.unwrap();
    // As much as fits into the socket whoever copies it: no send waits.
    for piece in 0..16 {
        let Ok(grant) = ring.try_reserve(64 << 10) else { break };
        let lease = crate::support::filled(grant, piece, 64 << 10);
        within("a send", zerosink::ZeroCopySinkExt::send(&mut sink, lease)).await.unwrap();
    }
    (ring.stats().leased, zerosink::ZeroCopySink::stats(&sink))
}

#[cfg(zerosink_linux)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_low_water_mark_a_ring_is_copied_and_comes_back() {
    use zerosink::Refusal;

    let ring = |mark| zerosink::Ring::builder().capacity(1 << 20).low_water(mark).build().unwrap();
    let (without, with) = (ring(0), ring(640 << 10));
    assert_eq!((without.low_water(), with.low_water()), (0, 640 << 10));
    let (held, stats) = pinned_by_a_silent_client(&without).await;
    assert_eq!((held, stats.copied[Refusal::RingLow.index()]), (1 << 20, 0), "control: {stats:?}");
    let (held, stats) = pinned_by_a_silent_client(&with).await;
    // The sixth leaves as much as the mark says, the next one less.
    assert_eq!(held, 384 << 10, "{stats:?}");
    assert_eq!(stats.copied[Refusal::RingLow.index()], 640 << 10, "{stats:?}");
    assert_eq!(stats.refused[zerosink::Mechanism::MsgZerocopy.index()], Some(Refusal::RingLow));
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, SeqCst);
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_ring_that_stalled_clients_could_take_is_warned_of() {
    for (clients, warned) in [(3, 0), (4, 1)] {
        let warnings = Warnings::default();
        let guard = tracing::subscriber::set_default(warnings.clone());
        let ring = poisoned_ring(1 << 20);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        zerosink::serve(listener, router(ring.clone()))
            .withstand(clients, &ring, 128 << 10)
            .sink(SinkConfig::new().max_pinned_bytes(128 << 10))
            .with_graceful_shutdown(std::future::ready(()))
            .await
            .unwrap();
        drop(guard);
        assert_eq!(warnings.0.load(SeqCst), warned, "{clients} clients");
    }
}

/// Fails as it is told, then accepts.
struct InTrouble {
    listener: TcpListener,
    errors: VecDeque<i32>,
    sinks_fail: usize,
}

/// A connection of which no sink can be made, or one can.
enum Troubled {
    Bad,
    Good(tokio::net::TcpStream),
}

enum ByTrouble {}

impl IntoSink<ByTrouble> for Troubled {
    type Sink = zerosink::AutoSink;

    async fn into_sink(self, config: SinkConfig) -> io::Result<zerosink::AutoSink> {
        match self {
            Self::Bad => Err(io::ErrorKind::Unsupported.into()),
            Self::Good(socket) => socket.into_sink(config).await,
        }
    }
}

impl Accept for InTrouble {
    type Socket = Troubled;
    type Address = SocketAddr;

    async fn accept(&mut self) -> io::Result<(Troubled, SocketAddr)> {
        if let Some(errno) = self.errors.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let (socket, peer) = self.listener.accept().await?;
        if self.sinks_fail > 0 {
            self.sinks_fail -= 1;
            return Ok((Troubled::Bad, peer));
        }
        Ok((Troubled::Good(socket), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn in_trouble() -> (InTrouble, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    const EMFILE: i32 = 24;
    const ECONNABORTED: i32 = 103;
    let errors = VecDeque::from([ECONNABORTED, EMFILE, EMFILE, ECONNABORTED]);
    (InTrouble { listener, errors, sinks_fail: 2 }, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_accept_errors_nor_sinks_that_cannot_be_made_end_a_server() {
    for by_axum in [true, false] {
        let (listener, address) = in_trouble().await;
        let app = router(poisoned_ring(1 << 20));
        let server = tokio::spawn(async move {
            if by_axum {
                axum::serve(listener.zero_copy(SinkConfig::new()), app).await
            } else {
                zerosink::serve(listener, app).await
            }
        });
        let client = tokio::task::spawn_blocking(move || {
            let order = Order::of(10_000);
            for _ in 0..2 {
                assert_eq!(said(address, b""), b"", "no sink can be made of this one");
            }
            order.check(&Client::connect(address).get(&order.path()).body);
        });
        within("the client", client).await.unwrap();
        server.abort();
    }
}

#[tokio::test]
async fn a_listener_without_descriptors_pauses() {
    let (trouble, address) = in_trouble().await;
    let mut listener = ZeroCopyListener::new(trouble, SinkConfig::new());
    let clients = std::thread::spawn(move || (0..3).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>());
    let start = Instant::now();
    let (_stream, _peer) = within("the listener", listener.accept()).await;
    assert!(start.elapsed() >= Duration::from_millis(30), "10 and 20 ms: {:?}", start.elapsed());
    drop(harness::bounded("the clients", move || clients.join().unwrap()));
}
