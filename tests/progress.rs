//! A ring is never stuck because of somebody who does nothing: the driver releases memory, not the connection's own poll, and
//! a lease that is held blocks only its own bytes.
#![cfg(zerosink_linux)]

mod support;

use std::{net::TcpStream, time::Duration};

use bytes::Bytes;
use support::{
    PATIENCE, filled, lease,
    pattern::Verdict,
    peer::{Pace, Peer},
    poisoned_ring, raw, send_stream,
};
use tokio::time::timeout;
use zerosink::{prelude::*, ring::RingError};

const RING: usize = 128 << 10;
const PIECE: usize = 16 << 10;
/// Reads nothing until it is told to, and has room for next to nothing: the ring's memory waits at the sender.
const SILENT: Pace = Pace { receive_buffer: Some(8 << 10), gated: true, late: Duration::ZERO, slow_reads: 0 };

fn connect(peer: &Peer) -> TcpStream {
    let socket = TcpStream::connect(peer.address()).unwrap();
    socket2::SockRef::from(&socket).set_send_buffer_size(4 * RING).unwrap();
    socket
}

/// Every byte of the ring as leases, in the order of the stream.
fn leases(ring: &Ring) -> Vec<Bytes> {
    (0..RING / PIECE).map(|i| filled(ring.try_reserve(PIECE).unwrap(), (i * PIECE) as u64, PIECE)).collect()
}

fn is_full(ring: &Ring) -> bool {
    matches!(ring.try_reserve(PIECE), Err(RingError::Full { .. }))
}

#[tokio::test(flavor = "current_thread")]
async fn a_ring_full_of_a_connection_that_nobody_polls_makes_progress() {
    let peer = Peer::start(SILENT);
    let ring = poisoned_ring(RING);
    let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy);
    let mut sink = connect(&peer).into_sink(config).await.unwrap();
    for lease in leases(&ring) {
        timeout(PATIENCE, sink.send(lease)).await.expect("the socket has room for the ring").unwrap();
    }
    // From here on nobody polls the sink.
    assert_eq!(sink.stats().bytes_zero_copy, RING as u64, "{:?}", sink.stats());
    assert!(is_full(&ring), "{ring:?}");
    {
        let mut reserve = std::pin::pin!(ring.reserve(RING));
        let early = timeout(Duration::from_millis(50), &mut reserve).await;
        assert!(early.is_err(), "the peer has read nothing, so the ring is full: {ring:?}");
        peer.go();
        let grant = timeout(PATIENCE, reserve).await.expect("nobody reaps: the ring is stuck").unwrap();
        drop(grant);
    }
    let stats = sink.stats();
    assert_eq!((stats.pinned_bytes, stats.strays), (0, 0), "{stats:?}");
    drop(sink);
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(RING as u64));
}

/// Custody that only the connection's own poll reaps, and nobody polls: the peer has everything, and the ring stays full.
#[tokio::test(flavor = "current_thread")]
async fn control_without_a_driver_the_ring_is_stuck() {
    let peer = Peer::start(SILENT);
    let ring = poisoned_ring(RING);
    let socket = connect(&peer);
    raw::set_zerocopy(&socket).unwrap();
    let mut custody = leases(&ring);
    for lease in &custody {
        assert_eq!(raw::send_zerocopy(&socket, lease).unwrap(), PIECE);
    }
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    peer.go();
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(RING as u64));
    let mut reserve = std::pin::pin!(ring.reserve(RING));
    assert!(timeout(Duration::from_millis(300), &mut reserve).await.is_err(), "who released it? {ring:?}");
    // The poll that nobody made.
    assert!(raw::drain_error_queue(&socket) > 0);
    custody.clear();
    drop(timeout(PATIENCE, reserve).await.unwrap().unwrap());
}

#[tokio::test(flavor = "current_thread")]
async fn a_lease_held_for_ever_blocks_only_its_own_bytes() {
    const TOTAL: u64 = 8 << 20;
    let peer = Peer::start(Pace::default());
    let ring = poisoned_ring(RING);
    // In the middle of the ring, so that it must be skipped on every lap.
    let first = lease(&ring, 0, PIECE).await;
    let held = lease(&ring, 1 << 40, PIECE).await;
    drop(first);
    let before = held.to_vec();
    let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy);
    let mut sink = connect(&peer).into_sink(config).await.unwrap();
    timeout(PATIENCE, send_stream(&mut sink, &ring, TOTAL)).await.expect("the held lease blocks the ring");
    timeout(PATIENCE, sink.released(TOTAL)).await.unwrap().unwrap();
    drop(sink);
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(TOTAL));
    assert!(held == before, "nobody wrote into the held lease");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stalled_connection_holds_its_leases_and_the_rest_of_the_ring_goes_on() {
    const TOTAL: u64 = 8 << 20;
    let (silent, lively) = (Peer::start(SILENT), Peer::start(Pace::default()));
    let ring = poisoned_ring(2 * RING);
    let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy);
    let mut stalled = connect(&silent).into_sink(config.clone()).await.unwrap();
    for lease in leases(&ring) {
        timeout(PATIENCE, stalled.send(lease)).await.expect("the socket has room").unwrap();
    }
    let mut sink = connect(&lively).into_sink(config).await.unwrap();
    timeout(PATIENCE, send_stream(&mut sink, &ring, TOTAL)).await.expect("the stalled connection blocks the ring");
    timeout(PATIENCE, sink.released(TOTAL)).await.unwrap().unwrap();
    assert!(stalled.stats().pinned_bytes > 0, "it has been stalled all the time: {:?}", stalled.stats());
    silent.go();
    timeout(PATIENCE, stalled.released(RING as u64)).await.unwrap().unwrap();
    drop((stalled, sink));
    let verdicts = tokio::task::spawn_blocking(|| (silent.verdict(), lively.verdict())).await.unwrap();
    assert_eq!(verdicts, (Verdict::flawless(RING as u64), Verdict::flawless(TOTAL)));
}
