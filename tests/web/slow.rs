//! Clients that read at 1 Mbit/s, and one that does not read: the deadline is for those who make no progress, not for the slow.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::serve::ListenerExt as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::TcpListener;
use zerosink::body::{BodyRing, Budget};

use crate::{
    client::Client,
    endings::cases,
    harness::{STEP, bounded, until, within},
    secret::{self, Demand, Found, OWNERS},
};

/// 1 Mbit/s, in bytes.
const RATE: usize = 125_000;

/// Without progress. Each response takes several times as long.
const STALL: Duration = Duration::from_secs(1);
const BODY: usize = 448 << 10;

/// Small, at both ends, so that the client's speed is the ring's: what is on its way is in custody.
const BUFFERS: usize = 16 << 10;

fn ask(server: SocketAddr, owner: u8) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(BUFFERS).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    let mut client = Client { stream: io::BufReader::with_capacity(1024, TcpStream::from(socket)) };
    client.write(Demand { owner, start: 0, bytes: BODY, breaks: None }.request());
    assert_eq!(client.head().unwrap().0, 200);
    client
}

/// Reads a whole response, never faster than 1 Mbit/s.
fn read_slowly(server: SocketAddr, owner: u8) -> (Found, Duration) {
    let start = Instant::now();
    let mut client = ask(server, owner);
    let (mut found, mut at) = (Found::default(), 0);
    let mut buffer = [0; 2500];
    while at < BODY {
        let read = client.stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the response ended after {at} bytes");
        found += Found::of(owner, at, &buffer[..read]);
        at += read;
        let due = Duration::from_secs_f64(at as f64 / RATE as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    (found, start.elapsed())
}

/// Reads the head alone, and waits for the server to abort the connection.
fn wait_for_the_end(server: SocketAddr, owner: u8) -> Duration {
    let client = ask(server, owner);
    let start = Instant::now();
    let mut ended = [PollFd::new(client.stream.get_ref(), PollFlags::empty())];
    let patience = Timespec { tv_sec: STEP.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ended, Some(&patience)), Ok(1), "a silent client is never cut off");
    let error = client.stream.get_ref().take_error().unwrap().expect("not a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_finish_and_a_silent_one_is_cut_off() {
    let mut running = Vec::new();
    for (config, ring) in cases() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener =
            listener.tap_io(|socket| socket2::SockRef::from(&*socket).set_send_buffer_size(BUFFERS).unwrap());
        let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().chunk(32 << 10));
        let service = tower::service_fn(move |request| secret::respond(bodies.clone(), request));
        let what = format!("{:?}", config.mechanism);
        let server = tokio::spawn(zerosink::serve(listener, service).sink(config).stall_timeout(STALL).into_future());
        let [slow, other, silent, ..] = OWNERS;
        let slow = [slow, other].map(|owner| tokio::task::spawn_blocking(move || read_slowly(address, owner)));
        let silent = std::thread::spawn(move || wait_for_the_end(address, silent));
        running.push((what, ring, server, slow, silent));
    }
    for (what, ring, server, slow, silent) in running {
        for client in slow {
            let (found, took) = within(&what, client).await.unwrap();
            assert_eq!((found.right, found.wrong()), (BODY as u64, 0), "{what}");
            assert!(took > 3 * STALL, "{what}: {took:?} is not slow");
        }
        let cut = bounded(&what, move || silent.join().unwrap());
        assert!(cut >= STALL / 2 && cut < 4 * STALL, "{what}: cut off after {cut:?}");
        until("every lease to come back", || ring.stats().leased + ring.stats().granted == 0).await;
        server.abort();
    }
}
