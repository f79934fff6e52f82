//! Whole streams over a bad wire. What was lost is sent again, by the kernel, out of memory that must not have changed.
//!
//! `cargo test` sends a few MiB each way. As much as you like, in one row of a table for each way and rate:
//!
//! ```text
//! ZEROSINK_HOSTILE_MIB=1024 cargo test --release --test hostile not_one_wrong_byte_with -- --nocapture --test-threads 1
//! ```
//!
//! `ZEROSINK_HOSTILE_WAY` bounds that to the ways whose name has a certain part: `"splice, in place"`.

use std::{
    fmt,
    net::TcpStream,
    time::{Duration, Instant},
};

use zerosink::{SinkStats, prelude::*};

use crate::{
    harness, support,
    support::{
        mapped::{Kind, mapped_ring},
        pattern::Verdict,
        peer::{Pace, Peer},
        raw::HastySink,
    },
    way::{Source, WAYS, Way, overwrite},
    wire::{
        conditions::Conditions,
        network::{Link, Network},
    },
    without_network,
};

const MIB: u64 = 1 << 20;
const RING: usize = 256 << 10;
/// No transfer is slower, or it has stalled.
const SLOWEST: u64 = 256 << 10;

/// Bytes of each transfer.
fn total() -> u64 {
    let asked = std::env::var("ZEROSINK_HOSTILE_MIB").ok();
    let mib = asked.map_or(4, |mib| mib.parse().expect("ZEROSINK_HOSTILE_MIB is a number"));
    mib * MIB
}

/// The ways that are wanted.
fn ways() -> impl Iterator<Item = Way> {
    let part = std::env::var("ZEROSINK_HOSTILE_WAY").unwrap_or_default();
    WAYS.iter().copied().filter(move |way| way.name.contains(&part))
}

/// A fast wire that loses this share of all frames, repeats one in a hundred and delays two, so that others overtake them.
fn lossy(lose: f64) -> Network {
    let conditions = Conditions { lose, duplicate: 0.01, reorder: 0.02, ..Conditions::default() };
    let link = Link::both(conditions.delayed(Duration::from_micros(200))).jumbo_frames();
    let network = Network::by_wire(link).unwrap();
    network.resend_soon().unwrap();
    network
}

/// What one transfer showed.
struct Run {
    way: Way,
    verdict: Verdict,
    stats: SinkStats,
    elapsed: Duration,
    lost: u64,
    resent: u64,
}

impl Run {
    const HEAD: &str = "| way | lost | resent | pinned at most | longest pin | by | MB/s | wrong bytes |\n|---|--:|--:|--:|--:|---|--:|--:|";
}

/// A row of the table.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, verdict, stats, elapsed, lost, resent } = self;
        write!(
            f,
            "| {} | {lost} | {resent} | {} KiB | {} ms |",
            way.name,
            stats.pinned_high_water >> 10,
            stats.longest_pin.as_millis()
        )?;
        write!(
            f,
            " {} | {:.0} | {} |",
            stats.main_mechanism(),
            verdict.bytes as f64 / elapsed.as_secs_f64() / 1e6,
            verdict.wrong
        )
    }
}

/// A reader on the far host, and a socket on the near one.
fn connect(network: &Network) -> (TcpStream, Peer) {
    let peer = network.far.run(|| Peer::listening(network.listen().unwrap(), Pace::default()));
    (network.connect(peer.address()).unwrap(), peer)
}

