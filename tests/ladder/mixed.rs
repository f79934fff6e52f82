//! Random queues of every kind of memory.

use std::time::Duration;

use bytes::Bytes;
use zerosink::{Path, SinkStats};

use super::{
    support::{
        PATIENCE, lease,
        mapped::{Kind, mapped_ring},
        pattern::{self, Verdict},
        peer::{Pace, Peer},
        poisoned_ring,
    },
    wire::network::{Link, Network},
    *,
};

const TOTAL: u64 = if cfg!(debug_assertions) { 1 << 20 } else { 16 << 20 };
const SEEDS: u64 = 6;
const RING: usize = 256 << 10;
/// Reads a little at first, so that the socket fills up.
const PACE: Pace =
    Pace { receive_buffer: Some(32 << 10), gated: false, late: Duration::from_millis(20), slow_reads: 3 };

/// Splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    /// A size of a random order of magnitude.
    fn size(&mut self, most: usize) -> usize {
        let order = self.below(most.ilog2() as usize + 1);
        1 + self.below((1 << order).min(most))
    }
}

/// A piece of the stream.
enum Piece {
    Owned(Bytes),
    Borrowed(Vec<u8>),
}

/// Where pieces come from.
struct Sources {
    heap: Ring,
    in_place: Ring,
    fresh: Ring,
    fresh_file: Ring,
    immutable: Ring,
}

impl Sources {
    fn new() -> Self {
        Self {
            heap: poisoned_ring(RING),
            in_place: mapped_ring(Kind::Anonymous, RING, Reuse::InPlace),
            fresh: mapped_ring(Kind::Anonymous, RING, Reuse::FreshPages),
            fresh_file: mapped_ring(Kind::Memfd, RING, Reuse::FreshPages),
            immutable: mapped_ring(Kind::Memfd, 4 * TOTAL as usize, Reuse::Immutable),
        }
    }

    /// The next piece of the stream, of `bytes` bytes, in some memory.
    async fn piece(&self, random: &mut Random, offset: u64, bytes: usize) -> Piece {
        let ring = match random.below(7) {
            0 => &self.heap,
            1 => &self.in_place,
            2 => &self.fresh,
            3 => &self.fresh_file,
            4 => &self.immutable,
            kind => {
                let mut copy = vec![0; bytes];
                pattern::fill(offset, &mut copy);
                return if kind == 5 { Piece::Owned(Bytes::from(copy)) } else { Piece::Borrowed(copy) };
            }
        };
        Piece::Owned(lease(ring, offset, bytes).await)
    }
}

/// Sends the stream in random queues of random pieces. The statistics at the end.
async fn send(socket: Socket, config: SinkConfig, seed: u64) -> SinkStats {
    let (sources, mut random) = (Sources::new(), Random(seed));
    let mut sink = socket.into_sink(config).await;
    let mut offset = 0;
    while offset < TOTAL {
        let mut pieces = Vec::new();
        // Not more of one ring than it has.
        let mut room = RING / 2;
        for _ in 0..=random.below(6) {
            let bytes = random.size(64 << 10).min(room).min((TOTAL - offset) as usize);
            if bytes == 0 {
                break;
            }
            pieces.push(sources.piece(&mut random, offset, bytes).await);
            offset += bytes as u64;
            room -= bytes;
        }
        let mut queue = SendQueue::new();
        for piece in &pieces {
            match piece {
                Piece::Owned(bytes) => queue.push(bytes.clone()),
                Piece::Borrowed(bytes) => queue.push_borrowed(bytes),
            }
        }
        sink.send_queue(&mut queue).await.unwrap();
    }
    sink.close().await.unwrap();
    sink.released(TOTAL).await.unwrap();
    for ring in [&sources.heap, &sources.in_place, &sources.fresh, &sources.fresh_file] {
        let stats = ring.stats();
        assert_eq!((stats.free, stats.quarantined), (RING, 0), "{stats:?}");
    }
    sink.stats()
}

/// Plays all seeds, and says how many bytes went by each mechanism.
fn play(connect: impl Fn() -> (Socket, Peer) + Sync, config: &SinkConfig) -> [u64; Mechanism::ALL.len()] {
    play_after(|| {}, connect, config)
}

