//! Wires that are cut for longer than the deadline: the connection is revoked, memory comes back by its own proof or is replaced
//! or put into quarantine, and the ring goes on.

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::Bytes;
use zerosink::{Proof, SendError, prelude::*, ring::RingStats};

use crate::{
    harness,
    support::{
        self, POISON,
        events::Events,
        lease,
        mapped::{Kind, ring_on},
        pattern::Verdict,
        peer::{Pace, Peer},
    },
    way::{Source, WAYS, Way, each},
    wire::network::{Link, Network},
    without_network,
};

const RING: usize = 256 << 10;
const PIECE: usize = 32 << 10;
const DEADLINE: Duration = Duration::from_millis(300);

fn network() -> Network {
    let network = Network::by_wire(Link::default()).unwrap();
    network.resend_soon().unwrap();
    network
}

/// A connection that has carried a piece of the stream, and whose wire is cut then. The sink, its source, and the far end.
async fn cut_off(network: &Network, way: Way, ring: usize) -> (AutoSink, Source, TcpStream) {
    let (near, far) = network.connection().unwrap();
    // A sink that has nothing in custody is noticed when its socket is full.
    socket2::SockRef::from(&near).set_send_buffer_size(RING).unwrap();
    far.set_nonblocking(true).unwrap();
    let mut source = Source::new(way, ring);
    let mut sink = near.into_sink(way.config_within(DEADLINE)).await.unwrap();
    sink.send(source.next(PIECE).await).await.unwrap();
    harness::until("the first piece", || far.peek(&mut [0; PIECE]).is_ok_and(|bytes| bytes == PIECE)).await;
    harness::within("release", sink.released(PIECE as u64)).await.unwrap();
    network.wire().cut();
    (sink, source, far)
}

/// Sends until it fails.
async fn fails(sink: &mut AutoSink, source: &mut Source) -> SendError {
    loop {
        let piece = source.next(PIECE).await;
        if let Err(error) = sink.send(piece).await {
            return error;
        }
    }
}

/// Everything that has come is right. How much it is.
fn arrived(mut far: TcpStream) -> u64 {
    let (mut verdict, mut buffer) = (Verdict::default(), vec![0; 64 << 10]);
    while let Ok(bytes @ 1..) = far.read(&mut buffer) {
        verdict.take(&buffer[..bytes]);
    }
    assert_eq!(verdict.wrong, 0, "{verdict:?}");
    verdict.bytes
}

/// The ring carries another stream, over a wire that works.
async fn goes_on(network: &Network, way: Way, ring: &Ring) {
    const TOTAL: u64 = 4 * RING as u64;
    let peer = network.far.run(|| Peer::listening(network.listen().unwrap(), Pace::default()));
    let mut sink = network.connect(peer.address()).unwrap().into_sink(way.config()).await.unwrap();
    harness::within("another stream", support::send_stream(&mut sink, ring, TOTAL)).await;
    harness::within("its release", sink.released(TOTAL)).await.unwrap();
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(TOTAL), "{}", way.name);
}

/// All of the ring can be had again, but for what is never used twice or was lost.
#[track_caller]
fn is_whole(way: Way, ring: &Ring, quarantined: usize) {
    let stats: RingStats = ring.stats();
    let out = (stats.leased, stats.granted, stats.distrusted, stats.quarantined);
    assert_eq!(out, (0, 0, 0, quarantined), "{}: {stats:?}", way.name);
    assert_eq!(stats.free + stats.quarantined + stats.retired, stats.capacity, "{}: {stats:?}", way.name);
    assert_eq!(stats.retired > 0, way.reuse == Reuse::Immutable, "{}: {stats:?}", way.name);
}

