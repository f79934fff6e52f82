//! Why a mechanism steps down, where that can be read, and that it comes back.

use std::collections::HashSet;

use bytes::Bytes;
use zerosink::{Path, Refusal, SinkStats};

use super::{
    harness::{self, Peer, Received, connection, runtime, within},
    support::{
        events::Events,
        filled,
        mapped::{Kind, mapped_ring, ring_of_huge_pages},
        pattern::{self, Verdict},
        seccomp,
    },
    wire::network::Network,
    *,
};

const BYTES: usize = 64 << 10;

fn copied_by(stats: &SinkStats, reason: Refusal) -> u64 {
    stats.copied[reason.index()]
}

fn heap(offset: u64, bytes: usize) -> Bytes {
    let mut heap = vec![0; bytes];
    pattern::fill(offset, &mut heap);
    heap.into()
}

#[track_caller]
fn is_exactly(received: &Received, bytes: u64) {
    let mut verdict = Verdict::default();
    verdict.take(&received.bytes);
    assert_eq!(verdict, Verdict::flawless(bytes));
}

/// The kernel says that it copies on delivery: zero-copy is off for a while, and then it is tried again.
#[test]
fn copied_on_delivery_turns_notified_sends_off_and_on_again() {
    if without_network("copied_on_delivery_turns_notified_sends_off_and_on_again") {
        return;
    }
    let network = Network::by_veth().unwrap();
    let (near, far) = network.connection().unwrap();
    let peer = Peer::reading(far);
    peer.start();
    let events = Events::recorded();
    let sent = runtime().block_on(async {
        let mut sink = near.into_sink(SinkConfig::new().copy_threshold(0)).await.unwrap();
        assert_eq!(sink.mechanism(), Mechanism::MsgZerocopy);
        let mut sent = 0;
        let mut send_until = async |done: fn(&SinkStats, SinkStats) -> bool| {
            let before = sink.stats();
            let sending = async {
                while !done(&before, sink.stats()) {
                    sink.send(heap(sent, BYTES)).await.unwrap();
                    sent += BYTES as u64;
                    sink.released(sent).await.unwrap();
                }
            };
            within("that", sending).await;
            (sink.path(), sink.stats())
        };
        // A window of completions is a verdict.
        let (path, off) = send_until(|_, now| now.bytes_copied > 0).await;
        assert_eq!((path, off.notified, off.notified_copied), (Path::SameHost, 16, 16), "{off:?}");
        assert_eq!(copied_by(&off, Refusal::CopiedOnDelivery), off.bytes_copied, "{off:?}");
        for mechanism in [Mechanism::MsgZerocopy, Mechanism::IoUring] {
            let refused = off.refused[mechanism.index()];
            assert!(
                matches!(refused, Some(Refusal::CopiedOnDelivery | Refusal::NotAttached)),
                "{mechanism}: {refused:?}"
            );
        }
        // A second later.
        let (_, on) = send_until(|before, now| now.bytes_zero_copy > before.bytes_zero_copy).await;
        assert!(on.bytes_copied > off.bytes_copied, "{on:?}");
        // And another window says the same.
        let (path, off) = send_until(|before, now| now.bytes_copied > before.bytes_copied).await;
        assert_eq!((path, off.notified, off.notified_copied), (Path::SameHost, 32, 32), "{off:?}");
        assert_eq!(copied_by(&off, Refusal::CopiedOnDelivery), off.bytes_copied, "{off:?}");
        sent
    });
    is_exactly(&peer.finish(), sent);
    let off = ["INFO", "mechanism stepped down", "mechanism=msg-zerocopy", "reason=copied-on-delivery"];
    assert_eq!(events.count(&off), 2, "{:#?}", events.all());
    assert_eq!(events.count(&["DEBUG", "mechanism in use", "mechanism=msg-zerocopy"]), 1, "{:#?}", events.all());
    assert_eq!(events.count(&["DEBUG", "path changed", "path=same-host"]), 1, "{:#?}", events.all());
}

/// Each send of a queue has its own reason.
#[test]
fn every_copied_byte_has_its_reason() {
    const SMALL: usize = 1000;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = Peer::reading(theirs);
    peer.start();
    let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
    let total = runtime().block_on(async {
        let mut sink = ours.into_sink(SinkConfig::new().copy_threshold(SMALL + 1)).await.unwrap();
        let head = heap(0, 10);
        let mut queue = SendQueue::new();
        let mut offset = head.len();
        queue.push_borrowed(&head);
        for (bytes, ours) in [(SMALL, false), (BYTES, true), (BYTES, false)] {
            let at = offset as u64;
            queue.push(if ours { filled(ring.try_reserve(bytes).unwrap(), at, bytes) } else { heap(at, bytes) });
            offset += bytes;
        }
        within("send", sink.send_queue(&mut queue)).await.unwrap();
        let stats = sink.stats();
        let reasons: Vec<_> = stats.copied_by().collect();
        let expected = [(Refusal::Small, SMALL), (Refusal::Borrowed, 10), (Refusal::PeerNotTrusted, BYTES)]
            .map(|(r, b)| (r, b as u64));
        assert_eq!(reasons, expected, "{stats:?}");
        assert_eq!(stats.sent[Mechanism::Splice.index()], BYTES as u64, "{stats:?}");
        offset as u64
    });
    is_exactly(&peer.finish(), total);
}

