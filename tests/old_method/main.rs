//! What is wrong with waiting until the send queue is empty, and that zerosink's default is right in the same place.
//!
//! Each scene is played twice: by the [old method](sender), which must be seen to fail, and by `auto`.
#![cfg(zerosink_linux)]

#[path = "../harness/mod.rs"]
mod harness;
mod sender;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;

use std::{
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sender::{Drain, Look, OldMethod};
use support::{
    pattern::{self, Verdict},
    peer::{Pace, Peer},
    poisoned_ring, send_stream,
};
use wire::{namespace::Namespace, raw_peer::RawPeer, tap::Offloads};
use zerosink::{Path, prelude::*};

const CHUNK: usize = 64 << 10;
const RING: usize = 256 << 10;
const VARIANTS: [(Look, Drain); 4] = [
    (Look::Sleep, Drain::EveryChunk),
    (Look::Sleep, Drain::EveryLap),
    (Look::Spin, Drain::EveryChunk),
    (Look::Spin, Drain::EveryLap),
];

/// Says why there is no network here, if so.
#[track_caller]
fn skipped(test: &str) -> bool {
    let missing = wire::missing();
    missing.inspect(|why| harness::skip(test, why)).is_some()
}

/// A connection over loopback to a reader that reads nothing before its gate opens, and then slowly. Its receive window
/// takes all that these tests send.
fn late_slow_reader() -> (TcpStream, Peer) {
    let namespace = Namespace::create().unwrap();
    namespace.tune_tcp().unwrap();
    namespace.run(|| {
        let reader = Peer::start(Pace { gated: true, slow_reads: 25, ..Pace::default() });
        (TcpStream::connect(reader.address()).unwrap(), reader)
    })
}

/// Everything is acknowledged, and nothing was read: what waits at the reader are the ring's own pages.
#[test]
fn a_late_slow_reader_on_loopback_gets_later_bytes() {
    const TOTAL: u64 = 4 * RING as u64;
    if skipped("a_late_slow_reader_on_loopback_gets_later_bytes") {
        return;
    }
    for (look, drain) in VARIANTS {
        let (socket, reader) = late_slow_reader();
        let mut sender = OldMethod::new(socket, RING, CHUNK, look, drain).unwrap();
        while sender.sent() < TOTAL {
            sender.send(pattern::fill).unwrap();
        }
        sender.drained().unwrap();
        sender.socket().shutdown(Shutdown::Write).unwrap();
        reader.go();
        let verdict = reader.verdict();
        assert_eq!(verdict.bytes, TOTAL);
        // All laps but the last were overwritten.
        assert!(verdict.wrong > TOTAL / 2, "{look:?}, {drain:?}: {verdict:?}");
    }
}

#[test]
fn the_same_reader_gets_the_right_bytes_from_auto() {
    const TOTAL: u64 = 4 * RING as u64;
    if skipped("the_same_reader_gets_the_right_bytes_from_auto") {
        return;
    }
    let (socket, reader) = late_slow_reader();
    harness::runtime().block_on(async {
        let mut sink = ZeroCopySink::auto(socket).await.unwrap();
        let ring = poisoned_ring(RING);
        harness::within("the stream", send_stream(&mut sink, &ring, TOTAL)).await;
        harness::within("release", sink.released(TOTAL)).await.unwrap();
        assert_eq!(ring.stats().leased, 0);
    });
    reader.go();
    assert_eq!(reader.verdict(), Verdict::flawless(TOTAL));
}

/// A connection whose peer takes a few of the bytes that are sent, and stays open until it is given to [`reset`].
fn deaf_peer() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4 << 10).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket2::SockRef::from(&socket).set_send_buffer_size(1 << 20).unwrap();
    (socket, listener.accept().unwrap().0)
}

/// Aborts the connection, and waits until the other end knows.
fn reset(peer: TcpStream, other: &TcpStream) {
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let timeout = Timespec::try_from(harness::STEP).unwrap();
    assert_eq!(poll(&mut [PollFd::new(other, PollFlags::empty())], Some(&timeout)), Ok(1), "POLLHUP comes unasked");
}

/// The kernel has let go of everything; the number that is waited for stays for ever.
#[test]
fn after_a_reset_the_queue_never_drains() {
    const PATIENCE: Duration = Duration::from_millis(500);
    for look in [Look::Sleep, Look::Spin] {
        let (socket, peer) = deaf_peer();
        let mut sender = OldMethod::new(socket, RING, CHUNK, look, Drain::EveryLap).unwrap().patience(PATIENCE);
        sender.send(pattern::fill).unwrap();
        sender.send(pattern::fill).unwrap();
        reset(peer, sender.socket());
        let frozen = wire::unacknowledged(sender.socket()).unwrap();
        let looks = harness::bounded("a watch with a limit", move || sender.watch().unwrap());
        assert!(frozen > 0 && looks.least == frozen, "{look:?}: {frozen}, then {looks:?}");
        assert!(looks.count > 3, "{look:?}: {looks:?}");
    }
}