#[test]
fn a_connection_that_is_cut_off_is_revoked_and_its_ring_goes_on() {
    if without_network("a_connection_that_is_cut_off_is_revoked_and_its_ring_goes_on") {
        return;
    }
    each(WAYS.iter().copied(), network, |way, network| {
        let name = way.name;
        harness::runtime().block_on(async {
            let (mut sink, mut source, far) = cut_off(network, way, RING).await;
            let start = Instant::now();
            let error = harness::within(name, fails(&mut sink, &mut source)).await;
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{name}: {error:?}");
            assert!(start.elapsed() >= DEADLINE, "{name}: cut off after {:?}", start.elapsed());

            let accepted = sink.position().accepted;
            assert!(accepted > PIECE as u64, "{name}: nothing was sent into the dark");
            let released = harness::within("release", sink.released(accepted)).await;
            let stats = sink.stats();
            if way.proof == Proof::Acked {
                // Nobody will ever say that the peer has it: the ring replaces the pages.
                let error = released.unwrap_err();
                assert!(stats.abandoned_bytes > 0, "{name}: {stats:?}");
                assert_eq!(error.quarantined, stats.abandoned_bytes, "{name}: {stats:?}");
            } else {
                released.unwrap();
                assert_eq!(stats.abandoned_bytes, 0, "{name}: {stats:?}");
                assert_eq!(sink.position().released, accepted, "{name}: {stats:?}");
            }
            let in_custody = (stats.pinned_bytes, stats.quarantined_bytes, stats.strays);
            assert_eq!(in_custody, (0, 0, 0), "{name}: {stats:?}");
            is_whole(way, &source.ring, 0);
            drop(sink);

            network.wire().mend();
            assert!(arrived(far) >= PIECE as u64);
            let ring = if way.reuse == Reuse::Immutable { way.ring(8 * RING) } else { source.ring };
            goes_on(network, way, &ring).await;
        });
    });
}

/// Nobody waits for it any more but its ring.
#[test]
fn a_dropped_sink_that_is_cut_off_gives_its_memory_back_at_the_deadline() {
    if without_network("a_dropped_sink_that_is_cut_off_gives_its_memory_back_at_the_deadline") {
        return;
    }
    let in_custody = WAYS.iter().copied().filter(|way| way.proof.is_awaited() && way.mechanism.is_some());
    each(in_custody, network, |way, network| {
        let name = way.name;
        harness::runtime().block_on(async {
            let (mut sink, mut source, far) = cut_off(network, way, 4 * PIECE).await;
            let start = Instant::now();
            sink.send(source.next(PIECE).await).await.unwrap();
            drop(sink);
            assert_eq!(source.ring.stats().leased, PIECE, "{name}: {:?}", source.ring.stats());
            let mut all = harness::within(name, source.ring.reserve(4 * PIECE)).await.unwrap();
            assert!(start.elapsed() >= DEADLINE, "{name}: back after {:?}", start.elapsed());
            all.as_mut_slice().fill(POISON);
            drop(all);
            is_whole(way, &source.ring, 0);
            network.wire().mend();
            assert_eq!(arrived(far), PIECE as u64, "{name}");
        });
    });
}