/// Fresh pages to a peer on this host: a copy is faster than small ones, and no faster than large ones.
#[test]
fn over_loopback_small_fresh_pages_are_copied_and_large_ones_are_not() {
    let config = || SinkConfig::new().copy_threshold(0);
    let small = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
    let large = ring_of_huge_pages(Reuse::FreshPages);
    let mut cases = vec![
        (&small, config(), Err(Refusal::SameHost)),
        (&small, config().path(Path::OffHost), Ok(Mechanism::Splice)),
        (&small, config().mechanism(Mechanism::Gift), Ok(Mechanism::Gift)),
    ];
    match &large {
        Some(large) => cases.push((large, config(), Ok(Mechanism::Splice))),
        None => harness::skip("over_loopback_small_fresh_pages_are_copied_and_large_ones_are_not", "no huge pages"),
    }
    for (ring, config, expected) in cases {
        let (socket, reader) = connection(None);
        let peer = Peer::reading(reader);
        peer.start();
        runtime().block_on(async {
            let mut sink = socket.into_sink(config).await.unwrap();
            let piece = filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES);
            within("send", sink.send(piece)).await.unwrap();
            let stats = sink.stats();
            let sent = match expected {
                Ok(mechanism) => stats.sent[mechanism.index()],
                Err(reason) => copied_by(&stats, reason),
            };
            assert_eq!(sent, BYTES as u64, "{expected:?}: {stats:?}");
        });
        is_exactly(&peer.finish(), BYTES as u64);
    }
}

/// What is sent again and again is replaced once for all of it.
#[test]
fn over_loopback_small_fresh_pages_are_spliced_from_the_second_time_on() {
    let ring = mapped_ring(Kind::Anonymous, 2 * BYTES, Reuse::FreshPages);
    let twice = filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES);
    let once = filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES);
    let received =
        [(&twice, Mechanism::Copy), (&twice, Mechanism::Splice), (&once, Mechanism::Copy)].map(|(piece, expected)| {
            let (socket, reader) = connection(None);
            let peer = Peer::reading(reader);
            peer.start();
            runtime().block_on(async {
                let mut sink = socket.into_sink(SinkConfig::new().copy_threshold(0)).await.unwrap();
                within("send", sink.send(piece.clone())).await.unwrap();
                let stats = sink.stats();
                assert_eq!(stats.sent[expected.index()], BYTES as u64, "{stats:?}");
            });
            peer.finish()
        });
    received.iter().for_each(|received| is_exactly(received, BYTES as u64));
}

/// A filter of system calls, as containers have them.
#[test]
fn what_the_host_forbids_steps_down_and_the_stream_goes_on() {
    // Before the filter, so that only sends meet it.
    drop(zerosink::probe::host());
    let body = || {
        seccomp::deny(libc::SYS_vmsplice, (2, 1)).unwrap();
        let events = Events::recorded();
        let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::reading(theirs);
        peer.start();
        let sent = runtime().block_on(async {
            let mut sink = ours.into_sink(SinkConfig::new().copy_threshold(0)).await.unwrap();
            let (mut sent, mut refused) = (0, HashSet::new());
            for _ in 0..20 {
                let piece = filled(ring.try_reserve(BYTES).unwrap(), sent, BYTES);
                within("send", sink.send(piece)).await.unwrap();
                sent += BYTES as u64;
                let reasons = Mechanism::ALL.into_iter().zip(sink.stats().refused);
                refused.extend(reasons.filter(|(_, reason)| *reason == Some(Refusal::Forbidden)).map(|(m, _)| m));
            }
            let stats = sink.stats();
            assert_eq!((stats.bytes_zero_copy, copied_by(&stats, Refusal::Forbidden)), (0, sent), "{stats:?}");
            // On a slow machine each is tried again before the last send, and is not refused at that moment.
            for mechanism in [Mechanism::Splice, Mechanism::Gift] {
                assert!(refused.contains(&mechanism), "{mechanism}: {stats:?}");
            }
            sent
        });
        is_exactly(&peer.finish(), sent);
        for mechanism in ["mechanism=splice", "mechanism=gift"] {
            let stepped_down = ["INFO", "mechanism stepped down", mechanism, "reason=forbidden"];
            assert!(events.count(&stepped_down) > 0, "{:#?}", events.all());
        }
    };
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|payload| std::panic::resume_unwind(payload));
}