#[test]
fn after_a_reset_auto_fails_and_gives_everything_back() {
    let (socket, peer) = deaf_peer();
    let other = socket.try_clone().unwrap();
    harness::runtime().block_on(async {
        let mut sink = ZeroCopySink::auto(socket).await.unwrap();
        let ring = poisoned_ring(RING);
        sink.send(support::lease(&ring, 0, CHUNK).await).await.unwrap();
        sink.send(support::lease(&ring, CHUNK as u64, CHUNK).await).await.unwrap();
        reset(peer, &other);
        harness::within("release", sink.released(sink.position().accepted)).await.unwrap();
        assert_eq!(ring.stats().leased, 0);
        let next = sink.send(support::lease(&ring, 0, CHUNK).await);
        harness::within("a send after the reset", next).await.unwrap_err();
    });
}

/// Runs `send` on a thread of its own, and acknowledges `bytes` of its stream unread until it has done what it does when
/// they are acknowledged. Returns what then comes.
fn acknowledged_early(offloads: Offloads, bytes: usize, send: impl FnOnce(TcpStream) + Send) -> Vec<u8> {
    let (socket, mut peer) = RawPeer::connect_by(offloads, 256 << 10).unwrap();
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        scope.spawn(move || {
            // The socket stays open until everything is received.
            let socket_too = socket.try_clone().unwrap();
            send(socket);
            done.send(socket_too).ok();
        });
        peer.wait_unread().unwrap();
        let start = Instant::now();
        let socket = loop {
            peer.acknowledge_unread(bytes).unwrap();
            match is_done.recv_timeout(Duration::from_millis(10)) {
                Ok(socket) => break socket,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    assert!(start.elapsed() < harness::STEP, "no acknowledgement helps")
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the sender failed"),
            }
        };
        let received = peer.receive(bytes).unwrap().to_vec();
        drop(socket);
        received
    })
}

/// What the old method sends and then overwrites, as that peer receives it: how many bytes are of the time after.
fn later_bytes(offloads: Offloads, look: Look) -> usize {
    let received = acknowledged_early(offloads, CHUNK, |socket| {
        let mut sender = OldMethod::new(socket, CHUNK, CHUNK, look, Drain::EveryChunk).unwrap();
        sender.send(pattern::fill).unwrap();
        sender.overwrite(1, pattern::fill);
    });
    let (mut sent, mut later) = (vec![0; CHUNK], vec![0; CHUNK]);
    pattern::fill(0, &mut sent);
    pattern::fill(CHUNK as u64, &mut later);
    received.iter().zip(sent.iter().zip(&later)).filter(|(byte, (sent, later))| byte != sent && byte == later).count()
}

/// Another tenant's bytes, if the buffer has several.
#[test]
fn a_peer_that_acknowledges_early_receives_what_is_written_later() {
    if skipped("a_peer_that_acknowledges_early_receives_what_is_written_later") {
        return;
    }
    for look in [Look::Sleep, Look::Spin] {
        let count = later_bytes(Offloads::Checksums, look);
        // The kernel copies the head of the first packet, and a byte in 256 is the same by chance.
        assert!(count > CHUNK * 9 / 10, "{look:?}: {count} of {CHUNK} bytes are later ones");
    }
}

/// Where the kernel must touch the bytes itself it copies them, and there is nothing to see: the device makes the difference.
#[test]
fn control_without_checksum_offload_the_same_peer_receives_what_was_sent() {
    if skipped("control_without_checksum_offload_the_same_peer_receives_what_was_sent") {
        return;
    }
    assert_eq!(later_bytes(Offloads::None, Look::Spin), 0);
}

/// What the same peer receives of one chunk that a sink with these settings sends, and whose memory is then written again.
fn from_a_sink(config: SinkConfig) -> Vec<u8> {
    let ring = poisoned_ring(CHUNK);
    acknowledged_early(Offloads::Checksums, CHUNK, |socket| {
        harness::runtime().block_on(async {
            let mut sink = socket.into_sink(config).await.unwrap();
            sink.send(support::lease(&ring, 0, CHUNK).await).await.unwrap();
            sink.released(CHUNK as u64).await.unwrap();
            // The whole ring again, which must have come back.
            drop(support::lease(&ring, CHUNK as u64, CHUNK).await);
        });
    })
}

#[test]
fn the_same_peer_receives_from_auto_what_was_sent() {
    if skipped("the_same_peer_receives_from_auto_what_was_sent") {
        return;
    }
    for config in [SinkConfig::new(), SinkConfig::new().mechanism(Mechanism::MsgZerocopy)] {
        let mut sent = vec![0; CHUNK];
        pattern::fill(0, &mut sent);
        assert!(from_a_sink(config) == sent);
    }
}

/// What the documentation of `trust_peer_acks` warns of. No other setting permits it.
#[test]
fn a_word_given_for_that_peer_gives_away_what_is_written_later() {
    if skipped("a_word_given_for_that_peer_gives_away_what_is_written_later") {
        return;
    }
    let config = SinkConfig::new().mechanism(Mechanism::Splice).trust_peer_acks().path(Path::OffHost);
    let mut sent = vec![0; CHUNK];
    pattern::fill(0, &mut sent);
    let received = from_a_sink(config);
    let wrong = received.iter().zip(&sent).filter(|(received, sent)| received != sent).count();
    assert!(wrong > CHUNK * 9 / 10, "{wrong} of {CHUNK} bytes are wrong");
}
