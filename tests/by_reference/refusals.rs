//! What may not go by reference is copied, with its reason, and nothing is lost.

use bytes::Bytes;
use zerosink::Path;

use super::{
    support::{
        filled,
        mapped::{Kind, mapped_ring, ring_of_huge_pages},
        pattern::Verdict,
        peer::{Pace, Peer},
        poisoned_ring,
    },
    *,
};

const BYTES: usize = 64 << 10;

/// Sends one piece of the stream, which must arrive. The statistics at the end.
fn sent((socket, peer): (Socket, Peer), config: SinkConfig, piece: Bytes) -> SinkStats {
    let bytes = piece.len() as u64;
    let stats = harness::runtime().block_on(async {
        let mut sink = socket.into_sink(config).await;
        harness::within("send", sink.send(piece)).await.unwrap();
        harness::within("release", sink.released(bytes)).await.unwrap();
        sink.stats()
    });
    assert_eq!(peer.verdict(), Verdict::flawless(bytes));
    assert_eq!(stats.bytes_copied + stats.bytes_zero_copy, bytes, "{stats:?}");
    stats
}

fn tcp() -> (Socket, Peer) {
    let peer = Peer::start(Pace::default());
    (Socket::Tcp(TcpStream::connect(peer.address()).unwrap()), peer)
}

fn unix() -> (Socket, Peer) {
    let (socket, peer) = Peer::unix(Pace::default());
    (Socket::Unix(socket), peer)
}

#[track_caller]
fn was_copied(stats: &SinkStats, mechanism: Mechanism, reason: Refusal) {
    assert_eq!((stats.bytes_zero_copy, sent_by(stats, mechanism)), (0, 0), "{stats:?}");
    assert_eq!(copied_by(stats, reason), stats.bytes_copied, "not for {reason}: {stats:?}");
}

/// A piece of a ring in place, of each kind of memory.
fn pieces() -> Vec<Bytes> {
    let rings = [
        poisoned_ring(BYTES),
        mapped_ring(Kind::Anonymous, BYTES, Reuse::InPlace),
        mapped_ring(Kind::Memfd, BYTES, Reuse::InPlace),
    ];
    let mut pieces: Vec<_> = rings.iter().map(|ring| filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES)).collect();
    // Heap that no ring knows.
    pieces.push(Bytes::from(pieces[0].to_vec()));
    pieces
}

#[test]
fn memory_in_place_is_not_spliced_without_a_word() {
    for piece in pieces() {
        for connect in [tcp, unix] {
            let stats = sent(connect(), by(Mechanism::Splice), piece.clone());
            was_copied(&stats, Mechanism::Splice, Refusal::PeerNotTrusted);
        }
        // A word about the other kind of socket is none about this one.
        let stats = sent(tcp(), by(Mechanism::Splice).peer_copies(), piece.clone());
        was_copied(&stats, Mechanism::Splice, Refusal::PeerNotTrusted);
        let stats = sent(unix(), by(Mechanism::Splice).trust_peer_acks(), piece);
        was_copied(&stats, Mechanism::Splice, Refusal::PeerNotTrusted);
    }
}

#[test]
fn memory_in_place_is_not_spliced_over_loopback_whatever_the_word() {
    for piece in pieces() {
        let trusted = by(Mechanism::Splice).trust_peer_acks();
        // Where nobody knows the path, sends go by what tells it.
        let stats = sent(tcp(), trusted.clone().path(Path::Unknown), piece.clone());
        assert_eq!((sent_by(&stats, Mechanism::Splice), stats.bytes_copied), (0, 0), "{stats:?}");
        for config in [trusted.clone(), trusted.path(Path::SameHost)] {
            was_copied(&sent(tcp(), config, piece.clone()), Mechanism::Splice, Refusal::PathNotOffHost);
        }
        let stats = sent(tcp(), SinkConfig::new().trust_peer_acks().copy_threshold(0), piece);
        // Of all mechanisms, the one that would be used elsewhere says why it is not here.
        was_copied(&stats, Mechanism::Splice, Refusal::CopiedOnDelivery);
        assert_eq!(stats.refused[Mechanism::Splice.index()], Some(Refusal::PathNotOffHost));
    }
}

/// Control: the same piece, with a word that this test keeps and a path that it states.
#[test]
fn control_with_a_word_and_a_path_the_same_memory_is_spliced() {
    for piece in pieces() {
        let bytes = piece.len() as u64;
        let stats = sent(tcp(), by(Mechanism::Splice).trust_peer_acks().path(Path::OffHost), piece.clone());
        assert_eq!(sent_by(&stats, Mechanism::Splice), bytes, "{stats:?}");
        let stats = sent(unix(), by(Mechanism::Splice).peer_copies(), piece);
        assert_eq!(sent_by(&stats, Mechanism::Splice), bytes, "{stats:?}");
    }
}

#[test]
fn a_part_of_a_unit_is_no_gift() {
    // The smallest leases of a ring are smaller than a page.
    let memory = Kind::Anonymous.map(BYTES);
    let ring = Ring::builder().reuse(Reuse::InPlace).build_on(memory).unwrap();
    let small = filled(ring.try_reserve(100).unwrap(), 0, 100);
    assert!(ring.stats().leased < 4096, "{:?}", ring.stats());
    let mut parts = vec![small];
    if let Some(ring) = ring_of_huge_pages(Reuse::InPlace) {
        // At the start of the ring, so that it is a whole one.
        let whole = filled(ring.try_reserve(2 << 20).unwrap(), 0, 2 << 20);
        parts.push(filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES));
        let stats = sent(unix(), by(Mechanism::Gift), whole);
        assert_eq!(sent_by(&stats, Mechanism::Gift), 2 << 20, "control: {stats:?}");
    }
    for part in parts {
        for connect in [tcp, unix] {
            was_copied(&sent(connect(), by(Mechanism::Gift), part.clone()), Mechanism::Gift, Refusal::PartialUnit);
        }
    }
}

#[test]
fn what_cannot_be_replaced_is_no_gift() {
    let heap = poisoned_ring(BYTES);
    let immutable = mapped_ring(Kind::Anonymous, BYTES, Reuse::Immutable);
    for piece in [&heap, &immutable].map(|ring| filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES)) {
        for piece in [Bytes::from(piece.to_vec()), piece] {
            was_copied(&sent(tcp(), by(Mechanism::Gift), piece), Mechanism::Gift, Refusal::NotFreshPages);
        }
    }
    // Somebody relies on these pages, such as an io_uring that has registered them.
    let kept = mapped_ring(Kind::Anonymous, BYTES, Reuse::InPlace);
    let piece = filled(kept.try_reserve(BYTES).unwrap(), 0, BYTES);
    assert!(zerosink::region::keep_pages(&piece));
    was_copied(&sent(tcp(), by(Mechanism::Gift), piece), Mechanism::Gift, Refusal::PartialUnit);
}

/// What `auto` does by itself: never more than kernel proofs permit.
#[test]
fn auto_gives_no_pages_of_a_ring_in_place_away() {
    for connect in [tcp, unix] {
        let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::InPlace);
        let piece = filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES);
        let stats = sent(connect(), SinkConfig::new().copy_threshold(0), piece);
        assert_eq!((sent_by(&stats, Mechanism::Gift), sent_by(&stats, Mechanism::Splice)), (0, 0), "{stats:?}");
    }
}
