//! Release on the peer's acknowledgements: told by events, incremental, and safe without them.

use std::{
    io::Read as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use zerosink::{Path, ring::RingStats};

use super::{
    support::{
        PATIENCE, lease,
        mapped::{Kind, mapped_ring},
        seccomp,
    },
    wire::{
        network::{Link, Network},
        raw_peer::RawPeer,
    },
    *,
};

const CHUNK: usize = 64 << 10;
const RING: usize = 8 << 20;
const MIB: u64 = 1 << 20;

fn trusting() -> SinkConfig {
    by(Mechanism::Splice).trust_peer_acks().path(Path::OffHost)
}

/// The byte that fills a chunk. Compared a chunk at a time, which takes less than to send it.
const fn fill_of(chunk: u64) -> u8 {
    (chunk % 251) as u8
}

/// A reader on the far host that compares chunk by chunk. How many chunks came, all right.
fn reader(mut far: TcpStream) -> JoinHandle<u64> {
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::spawn(move || {
        let (mut chunk, mut seen) = (vec![0; CHUNK], 0);
        while far.read_exact(&mut chunk).is_ok() {
            assert!(chunk == vec![fill_of(seen); CHUNK], "chunk {seen} is wrong");
            seen += 1;
        }
        seen
    })
}

/// Sends `total` bytes over the wire out of a ring in place, and waits until all of it is released. What it cost.
fn stream(network: &Network, config: SinkConfig, total: u64) -> (SinkStats, RingStats, Duration) {
    let (near, far) = network.connection().unwrap();
    let reader = reader(far);
    let ring = mapped_ring(Kind::Anonymous, RING, Reuse::InPlace);
    let start = Instant::now();
    let stats = harness::runtime().block_on(async {
        let mut sink = near.into_sink(config).await.unwrap();
        let chunks = total / CHUNK as u64;
        let all = async {
            for chunk in 0..chunks {
                let mut grant = ring.reserve(CHUNK).await.unwrap();
                grant.as_mut_slice().fill(fill_of(chunk));
                grant.fill(CHUNK).unwrap();
                sink.send(grant.commit()).await.unwrap();
            }
            sink.released(total).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the transfer has stalled");
        sink.stats()
    });
    let elapsed = start.elapsed();
    assert_eq!(reader.join().unwrap(), total / CHUNK as u64);
    assert_eq!(sent_by(&stats, Mechanism::Splice), total, "{stats:?}");
    (stats, ring.stats(), elapsed)
}

#[test]
fn release_follows_acknowledgements_by_event() {
    const TOTAL: u64 = if cfg!(debug_assertions) { 256 << 20 } else { 1 << 30 };
    if without_network("release_follows_acknowledgements_by_event") {
        return;
    }
    let network = Network::by_wire(Link::default()).unwrap();
    let (stats, ring, elapsed) = stream(&network, trusting(), TOTAL);
    let by_timer = stats.looks - stats.looks_by_event;
    eprintln!(
        "{} MiB in {elapsed:?}: {} looks by event ({:.1} per MiB), {by_timer} by timer, longest pin {:?}",
        TOTAL / MIB,
        stats.looks_by_event,
        stats.looks_by_event as f64 / (TOTAL / MIB) as f64,
        stats.longest_pin
    );
    // No more than a look for each send, and a tick each half second.
    assert!(stats.looks_by_event <= TOTAL / CHUNK as u64 + 1, "{stats:?}");
    assert!(by_timer <= elapsed.as_millis() as u64 / 500 + 1, "{by_timer} in {elapsed:?}: {stats:?}");
    // 10 ms there and back: memory was held for a few of these, and the ring was never drained.
    assert!(ring.high_water > RING / 2 && ring.quarantined == 0, "{ring:?}");
}

/// Where the kernel, or a filter of system calls, gives no time-stamps.
#[test]
fn without_time_stamps_the_timer_releases_everything() {
    const TOTAL: u64 = 32 << 20;
    if without_network("without_time_stamps_the_timer_releases_everything") {
        return;
    }
    let network = Network::by_wire(Link::default()).unwrap();
    // Four looks in that time.
    let config = trusting().release_timeout(Duration::from_millis(400));
    let with = stream(&network, config.clone(), TOTAL).0;
    let without = thread::scope(|scope| {
        let denied = scope.spawn(|| {
            let option = (2, libc::SO_TIMESTAMPING as u32);
            seccomp::deny(libc::SYS_setsockopt, option).unwrap();
            stream(&network, config, TOTAL).0
        });
        denied.join().unwrap()
    });
    assert!(with.looks_by_event > 0, "control: {with:?}");
    assert_eq!(without.looks_by_event, 0, "{without:?}");
    assert!(without.looks > 0, "{without:?}");
}

/// The acknowledgement of a FIN has no time-stamp, and until it comes the last byte looks as if it were missing.
#[test]
fn the_last_byte_before_a_close_does_not_wait_for_the_timer() {
    const BYTES: usize = 8 << 10;
    if without_network("the_last_byte_before_a_close_does_not_wait_for_the_timer") {
        return;
    }
    for dropped in [false, true] {
        let (socket, mut peer) = RawPeer::connect(CHUNK).unwrap();
        let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::InPlace);
        harness::runtime().block_on(async {
            let mut sink = socket.into_sink(trusting()).await.unwrap();
            harness::within("send", sink.send(lease(&ring, 0, BYTES).await)).await.unwrap();
            let start = Instant::now();
            let sink = if dropped {
                drop(sink);
                None
            } else {
                sink.close().await.unwrap();
                Some(sink)
            };
            // All of the data, and not the FIN.
            peer.wait_unread().unwrap();
            peer.acknowledge_unread(BYTES).unwrap();
            if let Some(sink) = &sink {
                harness::until("an event", || sink.stats().looks > 0).await;
                assert_eq!(sink.stats().pinned_bytes, BYTES as u64, "{:?}", sink.stats());
            }
            peer.receive(usize::MAX).unwrap();
            drop(harness::within("the whole ring", ring.reserve(BYTES)).await.unwrap());
            // The next tick comes half a second after the send.
            assert!(start.elapsed() < Duration::from_millis(400), "dropped: {dropped}, after {:?}", start.elapsed());
            if let Some(sink) = sink {
                assert_eq!(sink.stats().looks, sink.stats().looks_by_event, "{:?}", sink.stats());
            }
        });
    }
}

/// The error queue of IPv6 has another name for the same messages.
#[test]
fn acknowledgements_are_told_over_ipv6_too() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) else {
        return harness::skip("acknowledgements_are_told_over_ipv6_too", "there is no IPv6 here");
    };
    let port = listener.local_addr().unwrap().port();
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    for address in [Ipv6Addr::LOCALHOST, mapped] {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.connect(&SocketAddr::from((address, port)).into()).unwrap();
        let reader = reader(listener.accept().unwrap().0);
        // Without poison: loopback hands over the ring's own pages, whatever the sink was told.
        let ring = Ring::builder().reuse(Reuse::InPlace).build_on(Kind::Anonymous.map(CHUNK)).unwrap();
        harness::runtime().block_on(async {
            let mut sink = TcpStream::from(socket).into_sink(trusting()).await.unwrap();
            let mut grant = ring.try_reserve(CHUNK).unwrap();
            grant.as_mut_slice().fill(fill_of(0));
            grant.fill(CHUNK).unwrap();
            sink.send(grant.commit()).await.unwrap();
            harness::within("release", sink.released(CHUNK as u64)).await.unwrap();
            let stats = sink.stats();
            assert!(stats.looks_by_event > 0 && stats.looks == stats.looks_by_event, "{address}: {stats:?}");
        });
        assert_eq!(reader.join().unwrap(), 1);
    }
}
