//! A long stream through a small ring, poisoned on return, to a reader that is late and slow.

use std::{thread, time::Duration};

use super::{
    support::{
        PATIENCE, POISON, lease,
        mapped::{KeepsItsPages, Kind, mapped_ring, overwrite_immutable, ring_on},
        pattern::Verdict,
        peer::{Pace, Peer},
        raw::HastySink,
        send_stream,
    },
    wire::{
        conditions::Conditions,
        network::{Link, Network},
    },
    *,
};
use zerosink::Path;

const RING: usize = 128 << 10;
const TOTAL: u64 = if cfg!(debug_assertions) { 4 << 20 } else { 16 << 20 };
/// 4 KiB every 20 ms for more than a lap of the ring, then as fast as it can.
const SLOW: Pace =
    Pace { receive_buffer: Some(64 << 10), gated: false, late: Duration::from_millis(200), slow_reads: 32 };

/// Sockets with a slow reader.
fn over_loopback() -> (Socket, Peer) {
    let peer = Peer::start(SLOW);
    (Socket::Tcp(TcpStream::connect(peer.address()).unwrap()), peer)
}

fn over_unix() -> (Socket, Peer) {
    let (socket, peer) = Peer::unix(SLOW);
    (Socket::Unix(socket), peer)
}

fn over_wire(network: &Network) -> (Socket, Peer) {
    let peer = network.far.run(|| Peer::listening(network.listen().unwrap(), SLOW));
    (Socket::Tcp(network.connect(peer.address()).unwrap()), peer)
}

/// Sends the whole stream out of the ring; what the reader found, and the statistics at the end.
fn transfer((socket, peer): (Socket, Peer), config: SinkConfig, ring: &Ring) -> (Verdict, SinkStats) {
    let stats = harness::runtime().block_on(async {
        let mut sink = socket.into_sink(config).await;
        let done = async {
            send_stream(&mut sink, ring, TOTAL).await;
            sink.released(TOTAL).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, done).await.expect("the transfer has stalled");
        let position = sink.position();
        assert_eq!((position.accepted, position.flushed, position.released), (TOTAL, TOTAL, TOTAL));
        sink.stats()
    });
    let in_trouble = (stats.strays, stats.pinned_bytes, stats.quarantined_bytes, stats.abandoned_bytes);
    assert_eq!(in_trouble, (0, 0, 0, 0), "{stats:?}");
    (peer.verdict(), stats)
}

/// All bytes went this way, none was wrong, and the ring is as it was.
#[track_caller]
fn is_exact((verdict, stats): &(Verdict, SinkStats), mechanism: Mechanism, ring: &Ring) {
    assert_eq!(*verdict, Verdict::flawless(TOTAL), "{mechanism}");
    assert_eq!(sent_by(stats, mechanism), TOTAL, "{mechanism}: {stats:?}");
    let ring = ring.stats();
    assert_eq!((ring.leased, ring.granted, ring.quarantined), (0, 0, 0), "{mechanism}: {ring:?}");
}

#[track_caller]
fn is_caught((verdict, stats): &(Verdict, SinkStats), mechanism: Mechanism) {
    assert_eq!((verdict.bytes, sent_by(stats, mechanism)), (TOTAL, TOTAL), "wrong bytes, but none lost: {stats:?}");
    assert!(verdict.wrong > 4096, "{mechanism}: the verification is blind: {verdict:?}");
}

/// The ring gives space back long before the reader has the bytes, and on other pages.
fn fresh_pages(connect: impl Fn() -> (Socket, Peer), mechanism: Mechanism, kind: Kind) {
    replaced(connect, mechanism, kind, Reuse::FreshPages);
}

/// Sends out of a ring that replaces its pages, and, as a control, out of one that only says so.
fn replaced(connect: impl Fn() -> (Socket, Peer), mechanism: Mechanism, kind: Kind, reuse: Reuse) {
    let (true_one, liar) = (connect(), connect());
    thread::scope(|scope| {
        scope.spawn(|| {
            let ring = mapped_ring(kind, RING, reuse);
            let result = transfer(true_one, by(mechanism), &ring);
            is_exact(&result, mechanism, &ring);
            assert_eq!(result.1.pinned_high_water, 0, "nothing has to be kept: {:?}", result.1);
        });
        let ring = ring_on(KeepsItsPages(kind.map(RING)), reuse);
        is_caught(&transfer(liar, by(mechanism), &ring), mechanism);
    });
}

#[test]
fn splice_from_fresh_pages_over_tcp() {
    fresh_pages(over_loopback, Mechanism::Splice, Kind::Anonymous);
}

#[test]
fn splice_from_fresh_pages_over_af_unix() {
    fresh_pages(over_unix, Mechanism::Splice, Kind::Anonymous);
}

#[test]
fn sendfile_from_fresh_pages_over_tcp() {
    fresh_pages(over_loopback, Mechanism::Splice, Kind::Memfd);
}

#[test]
fn sendfile_from_fresh_pages_over_af_unix() {
    fresh_pages(over_unix, Mechanism::Splice, Kind::Memfd);
}

#[test]
fn gift_from_fresh_pages_over_tcp() {
    fresh_pages(over_loopback, Mechanism::Gift, Kind::Anonymous);
}