/// Sends the stream `0 .. total`, and waits until all of it is released.
fn transfer(network: &Network, way: Way, total: u64) -> Run {
    const PIECES: [usize; 5] = [16 << 10, 64 << 10, 20_001, 48 << 10, 32_769];
    let (lost, resent) = (network.wire().tally()[0].lost, network.resent().unwrap());
    let (socket, peer) = connect(network);
    let mut source = Source::new(way, RING);
    let limit = support::PATIENCE + Duration::from_secs(total / SLOWEST);
    let start = Instant::now();
    let stats = harness::runtime().block_on(async {
        let mut sink = socket.into_sink(way.config()).await.unwrap();
        let sending = async {
            for piece in PIECES.into_iter().cycle() {
                let piece = usize::try_from(total - source.offset).unwrap().min(piece);
                if piece == 0 {
                    break;
                }
                sink.send(source.next(piece).await).await.unwrap();
            }
            sink.close().await.unwrap();
            sink.released(total).await.unwrap();
        };
        tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| panic!("{} has stalled", way.name));
        sink.stats()
    });
    let verdict = peer.verdict();
    let elapsed = start.elapsed();
    assert_eq!(source.ring.stats().leased, 0, "{}: {:?}", way.name, source.ring.stats());
    let lost = network.wire().tally()[0].lost - lost;
    Run { way, verdict, stats, elapsed, lost, resent: network.resent().unwrap() - resent }
}

/// Every way over one network; how many frames it lost.
fn every_way(network: &Network, total: u64) -> u64 {
    println!("{}", Run::HEAD);
    let mut lost = 0;
    for way in ways() {
        let run = transfer(network, way, total);
        println!("{run}");
        let stats = &run.stats;
        assert_eq!(run.verdict, Verdict::flawless(total), "{}", way.name);
        if let Some(mechanism) = way.mechanism {
            assert_eq!(stats.sent[mechanism.index()], total, "{}: {stats:?}", way.name);
            assert_eq!(stats.pinned_high_water > 0, way.proof.is_awaited(), "{}: {stats:?}", way.name);
        }
        let in_trouble = (stats.strays, stats.pinned_bytes, stats.quarantined_bytes, stats.abandoned_bytes);
        assert_eq!(in_trouble, (0, 0, 0, 0), "{}: {stats:?}", way.name);
        lost += run.lost;
    }
    lost
}

/// Over a wire that loses this share of all frames.
fn not_one_wrong_byte(lose: f64) {
    let network = lossy(lose);
    println!("\n{} MiB each way, {} % of all frames lost\n", total() / MIB, lose * 100.0);
    assert!(every_way(&network, total()) > 0, "the wire lost nothing");
}

#[test]
fn not_one_wrong_byte_with_one_frame_in_a_thousand_lost() {
    if without_network("not_one_wrong_byte_with_one_frame_in_a_thousand_lost") {
        return;
    }
    not_one_wrong_byte(0.001);
}

#[test]
fn not_one_wrong_byte_with_one_frame_in_a_hundred_lost() {
    if without_network("not_one_wrong_byte_with_one_frame_in_a_hundred_lost") {
        return;
    }
    not_one_wrong_byte(0.01);
}

#[test]
fn not_one_wrong_byte_with_one_frame_in_twenty_lost() {
    if without_network("not_one_wrong_byte_with_one_frame_in_twenty_lost") {
        return;
    }
    not_one_wrong_byte(0.05);
}

#[test]
fn not_one_wrong_byte_over_a_slow_wire_that_loses_what_does_not_fit() {
    if without_network("not_one_wrong_byte_over_a_slow_wire_that_loses_what_does_not_fit") {
        return;
    }
    let slow = Conditions { bytes_per_second: Some(8 << 20), backlog: 64 << 10, ..Conditions::default() };
    let network = Network::by_wire(Link::both(slow).small_frames()).unwrap();
    network.resend_soon().unwrap();
    every_way(&network, MIB);
    let [forth, _] = network.wire().tally();
    assert!(forth.overflowed > 0, "everything fitted: {forth:?}");
}

