//! The kernel, or the budget, has no room: the stream goes on by copy, with the reason in the statistics.
#![cfg(all(target_os = "linux", not(zerosink_portable)))]

mod harness;

use std::os::unix::process::CommandExt as _;

use bytes::Bytes;
use harness::{
    Peer, SMALL, Tally, connection, cut_after, run_child, run_in_network_namespace, runtime, stream, within,
};
use zerosink::{Refusal, SinkStats, prelude::*};

const TOTAL: usize = 1 << 20;
const PIECE: usize = 16 << 10;

fn copied_by(stats: &SinkStats, reason: Refusal) -> u64 {
    stats.copied_by().find(|(why, _)| *why == reason).map_or(0, |(_, bytes)| bytes)
}

/// One send per piece, to a peer that begins to read when the socket is full. Returns the statistics at the end.
fn send_piece_by_piece(config: SinkConfig, buffers: Option<usize>) -> SinkStats {
    let (socket, reader) = connection(buffers);
    let (tally, peer) = (Tally::default(), Peer::reading(reader));
    let stats = runtime().block_on(async {
        let mut sink = socket.into_sink(config).await.unwrap();
        for start in (0..TOTAL).step_by(PIECE) {
            let piece = tally.lend(stream(start as u64, PIECE));
            let sent = cut_after(usize::MAX, || peer.start(), sink.send(piece));
            within("send", sent).await.unwrap().unwrap();
        }
        peer.start();
        within("release", sink.released(TOTAL as u64)).await.unwrap();
        assert_eq!(tally.out(), 0);
        sink.stats()
    });
    peer.finish().is_exactly(TOTAL);
    assert_eq!((stats.bytes_zero_copy + stats.bytes_copied, stats.pinned_bytes, stats.strays), (TOTAL as u64, 0, 0));
    stats
}

fn forced() -> SinkConfig {
    SinkConfig::new().mechanism(Mechanism::MsgZerocopy)
}

fn falls_back_for_want_of_buffers() -> SinkStats {
    let stats = send_piece_by_piece(forced(), None);
    assert!(stats.no_buffers > 0 && copied_by(&stats, Refusal::NoBuffers) > 0, "{stats:?}");
    stats
}

/// When there is room again, zero-copy comes back: off for a while is not off for ever.
fn zero_copy_comes_back(make_room: impl FnOnce()) {
    let (socket, reader) = connection(None);
    let peer = Peer::reading(reader);
    let sent = runtime().block_on(async {
        let mut sink = socket.into_sink(forced()).await.unwrap();
        let mut sent = 0;
        let mut last_zero_copy = 0;
        while copied_by(&sink.stats(), Refusal::NoBuffers) == 0 {
            last_zero_copy = sink.stats().bytes_zero_copy;
            let piece = Bytes::from(stream(sent, PIECE));
            within("send", cut_after(usize::MAX, || peer.start(), sink.send(piece))).await.unwrap().unwrap();
            sent += PIECE as u64;
        }
        // Releases what is pinned, too.
        peer.start();
        make_room();
        let back = async {
            while sink.stats().bytes_zero_copy == last_zero_copy {
                sink.send(Bytes::from(stream(sent, 4096))).await.unwrap();
                sent += 4096;
                sink.released(sent).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        within("zero-copy", back).await;
        sent
    });
    peer.finish().is_exactly(sent as usize);
}

#[test]
fn without_lockable_memory_the_stream_goes_on_by_copy() {
    let name = "without_lockable_memory_the_stream_goes_on_by_copy";
    if !harness::is_child() {
        if !rustix::process::geteuid().is_root() {
            return harness::skip(name, "it needs root, to become a user without privileges");
        }
        // By way of /proc, for that user may not be permitted to walk the path to this binary.
        let mut command = std::process::Command::new("/proc/self/exe");
        command.uid(65534).gid(65534).current_dir("/");
        return run_child(command, name);
    }
    let limit = rustix::process::Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).unwrap();
    let stats = falls_back_for_want_of_buffers();
    assert!(stats.bytes_zero_copy > 0, "there is room for a little: {stats:?}");
    zero_copy_comes_back(|| {});
}

#[test]
fn without_option_memory_the_stream_goes_on_by_copy() {
    let name = "without_option_memory_the_stream_goes_on_by_copy";
    if !harness::is_child() {
        return run_in_network_namespace(name);
    }
    let knob = "/proc/sys/net/core/optmem_max";
    if !std::path::Path::new(knob).exists() {
        return harness::skip(name, "this kernel has no optmem_max per network namespace");
    }
    let usual = std::fs::read(knob).unwrap();
    // Not enough for one notification. (Sends that wait in one packet share theirs, so a little would be enough for many.)
    std::fs::write(knob, "1").unwrap();
    let stats = falls_back_for_want_of_buffers();
    assert_eq!((stats.bytes_zero_copy, copied_by(&stats, Refusal::NoBuffers)), (0, TOTAL as u64), "{stats:?}");
    zero_copy_comes_back(|| std::fs::write(knob, usual).unwrap());
}

/// Negative control: with room, nothing is copied for want of it.
#[test]
fn control_with_room_nothing_is_copied() {
    let stats = send_piece_by_piece(forced().max_pinned_bytes(u64::MAX), SMALL);
    assert_eq!(
        (copied_by(&stats, Refusal::PinnedBudget), stats.no_buffers, stats.bytes_copied),
        (0, 0, 0),
        "{stats:?}"
    );
    assert!(stats.pinned_high_water > PIECE as u64);
}

#[test]
fn what_does_not_fit_into_the_pinned_budget_is_copied() {
    let budget = PIECE as u64;
    let stats = send_piece_by_piece(forced().max_pinned_bytes(budget), SMALL);
    assert!(copied_by(&stats, Refusal::PinnedBudget) > 0 && stats.bytes_zero_copy > 0, "{stats:?}");
    assert!(stats.pinned_high_water <= budget, "{stats:?}");
}

/// On loopback the kernel lets go when it delivers, which may be before the call returns: then there is room for the next.
#[test]
fn what_is_released_makes_room_in_the_budget_though_the_sender_never_waits() {
    let (socket, reader) = connection(None);
    let bytes = 4 * PIECE as u64;
    let stats = runtime().block_on(async {
        let mut sink = socket.into_sink(forced().max_pinned_bytes(PIECE as u64)).await.unwrap();
        for start in (0..bytes).step_by(PIECE) {
            // Not a turn for the driver: the socket has room for all of it.
            let sent = cut_after(1, || {}, sink.send(Bytes::from(stream(start, PIECE)))).await;
            sent.expect("room in the socket").unwrap();
        }
        sink.stats()
    });
    let peer = Peer::reading(reader);
    peer.start();
    peer.finish().is_exactly(bytes as usize);
    // How many of them the peer's window lets through at once is the kernel's affair.
    assert!(stats.bytes_zero_copy > PIECE as u64, "{stats:?}");
}

#[test]
fn a_budget_smaller_than_any_send_copies_all() {
    for budget in [0, PIECE as u64 - 1] {
        let stats = send_piece_by_piece(forced().max_pinned_bytes(budget), SMALL);
        // The last rest of a piece may fit.
        assert!(copied_by(&stats, Refusal::PinnedBudget) > TOTAL as u64 / 2, "{stats:?}");
        assert!(stats.pinned_high_water <= budget, "{stats:?}");
    }
}
