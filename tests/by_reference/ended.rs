//! Connections that end with memory in flight that only the peer could have released: it is abandoned, which is to say replaced
//! or put into quarantine, and never read again as something else.

use std::{
    io::{ErrorKind, Read as _},
    thread,
    time::Duration,
};

use bytes::Bytes;
use zerosink::{Path, SendError, ring::RingStats};

use super::{
    harness::{STEP, Tally, read_all},
    support::{
        POISON, filled,
        mapped::{Kind, mapped_ring},
        pattern,
        raw::HastySink,
    },
    wire::raw_peer::RawPeer,
    *,
};

const CHUNK: usize = 64 << 10;
/// What leaves before anything is acknowledged: ten segments.
const FIRST: usize = 10 * RawPeer::SEGMENT;
const SOON: Duration = Duration::from_millis(300);

fn trusting() -> SinkConfig {
    by(Mechanism::Splice).trust_peer_acks().path(Path::OffHost)
}

fn stream(bytes: usize) -> Vec<u8> {
    let mut stream = vec![0; bytes];
    pattern::fill(0, &mut stream);
    stream
}

/// How the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the peer.
    Reset,
    /// By the deadline, because the peer says nothing.
    Revoked,
}

/// Where the packets are when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// In the device.
    Device,
    /// In a queueing discipline that lets hardly any through.
    Discipline,
}

impl Wait {
    fn begin(self, peer: &RawPeer) {
        if self == Self::Discipline {
            let device = RawPeer::DEVICE;
            let slow = format!("qdisc add dev {device} root tbf rate 1kbit burst 3000 limit 10000000");
            peer.namespace().tc(&slow).expect("this kernel has the token bucket filter");
        }
    }

    fn end(self, peer: &RawPeer) {
        if self == Self::Discipline {
            let device = RawPeer::DEVICE;
            let fast = format!("qdisc change dev {device} root tbf rate 1gbit burst 100000 limit 10000000");
            peer.namespace().tc(&fast).unwrap();
        }
    }
}

/// Sends a piece in place, ends the connection, and writes all over the ring as soon as there is space. Then the packets arrive
/// that were on their way. The sink's and the ring's statistics when the piece was abandoned.
fn ended(end: End, wait: Wait, piece: Bytes, ring: &Ring) -> (SinkStats, RingStats) {
    let bytes = piece.len() as u64;
    let (socket, mut peer) = RawPeer::connect(256 << 10).unwrap();
    wait.begin(&peer);
    let stats = harness::runtime().block_on(async {
        let config = if end == End::Revoked { trusting().release_timeout(SOON) } else { trusting() };
        let mut sink = socket.into_sink(config).await.unwrap();
        harness::within("send", sink.send(piece)).await.unwrap();
        peer.wait_unread().unwrap();
        if end == End::Reset {
            peer.reset().unwrap();
        }
        let error = harness::within("release", sink.released(bytes)).await.unwrap_err();
        assert_eq!(error.quarantined, bytes, "{error}");
        assert_eq!(sink.position().released, 0, "the peer has said nothing");
        let error = harness::within("send", sink.send(Bytes::from_static(b"more"))).await.unwrap_err();
        is_over(&error, end);
        sink.stats()
    });
    assert_eq!((stats.abandoned_bytes, stats.pinned_bytes, stats.strays), (bytes, 0, 0), "{stats:?}");
    let in_ring = ring.stats();
    overwrite(ring);
    wait.end(&peer);
    assert!(peer.receive(FIRST).unwrap()[..FIRST] == stream(FIRST), "{end:?} {wait:?}: later bytes arrived");
    (stats, in_ring)
}

/// Writes over everything that the ring still gives.
fn overwrite(ring: &Ring) {
    let mut taken = Vec::new();
    while let Ok(mut grant) = ring.try_reserve(4096) {
        grant.as_mut_slice().fill(POISON);
        taken.push(grant);
    }
}

