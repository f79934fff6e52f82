//! Not one wrong byte: a small ring, a long stream, memory poisoned on release, and a receiver that is late and slow.
//!
//! Each byte depends on its position in the stream, so memory that is written again too early shows, be it as poison or as a
//! byte of a later lap. The controls send the same stream by sinks that release on *accepted*, and must be caught.

mod support;

use std::time::Duration;

use support::{
    PATIENCE,
    pattern::Verdict,
    peer::{Pace, Peer},
    poisoned_ring, send_stream,
};
use zerosink::{SinkStats, prelude::*};

const RING: usize = 256 << 10;
const TOTAL: u64 = if cfg!(debug_assertions) { 64 << 20 } else { 256 << 20 };
/// 4 KiB every 20 ms for more than two laps of the ring, then as fast as it can.
const SLOW: Pace =
    Pace { receive_buffer: Some(64 << 10), gated: false, late: Duration::from_millis(300), slow_reads: 150 };

/// Sends the whole stream, and checks what must hold for every mechanism.
async fn transfer(mechanism: Mechanism) -> SinkStats {
    let peer = Peer::start(SLOW);
    let ring = poisoned_ring(RING);
    let socket = tokio::net::TcpStream::connect(peer.address()).await.unwrap();
    let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
    let done = async {
        send_stream(&mut sink, &ring, TOTAL).await;
        sink.released(TOTAL).await.unwrap();
        drop(ring.reserve(RING).await.unwrap());
    };
    tokio::time::timeout(PATIENCE, done).await.expect("the transfer has stalled");

    assert_eq!(sink.mechanism(), mechanism);
    let position = sink.position();
    assert_eq!((position.accepted, position.flushed, position.released), (TOTAL, TOTAL, TOTAL));
    let stats = sink.stats();
    assert_eq!((stats.pinned_bytes, stats.strays, stats.quarantined_bytes), (0, 0, 0), "{stats:?}");
    drop(sink);
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(TOTAL));
    stats
}

fn copied_everything(stats: &SinkStats) {
    assert_eq!((stats.bytes_copied, stats.bytes_zero_copy, stats.pinned_high_water), (TOTAL, 0, 0), "{stats:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn no_wrong_byte_by_copy_on_a_current_thread_runtime() {
    copied_everything(&transfer(Mechanism::Copy).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wrong_byte_by_copy_on_a_multi_thread_runtime() {
    copied_everything(&tokio::spawn(transfer(Mechanism::Copy)).await.unwrap());
}

#[cfg(zerosink_linux)]
mod zero_copy {
    use super::*;
    use support::raw::HastySink;

    /// That no byte is wrong means something only if memory was really shared, and for a while.
    fn shared_everything(stats: &SinkStats) {
        assert_eq!((stats.bytes_zero_copy, stats.bytes_copied), (TOTAL, 0), "{stats:?}");
        assert_eq!(stats.notified, stats.sends_zero_copy, "{stats:?}");
        assert!(stats.pinned_high_water > RING as u64 / 4, "{stats:?}");
        assert!(stats.pinned_high_water <= RING as u64, "{stats:?}");
        assert!(stats.longest_pin > Duration::from_millis(100), "the slow reader must have held memory: {stats:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_wrong_byte_by_msg_zerocopy_on_a_current_thread_runtime() {
        shared_everything(&transfer(Mechanism::MsgZerocopy).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wrong_byte_by_msg_zerocopy_on_a_multi_thread_runtime() {
        shared_everything(&tokio::spawn(transfer(Mechanism::MsgZerocopy)).await.unwrap());
    }

    #[cfg(zerosink_uring)]
    #[tokio::test(flavor = "current_thread")]
    async fn no_wrong_byte_by_io_uring_on_a_current_thread_runtime() {
        shared_everything(&transfer(Mechanism::IoUring).await);
    }

    #[cfg(zerosink_uring)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wrong_byte_by_io_uring_on_a_multi_thread_runtime() {
        shared_everything(&tokio::spawn(transfer(Mechanism::IoUring)).await.unwrap());
    }

    /// The same ring, stream and receiver; the sink is one that releases on accept.
    fn verdict_on(make: impl FnOnce(std::net::TcpStream) -> std::io::Result<HastySink>) -> Verdict {
        const TOTAL: u64 = 8 << 20;
        let peer = Peer::start(SLOW);
        let ring = poisoned_ring(RING);
        let socket = std::net::TcpStream::connect(peer.address()).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut sink = make(socket).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(send_stream(&mut sink, &ring, TOTAL));
        let verdict = peer.verdict();
        drop((sink, ring));
        assert_eq!(verdict.bytes, TOTAL, "wrong bytes, but none lost: {verdict:?}");
        verdict
    }

    #[test]
    fn control_a_splice_that_releases_on_accept_is_caught() {
        let verdict = verdict_on(HastySink::by_splice);
        assert!(verdict.wrong > 4096, "the verification is blind: {verdict:?}");
    }

    #[test]
    fn control_a_msg_zerocopy_that_releases_on_accept_is_caught() {
        let verdict = verdict_on(HastySink::by_msg_zerocopy);
        assert!(verdict.wrong > 4096, "the verification is blind: {verdict:?}");
    }
}