#[test]
fn gift_from_fresh_pages_over_af_unix() {
    fresh_pages(over_unix, Mechanism::Gift, Kind::Anonymous);
}

/// A ring that is otherwise reused in place replaces what was given away.
fn gift_in_place(connect: impl Fn() -> (Socket, Peer), kind: Kind) {
    replaced(connect, Mechanism::Gift, kind, Reuse::InPlace);
}

#[test]
fn gift_of_whole_units_from_a_ring_in_place_over_tcp() {
    gift_in_place(over_loopback, Kind::Anonymous);
}

#[test]
fn gift_of_whole_units_from_a_ring_in_place_over_af_unix() {
    gift_in_place(over_unix, Kind::Memfd);
}

/// Memory that is never written again: released at once.
fn immutable(connect: impl Fn() -> (Socket, Peer), kind: Kind) {
    // An odd piece takes whole pages.
    let ring = mapped_ring(kind, TOTAL as usize * 9 / 8, Reuse::Immutable);
    is_exact(&transfer(connect(), by(Mechanism::Splice), &ring), Mechanism::Splice, &ring);
}

#[test]
fn splice_from_immutable_memory_over_tcp() {
    immutable(over_loopback, Kind::Anonymous);
}

#[test]
fn splice_from_immutable_memory_over_af_unix() {
    immutable(over_unix, Kind::Anonymous);
}

#[test]
fn sendfile_from_immutable_memory_over_tcp() {
    immutable(over_loopback, Kind::Memfd);
}

#[test]
fn sendfile_from_immutable_memory_over_af_unix() {
    immutable(over_unix, Kind::Memfd);
}

#[test]
fn control_immutable_memory_that_is_written_is_seen_by_the_reader() {
    const BYTES: usize = 64 << 10;
    for (socket, peer) in [over_loopback(), over_unix()] {
        let ring = mapped_ring(Kind::Memfd, RING, Reuse::Immutable);
        harness::runtime().block_on(async {
            let mut sink = socket.into_sink(by(Mechanism::Splice)).await;
            let lease = lease(&ring, 0, BYTES).await;
            harness::within("send", sink.send(lease.clone())).await.unwrap();
            harness::within("release", sink.released(BYTES as u64)).await.unwrap();
            overwrite_immutable(&lease, POISON).unwrap();
        });
        let verdict = peer.verdict();
        assert!(verdict.wrong > 4096, "{verdict:?}");
    }
}

/// On the user's word, with a reader that keeps it.
#[test]
fn splice_in_place_over_af_unix_to_a_reader_that_copies() {
    for kind in [Kind::Anonymous, Kind::Memfd] {
        let ring = mapped_ring(kind, RING, Reuse::InPlace);
        let result = transfer(over_unix(), by(Mechanism::Splice).peer_copies(), &ring);
        is_exact(&result, Mechanism::Splice, &ring);
        let stats = result.1;
        assert!(stats.pinned_high_water > RING as u64 / 4 && stats.pinned_high_water <= RING as u64, "{stats:?}");
        assert!(stats.longest_pin > Duration::from_millis(100), "the slow reader must have held memory: {stats:?}");
    }
}

#[test]
fn splice_in_place_over_a_wire_on_the_peers_word() {
    let test = "splice_in_place_over_a_wire_on_the_peers_word";
    if without_network(test) {
        return;
    }
    let lossy = Conditions { lose: 0.01, duplicate: 0.01, reorder: 0.02, ..Conditions::default() };
    let lossy = Link::both(lossy.delayed(Duration::from_millis(1))).small_frames();
    for (link, kind) in [(Link::default(), Kind::Anonymous), (lossy, Kind::Anonymous), (lossy, Kind::Memfd)] {
        let network = Network::by_wire(link).unwrap();
        let ring = mapped_ring(kind, RING, Reuse::InPlace);
        let config = by(Mechanism::Splice).trust_peer_acks().path(Path::OffHost);
        let result = transfer(over_wire(&network), config, &ring);
        is_exact(&result, Mechanism::Splice, &ring);
        assert!(result.1.pinned_high_water > RING as u64 / 4, "{:?}", result.1);
        let [forth, _] = network.wire().tally();
        assert_eq!(forth.lost > 0, link.forth.lose > 0.0, "{forth:?}");
    }
}

#[test]
fn control_over_a_wire_a_splice_that_releases_on_accept_is_caught() {
    if without_network("control_over_a_wire_a_splice_that_releases_on_accept_is_caught") {
        return;
    }
    let network = Network::by_wire(Link::default()).unwrap();
    let (Socket::Tcp(socket), peer) = over_wire(&network) else { unreachable!("a wire is for TCP") };
    let ring = mapped_ring(Kind::Anonymous, RING, Reuse::InPlace);
    let mut sink = HastySink::by_splice(socket).unwrap();
    harness::runtime().block_on(async {
        tokio::time::timeout(PATIENCE, send_stream(&mut sink, &ring, TOTAL)).await.unwrap();
    });
    let verdict = peer.verdict();
    assert_eq!(verdict.bytes, TOTAL);
    assert!(verdict.wrong > 4096, "the verification is blind: {verdict:?}");
}