#[track_caller]
fn is_over(error: &SendError, end: End) {
    let kinds: &[_] = match end {
        End::Reset => &[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe],
        End::Revoked => &[ErrorKind::TimedOut],
    };
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

const ENDS: [(End, Wait); 4] = [
    (End::Reset, Wait::Device),
    (End::Reset, Wait::Discipline),
    (End::Revoked, Wait::Device),
    (End::Revoked, Wait::Discipline),
];

#[test]
fn whole_units_are_replaced_and_what_is_still_on_its_way_stays_as_it_was() {
    if without_network("whole_units_are_replaced_and_what_is_still_on_its_way_stays_as_it_was") {
        return;
    }
    thread::scope(|scope| {
        for ((end, wait), kind) in ENDS.into_iter().zip([Kind::Anonymous, Kind::Memfd].into_iter().cycle()) {
            scope.spawn(move || {
                let ring = mapped_ring(kind, CHUNK, Reuse::InPlace);
                let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
                let (_, ring) = ended(end, wait, piece, &ring);
                assert_eq!((ring.free, ring.quarantined), (CHUNK, 0), "{end:?} {wait:?}: {ring:?}");
            });
        }
    });
}

#[test]
fn parts_of_units_and_heap_are_quarantined() {
    if without_network("parts_of_units_and_heap_are_quarantined") {
        return;
    }
    thread::scope(|scope| {
        for ((end, wait), heap) in ENDS.into_iter().zip([false, true].into_iter().cycle()) {
            scope.spawn(move || {
                let builder = Ring::builder().capacity(2 * CHUNK).poison(POISON);
                let ring = if heap {
                    builder.build()
                } else {
                    builder.reuse(Reuse::InPlace).build_on(Kind::Anonymous.map(2 * CHUNK))
                };
                let ring = ring.unwrap();
                // No whole page begins here.
                drop(filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK));
                let first = ring.try_reserve(1000).unwrap();
                let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
                drop(first);
                let (_, stats) = ended(end, wait, piece, &ring);
                assert_eq!((stats.free, stats.quarantined), (CHUNK, CHUNK), "{end:?} {wait:?}: {stats:?}");
                assert!(ring.try_reserve(2 * CHUNK).is_err());
            });
        }
    });
}

/// The allocator would give it to somebody else.
#[test]
fn memory_that_no_ring_owns_is_kept_for_ever() {
    if without_network("memory_that_no_ring_owns_is_kept_for_ever") {
        return;
    }
    let (tally, nothing) = (Tally::default(), Ring::builder().capacity(4096).build().unwrap());
    let piece = tally.lend(stream(CHUNK));
    ended(End::Reset, Wait::Device, piece, &nothing);
    assert_eq!(tally.out(), 1, "it was given back");
}

/// The same packets of a sender that takes the end of a connection for a release.
#[test]
fn control_after_a_reset_later_bytes_leave_if_memory_is_reused() {
    if without_network("control_after_a_reset_later_bytes_leave_if_memory_is_reused") {
        return;
    }
    for wait in [Wait::Device, Wait::Discipline] {
        let ring = mapped_ring(Kind::Anonymous, CHUNK, Reuse::InPlace);
        let (socket, mut peer) = RawPeer::connect(256 << 10).unwrap();
        wait.begin(&peer);
        let mut sink = HastySink::by_splice(socket).unwrap();
        let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
        harness::runtime().block_on(sink.send(piece.clone())).unwrap();
        peer.wait_unread().unwrap();
        peer.reset().unwrap();
        drop(sink);
        drop(piece);
        // The ring has poisoned it.
        wait.end(&peer);
        let received = peer.receive(FIRST).unwrap();
        let wrong = received.iter().zip(stream(FIRST)).filter(|(received, sent)| **received != *sent).count();
        assert!(wrong > FIRST / 2, "{wait:?}: only {wrong} bytes of {FIRST} are later ones");
    }
}

#[test]
fn an_af_unix_peer_that_dies_has_released_everything() {
    for kind in [Kind::Anonymous, Kind::Memfd] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ring = mapped_ring(kind, CHUNK, Reuse::InPlace);
        harness::runtime().block_on(async {
            let mut sink = ours.into_sink(by(Mechanism::Splice).peer_copies()).await.unwrap();
            let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
            harness::within("send", sink.send(piece)).await.unwrap();
            assert_eq!(sink.stats().pinned_bytes, CHUNK as u64);
            drop(theirs);
            harness::within("release", sink.released(CHUNK as u64)).await.unwrap();
            assert_eq!(sink.stats().abandoned_bytes, 0, "{:?}", sink.stats());
            let error = harness::within("send", sink.send(Bytes::from_static(b"more"))).await.unwrap_err();
            is_over(&error, End::Reset);
        });
        assert_eq!(ring.stats().free, CHUNK, "{:?}", ring.stats());
    }
}