/// The same, and each sender's thread does something first.
fn play_after(
    prepare: impl Fn() + Sync,
    connect: impl Fn() -> (Socket, Peer) + Sync,
    config: &SinkConfig,
) -> [u64; Mechanism::ALL.len()] {
    let mut sent = [0; _];
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..SEEDS)
            .map(|seed| {
                let (prepare, connect) = (&prepare, &connect);
                scope.spawn(move || {
                    prepare();
                    let (socket, peer) = connect();
                    let sending = async { tokio::time::timeout(PATIENCE, send(socket, config.clone(), seed)).await };
                    let stats = harness::runtime().block_on(sending).expect("the stream has stalled");
                    assert_eq!(peer.verdict(), Verdict::flawless(TOTAL), "seed {seed}: {stats:?}");
                    assert_eq!(stats.sent.iter().sum::<u64>(), TOTAL, "seed {seed}: {stats:?}");
                    assert_eq!(stats.copied.iter().sum::<u64>(), stats.bytes_copied, "seed {seed}: {stats:?}");
                    let in_trouble = (stats.strays, stats.pinned_bytes, stats.quarantined_bytes, stats.abandoned_bytes);
                    assert_eq!(in_trouble, (0, 0, 0, 0), "seed {seed}: {stats:?}");
                    stats.sent
                })
            })
            .collect();
        for run in runs {
            let of_run = run.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
            sent.iter_mut().zip(of_run).for_each(|(sum, bytes)| *sum += bytes);
        }
    });
    sent
}

#[track_caller]
fn took_turns(sent: [u64; Mechanism::ALL.len()], mechanisms: &[Mechanism]) {
    for mechanism in Mechanism::ALL {
        assert_eq!(sent[mechanism.index()] > 0, mechanisms.contains(&mechanism), "{mechanism}: {sent:?}");
    }
}

fn over_loopback() -> (Socket, Peer) {
    let peer = Peer::start(PACE);
    (Socket::Tcp(TcpStream::connect(peer.address()).unwrap()), peer)
}

fn over(network: &Network) -> (Socket, Peer) {
    let peer = network.far.run(|| Peer::listening(network.listen().unwrap(), PACE));
    (Socket::Tcp(network.connect(peer.address()).unwrap()), peer)
}

#[test]
fn over_af_unix_order_and_bytes_survive() {
    let connect = || {
        let (socket, peer) = Peer::unix(PACE);
        (Socket::Unix(socket), peer)
    };
    let config = SinkConfig::new().copy_threshold(1000);
    took_turns(play(connect, &config), &[Mechanism::Copy, Mechanism::Splice]);
    // This reader copies. Heap and memory in place go by reference then.
    took_turns(play(connect, &config.peer_copies()), &[Mechanism::Copy, Mechanism::Splice]);
}

#[test]
fn over_loopback_order_and_bytes_survive() {
    let config = SinkConfig::new().copy_threshold(1000);
    took_turns(play(over_loopback, &config), &[Mechanism::Copy, Mechanism::Splice]);
    // As if it led off the host: by notification, too.
    let all = play(over_loopback, &config.clone().path(Path::OffHost));
    took_turns(all, &[Mechanism::Copy, Mechanism::Splice, Mechanism::MsgZerocopy]);
    let little = config.path(Path::OffHost).max_pinned_bytes(64 << 10);
    took_turns(play(over_loopback, &little), &[Mechanism::Copy, Mechanism::Splice, Mechanism::MsgZerocopy]);
}

/// The other one that is notified goes on after the call, and what comes next must wait for it.
#[cfg(zerosink_uring)]
#[test]
fn where_msg_zerocopy_is_forbidden_io_uring_takes_turns() {
    let host = zerosink::probe::host();
    if !host.mechanisms.iter().any(|(mechanism, support)| *mechanism == Mechanism::IoUring && support.is_yes()) {
        return harness::skip("where_msg_zerocopy_is_forbidden_io_uring_takes_turns", "there is no io_uring here");
    }
    let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let forbid = || support::seccomp::deny(libc::SYS_sendmsg, (2, flags as u32)).unwrap();
    let config = SinkConfig::new().copy_threshold(1000).path(Path::OffHost);
    let sent = play_after(forbid, over_loopback, &config);
    took_turns(sent, &[Mechanism::Copy, Mechanism::Splice, Mechanism::IoUring]);
}

#[test]
fn over_networks_order_and_bytes_survive() {
    if without_network("over_networks_order_and_bytes_survive") {
        return;
    }
    let config = SinkConfig::new().copy_threshold(1000);
    let veth = Network::by_veth().unwrap();
    took_turns(play(|| over(&veth), &config), &[Mechanism::Copy, Mechanism::Splice, Mechanism::MsgZerocopy]);
    let wire = Network::by_wire(Link::default()).unwrap();
    let trusting = config.trust_peer_acks().path(Path::OffHost);
    took_turns(play(|| over(&wire), &trusting), &[Mechanism::Copy, Mechanism::Splice]);
}

/// A mechanism that has to be insisted on takes what it can, and the rest is copied in its place.
#[test]
fn with_a_forced_mechanism_order_and_bytes_survive() {
    let uring = zerosink::probe::host().mechanisms.iter().any(|(m, s)| *m == Mechanism::IoUring && s.is_yes());
    for mechanism in Mechanism::ALL {
        if mechanism == Mechanism::IoUring && !uring {
            continue;
        }
        let sent = play(over_loopback, &SinkConfig::new().mechanism(mechanism));
        took_turns(sent, &[Mechanism::Copy, mechanism]);
    }
}
