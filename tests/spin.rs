//! A full socket with completions arriving costs nothing: no spin, and everybody else is on time.
//!
//! A completion raises `EPOLLERR`, which tokio takes for "write closed" and never forgets. The control shows what that does.
#![cfg(zerosink_linux)]

mod support;

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use support::raw;
use tokio::{io::Interest, net::TcpStream};
use zerosink::{SinkStats, prelude::*};

/// Notifications of consecutive sends are coalesced up to 512 KiB (`msg_zerocopy_realloc` in `net/core/skbuff.c`): no two of
/// these are.
const CHUNK: usize = 264 << 10;
/// Much more than a chunk, so that sends complete while the socket stays full. The host may permit less.
const SEND_BUFFER: usize = 4 << 20;

/// Reads a little every 2 ms until it is dropped: the socket stays full, and completions arrive all the time.
///
/// A full socket becomes writable when a third of it is free. The pace makes that happen a dozen times per second; with the
/// largest send buffer there are ten completions to each.
struct Trickle {
    address: SocketAddr,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    fn start() -> Self {
        let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        probe.set_send_buffer_size(SEND_BUFFER).unwrap();
        let portion = probe.send_buffer_size().unwrap() * 4 / 500;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(128 << 10).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut buffer = vec![0; portion];
            while stopped.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Timeout) {
                if matches!(socket.read(&mut buffer), Ok(0) | Err(_)) {
                    break;
                }
            }
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    async fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).await.unwrap();
        socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER).unwrap();
        socket
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Processor time of this thread, on which the whole current-thread runtime runs.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The worst lateness of a 10 ms timer on this runtime within `window`.
async fn lateness(window: Duration) -> Duration {
    let end = Instant::now() + window;
    let mut worst = Duration::ZERO;
    while Instant::now() < end {
        let due = tokio::time::Instant::now() + Duration::from_millis(10);
        tokio::time::sleep_until(due).await;
        worst = worst.max(due.elapsed());
    }
    worst
}

/// Keeps the socket full for a second, and returns the counters before and after that.
async fn keep_full(mut sink: AutoSink) -> (SinkStats, SinkStats) {
    const WINDOW: Duration = Duration::from_secs(1);
    let chunk = Bytes::from(vec![7; CHUNK]);

    // Fills the socket.
    tokio::time::timeout(Duration::from_millis(100), async {
        loop {
            sink.send(chunk.clone()).await.unwrap();
        }
    })
    .await
    .unwrap_err();
    let before = sink.stats();
    assert!(before.would_block > 0, "the socket is full: {before:?}");
    let processor = processor_time();
    // A task of its own: in one task with the sender, each tick of the timer would poll the sink too.
    let timer = tokio::spawn(lateness(WINDOW));
    let sending = async {
        loop {
            sink.send(chunk.clone()).await.unwrap();
        }
    };
    tokio::time::timeout(WINDOW, sending).await.unwrap_err();
    let worst = timer.await.unwrap();
    let processor = processor_time() - processor;
    let after = sink.stats();

    let would_block = after.would_block - before.would_block;
    eprintln!("{would_block} would-block, processor {processor:?}, timer late by {worst:?}");
    assert!(would_block < 50, "{after:?}");
    assert!(processor < WINDOW * 3 / 10, "{processor:?} of processor time in {WINDOW:?}");
    assert!(worst < Duration::from_millis(100), "a 10 ms timer was {worst:?} late");
    (before, after)
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_socket_with_completions_neither_spins_nor_delays_others() {
    let trickle = Trickle::start();
    let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy);
    let (before, after) = keep_full(trickle.connect().await.into_sink(config).await.unwrap()).await;
    let completions = after.notified - before.notified;
    eprintln!("{completions} completions");
    assert_eq!(after.bytes_copied, 0, "{after:?}");
    assert!(completions >= 5, "completions arrived on the full socket: {after:?}");
}

/// Room is what tokio says as long as a sink copies. What else the user has asked of the socket comes as the same event.
#[tokio::test(flavor = "current_thread")]
async fn a_full_socket_whose_error_queue_is_in_use_neither_spins_nor_delays_others() {
    let trickle = Trickle::start();
    let socket = trickle.connect().await;
    raw::ask_for_time_stamps(&socket).unwrap();
    let config = SinkConfig::new().mechanism(Mechanism::Copy);
    let (before, after) = keep_full(socket.into_sink(config).await.unwrap()).await;
    assert!(after.bytes_copied > before.bytes_copied, "room was noticed: {after:?}");
}

/// The same socket and receiver, driven as tokio's documentation says.
#[tokio::test(flavor = "current_thread")]
async fn control_a_plain_tokio_socket_spins() {
    const WINDOW: Duration = Duration::from_millis(500);
    let trickle = Trickle::start();
    let socket = trickle.connect().await;
    raw::set_zerocopy(&socket).unwrap();
    let chunk = vec![7; CHUNK];
    let mut full = 0;
    let end = Instant::now() + WINDOW;
    // It looks at the clock itself: a timer of this runtime would never be polled, `writable` is ready each time.
    while Instant::now() < end {
        // If tokio waits as it should, this is the end of the control, and `full` tells.
        let Ok(writable) = tokio::time::timeout(WINDOW, socket.writable()).await else { break };
        writable.unwrap();
        match socket.try_io(Interest::WRITABLE, || raw::send_zerocopy(&socket, &chunk)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                raw::drain_error_queue(&socket);
                full += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("control: {full} wake-ups on a full socket in {WINDOW:?}");
    assert!(full > 1000, "only {full} wake-ups: tokio does not spin any more, so the inner epoll may be unnecessary");
}