/// It may read later all the same, and then it reads what was sent.
#[test]
fn an_af_unix_peer_that_never_reads_is_given_up_and_reads_no_later_byte() {
    for (kind, whole) in [(Kind::Anonymous, true), (Kind::Memfd, true), (Kind::Anonymous, false)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ring = mapped_ring(kind, CHUNK, Reuse::InPlace);
        if !whole {
            // The leases are whole pages, but the pages must stay.
            assert!(zerosink::region::keep_pages(&filled(ring.try_reserve(1).unwrap(), 0, 1)));
        }
        harness::runtime().block_on(async {
            let config = by(Mechanism::Splice).peer_copies().release_timeout(SOON);
            let mut sink = ours.into_sink(config).await.unwrap();
            let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
            harness::within("send", sink.send(piece)).await.unwrap();
            let error = harness::within("release", sink.released(CHUNK as u64)).await.unwrap_err();
            assert_eq!((error.quarantined, sink.stats().abandoned_bytes), (CHUNK as u64, CHUNK as u64));
            let error = harness::within("send", sink.send(Bytes::from_static(b"more"))).await.unwrap_err();
            is_over(&error, End::Revoked);
        });
        let stats = ring.stats();
        assert_eq!((stats.free, stats.quarantined), if whole { (CHUNK, 0) } else { (0, CHUNK) }, "{stats:?}");
        overwrite(&ring);
        theirs.set_read_timeout(Some(STEP)).unwrap();
        let received = read_all(theirs);
        assert!(received.bytes == stream(CHUNK) && received.end.is_ok(), "{kind:?} {whole}: {received:?}");
    }
}

/// The same reader, and memory that is written again after the other side was shut down.
#[test]
fn control_an_af_unix_peer_reads_later_bytes_after_a_shutdown() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ring = mapped_ring(Kind::Memfd, CHUNK, Reuse::Immutable);
    let piece = filled(ring.try_reserve(CHUNK).unwrap(), 0, CHUNK);
    harness::runtime().block_on(async {
        let mut sink = ours.into_sink(by(Mechanism::Splice)).await.unwrap();
        harness::within("send", sink.send(piece.clone())).await.unwrap();
    });
    support::mapped::overwrite_immutable(&piece, POISON).unwrap();
    let received = read_all(theirs);
    assert!(received.bytes == vec![POISON; CHUNK], "{received:?}");
}

/// Also while a send is under way, on another thread than the one that hears of the reset.
#[test]
fn a_reset_at_any_moment_leaves_nothing_in_custody() {
    const ROUNDS: usize = 60;
    let ring = mapped_ring(Kind::Anonymous, 16 * CHUNK, Reuse::InPlace);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut abandoned = 0;
    for round in 0..ROUNDS {
        let (socket, reader) = harness::connection(None);
        let (stats, error) = runtime.block_on(async {
            let mut sink = socket.into_sink(trusting()).await.unwrap();
            let peer = thread::spawn(move || {
                let mut some = vec![0; 1 + round * 8192];
                (&reader).read_exact(&mut some).unwrap();
                socket2::SockRef::from(&reader).set_linger(Some(Duration::ZERO)).unwrap();
            });
            let sending = async {
                loop {
                    let piece = filled(ring.reserve(CHUNK).await.unwrap(), 0, CHUNK);
                    if let Err(error) = sink.send(piece).await {
                        break error;
                    }
                }
            };
            let error = harness::within("the reset", sending).await;
            peer.join().unwrap();
            // Not after the deadline of thirty seconds, but at the latest with the next tick.
            let custody = harness::until("release", || sink.stats().pinned_bytes == 0 && ring.stats().leased == 0);
            let ended = tokio::time::timeout(Duration::from_secs(3), custody).await;
            assert!(ended.is_ok(), "round {round}: {:?}", sink.stats());
            (sink.stats(), error)
        });
        is_over(&error, End::Reset);
        abandoned += stats.abandoned_bytes;
        let ring = ring.stats();
        assert_eq!((ring.free, ring.quarantined), (16 * CHUNK, 0), "round {round}: {ring:?}");
    }
    assert!(abandoned > 0, "no reset came with memory in flight");
}