/// The same stream, ring and wire; the sink is one that releases on accept.
#[test]
fn control_senders_that_release_on_accept_are_caught() {
    const TOTAL: u64 = 4 * MIB;
    if without_network("control_senders_that_release_on_accept_are_caught") {
        return;
    }
    let network = lossy(0.01);
    for make in [HastySink::by_msg_zerocopy, HastySink::by_splice] {
        let (socket, peer) = connect(&network);
        let ring = mapped_ring(Kind::Anonymous, RING, Reuse::InPlace);
        let mut sink = make(socket).unwrap();
        harness::runtime().block_on(async {
            let sending = support::send_stream(&mut sink, &ring, TOTAL);
            tokio::time::timeout(support::PATIENCE, sending).await.unwrap();
        });
        let verdict = peer.verdict();
        assert_eq!(verdict.bytes, TOTAL, "wrong bytes, but none lost");
        assert!(verdict.wrong > 4096, "the verification is blind: {verdict:?}");
    }
}

/// A piece that the kernel sends twice.
const PIECE: usize = 64 << 10;

/// Lets `send` send a piece over a wire that is cut, so that all that leaves is lost; then lets it write over the memory that
/// came back, and mends the wire. What arrives is what the kernel sent again.
fn sent_again<T>(network: &Network, send: impl AsyncFnOnce(TcpStream) -> T, reuse: impl FnOnce(&T)) -> (Verdict, T) {
    let (socket, peer) = connect(network);
    network.wire().cut();
    let (lost, resent) = (network.wire().tally()[0].lost, network.resent().unwrap());
    harness::runtime().block_on(async {
        let sent = send(socket).await;
        // The first window is lost, and something of it once more.
        harness::until("a loss", || network.wire().tally()[0].lost > lost && network.resent().unwrap() > resent).await;
        reuse(&sent);
        network.wire().mend();
        let verdict = tokio::task::spawn_blocking(|| peer.verdict());
        (harness::within("the piece", verdict).await.unwrap(), sent)
    })
}

#[test]
fn what_is_sent_again_is_what_was_sent() {
    if without_network("what_is_sent_again_is_what_was_sent") {
        return;
    }
    let network = lossy(0.0);
    for way in WAYS {
        let mut source = Source::new(*way, 2 * PIECE);
        let ring = source.ring.clone();
        let send = async |socket: TcpStream| {
            let mut sink = socket.into_sink(way.config()).await.unwrap();
            sink.send(source.next(PIECE).await).await.unwrap();
            sink.close().await.unwrap();
            sink
        };
        let reuse = |sink: &AutoSink| {
            // Nobody has acknowledged anything.
            let out = if sink.stats().bytes_zero_copy > 0 && way.proof.is_awaited() { PIECE } else { 0 };
            if way.mechanism.is_some() {
                assert_eq!(sink.stats().pinned_bytes, out as u64, "{}: {:?}", way.name, sink.stats());
                assert_eq!(ring.stats().leased, out, "{}: {:?}", way.name, ring.stats());
            }
            overwrite(&ring);
        };
        let (verdict, _) = sent_again(&network, send, reuse);
        assert_eq!(verdict, Verdict::flawless(PIECE as u64), "{}", way.name);
    }
}

#[test]
fn control_after_a_release_on_accept_later_bytes_are_sent_again() {
    if without_network("control_after_a_release_on_accept_later_bytes_are_sent_again") {
        return;
    }
    let network = lossy(0.0);
    for make in [HastySink::by_msg_zerocopy, HastySink::by_splice] {
        let ring = mapped_ring(Kind::Anonymous, 2 * PIECE, Reuse::InPlace);
        let send = async |socket| {
            let mut sink = make(socket).unwrap();
            sink.send(support::lease(&ring, 0, PIECE).await).await.unwrap();
            sink.close().await.unwrap();
            sink
        };
        let (verdict, _) = sent_again(&network, send, |_| overwrite(&ring));
        assert_eq!(verdict.bytes, PIECE as u64);
        assert!(verdict.wrong > PIECE as u64 * 9 / 10, "the verification is blind: {verdict:?}");
    }
}