/// What can neither be proven nor replaced is lost to the ring, and counted; the rest goes on.
#[test]
fn what_a_trusting_sink_sent_into_the_dark_is_quarantined_if_its_pages_cannot_be_replaced() {
    if without_network("what_a_trusting_sink_sent_into_the_dark_is_quarantined_if_its_pages_cannot_be_replaced") {
        return;
    }
    let network = network();
    let trusting = WAYS.iter().copied().find(|way| way.proof == Proof::Acked).unwrap();
    let kept = ring_on(Kind::Anonymous.map(RING), Reuse::InPlace);
    // Somebody relies on these pages, such as an io_uring that has registered them.
    assert!(zerosink::region::keep_pages(&harness::runtime().block_on(lease(&kept, 0, 1))));
    for ring in [support::poisoned_ring(RING), kept] {
        harness::runtime().block_on(async {
            let (mut sink, _, far) = cut_off(&network, trusting, RING).await;
            let piece = lease(&ring, PIECE as u64, PIECE).await;
            harness::within("send", sink.send(piece)).await.unwrap();
            let error = harness::within("release", sink.released(2 * PIECE as u64)).await.unwrap_err();
            assert_eq!((error.quarantined, sink.stats().abandoned_bytes), (PIECE as u64, PIECE as u64));
            assert_eq!(sink.position().released, PIECE as u64, "{:?}", sink.stats());
            let error = harness::within("send", sink.send(Bytes::from_static(b"more"))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
            is_whole(trusting, &ring, PIECE);
            network.wire().mend();
            assert_eq!(arrived(far), PIECE as u64);
            goes_on(&network, trusting, &ring).await;
            is_whole(trusting, &ring, PIECE);
        });
    }
}

/// A cut that ends before the deadline does is no more than a delay.
#[test]
fn a_wire_that_is_mended_in_time_loses_nothing() {
    if without_network("a_wire_that_is_mended_in_time_loses_nothing") {
        return;
    }
    const TOTAL: u64 = 2 * RING as u64;
    each(WAYS.iter().copied(), network, |way, network| {
        harness::runtime().block_on(async {
            let peer = network.far.run(|| Peer::listening(network.listen().unwrap(), Pace::default()));
            let socket = network.connect(peer.address()).unwrap();
            let mut sink = socket.into_sink(way.config()).await.unwrap();
            let mut source = Source::new(way, RING);
            while source.offset < TOTAL {
                if source.offset == TOTAL / 2 {
                    // So that there is room in the ring.
                    harness::within(way.name, sink.released(source.offset)).await.unwrap();
                    let lost = network.wire().tally()[0].lost;
                    network.wire().cut();
                    sink.send(source.next(PIECE).await).await.unwrap();
                    harness::until("several losses", || network.wire().tally()[0].lost >= lost + 3).await;
                    network.wire().mend();
                }
                harness::within(way.name, sink.send(source.next(PIECE).await)).await.unwrap();
            }
            sink.close().await.unwrap();
            harness::within(way.name, sink.released(TOTAL)).await.unwrap();
            assert_eq!(sink.stats().abandoned_bytes, 0, "{}", way.name);
            let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
            assert_eq!(verdict, Verdict::flawless(TOTAL), "{}", way.name);
        });
    });
}

/// Completions may be late, on a busy host: that is no reason to say that they will never come.
#[test]
fn what_the_kernel_lets_go_of_soon_after_a_revoke_was_never_in_quarantine() {
    if without_network("what_the_kernel_lets_go_of_soon_after_a_revoke_was_never_in_quarantine") {
        return;
    }
    let network = network();
    let queue = |verb, filter| network.near.tc(&format!("qdisc {verb} dev {} root {filter}", Network::DEVICE)).unwrap();
    let events = Events::recorded();
    harness::runtime().block_on(async {
        let (near, _far) = network.connection().unwrap();
        let ring = support::poisoned_ring(RING);
        let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(DEADLINE);
        let mut sink = near.into_sink(config).await.unwrap();
        // A few packets pass, then one in twelve seconds.
        queue("add", "tbf rate 1kbit burst 6000 limit 10000000");
        sink.send(lease(&ring, 0, 2 * PIECE).await).await.unwrap();
        harness::until("the deadline", || events.count(&["connection revoked"]) > 0).await;
        // Time is the subject here: more than a look at the clock, which comes four times in a deadline.
        tokio::time::sleep(DEADLINE / 3).await;
        let stats = sink.stats();
        assert!(stats.pinned_bytes > 0, "packets wait, and their memory is back: {stats:?}");
        assert_eq!(stats.quarantined_bytes, 0, "{stats:?}");
        // With all that waits in it.
        queue("del", "");
        harness::within("release", sink.released(2 * PIECE as u64)).await.unwrap();
        assert_eq!(events.count(&["the kernel holds memory"]), 0, "{:?}", events.all());
    });
}
