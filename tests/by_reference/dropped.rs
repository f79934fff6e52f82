//! Sinks, futures and runtimes that go with bytes in flight.

use std::{
    fs,
    io::Read,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use bytes::Bytes;
use zerosink::Path;

use super::{
    harness::{Peer, Received, SMALL, connection, cut_after, read_all, runtime, within},
    support::{
        POISON, filled,
        mapped::{KeepsItsPages, Kind, mapped_ring, ring_on},
        pattern::Verdict,
    },
    wire::network::{Link, Network},
    *,
};

const TOTAL: usize = 512 << 10;
const PIECE: usize = 16 << 10;

/// How the bytes go: the mechanism, the ring, and whose word releases them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    mechanism: Mechanism,
    reuse: Reuse,
    kind: Kind,
}

/// What is released when it is accepted, because other pages come.
const AT_ONCE: [Way; 4] = [
    Way { mechanism: Mechanism::Splice, reuse: Reuse::FreshPages, kind: Kind::Anonymous },
    Way { mechanism: Mechanism::Splice, reuse: Reuse::FreshPages, kind: Kind::Memfd },
    Way { mechanism: Mechanism::Gift, reuse: Reuse::FreshPages, kind: Kind::Anonymous },
    Way { mechanism: Mechanism::Gift, reuse: Reuse::InPlace, kind: Kind::Anonymous },
];

/// What is released by the peer.
const BY_THE_PEER: [Way; 2] = [
    Way { mechanism: Mechanism::Splice, reuse: Reuse::InPlace, kind: Kind::Anonymous },
    Way { mechanism: Mechanism::Splice, reuse: Reuse::InPlace, kind: Kind::Memfd },
];

impl Way {
    fn ring(self) -> Ring {
        mapped_ring(self.kind, TOTAL, self.reuse)
    }

    fn config(self) -> SinkConfig {
        let config = by(self.mechanism);
        if self.releases_at_once() { config } else { config.peer_copies().trust_peer_acks().path(Path::OffHost) }
    }

    fn releases_at_once(self) -> bool {
        !BY_THE_PEER.contains(&self)
    }
}

/// Two ends that cannot hold all bytes.
type Ends = (Socket, Box<dyn Read + Send>);

fn tcp() -> Ends {
    let (socket, reader) = connection(SMALL);
    (Socket::Tcp(socket), Box::new(reader))
}

fn unix() -> Ends {
    let (ours, theirs) = UnixStream::pair().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(PIECE).unwrap();
    theirs.set_read_timeout(Some(harness::STEP)).unwrap();
    (Socket::Unix(ours), Box::new(theirs))
}

fn over_wire(network: &Network) -> Ends {
    let (near, far) = network.connection().unwrap();
    socket2::SockRef::from(&near).set_send_buffer_size(PIECE).unwrap();
    far.set_read_timeout(Some(harness::STEP)).unwrap();
    (Socket::Tcp(near), Box::new(far))
}

/// The whole stream, in leases.
fn pieces(ring: &Ring) -> Vec<Bytes> {
    (0..TOTAL).step_by(PIECE).map(|start| filled(ring.try_reserve(PIECE).unwrap(), start as u64, PIECE)).collect()
}

/// The same, each after a head that is only borrowed.
fn queue_of<'a>(heads: &'a [Vec<u8>], pieces: &[Bytes]) -> SendQueue<'a> {
    let mut queue = SendQueue::new();
    for (head, piece) in heads.iter().zip(pieces) {
        queue.push_borrowed(head);
        queue.push(piece.slice(HEAD..));
    }
    queue
}

const HEAD: usize = 37;

fn heads(pieces: &[Bytes]) -> Vec<Vec<u8>> {
    pieces.iter().map(|piece| piece[..HEAD].to_vec()).collect()
}

/// Sends until the socket is full. Returns how many bytes were accepted.
async fn fill(sink: &mut AutoSink, pieces: Vec<Bytes>) -> usize {
    let mut queue = SendQueue::new();
    pieces.into_iter().for_each(|piece| queue.push(piece));
    assert!(cut_after(1, || {}, sink.send_queue(&mut queue)).await.is_none(), "the socket took all {TOTAL} bytes");
    TOTAL - queue.remaining()
}

/// Takes so many bytes of the ring, as soon as they come back, and writes over them.
async fn overwrite(ring: &Ring, bytes: usize) {
    let mut taken = Vec::new();
    while taken.len() < bytes / PIECE {
        let mut grant = within("memory", ring.reserve(PIECE)).await.unwrap();
        grant.as_mut_slice().fill(!POISON);
        taken.push(grant);
    }
}

fn verdict(received: &Received) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.take(&received.bytes);
    verdict
}

#[track_caller]
fn is_exactly(received: &Received, bytes: usize) {
    assert!(received.end.is_ok(), "{received:?}");
    assert_eq!(verdict(received), Verdict::flawless(bytes as u64));
}

/// Drops a sink whose socket is full, and writes over the ring as soon as space comes back. What the peer got.
fn dropped((socket, reader): Ends, config: SinkConfig, ring: &Ring, at_once: bool) -> (usize, Received) {
    let peer = Peer::reading(reader);
    let accepted = runtime().block_on(async {
        let mut sink = socket.into_sink(config).await;
        let accepted = fill(&mut sink, pieces(ring)).await;
        assert_eq!(sink.stats().bytes_copied, 0, "{:?}", sink.stats());
        drop(sink);
        if at_once {
            assert_eq!(ring.stats().free, TOTAL, "{:?}", ring.stats());
            overwrite(ring, TOTAL).await;
        } else {
            let leased = ring.stats().leased;
            assert!(leased >= accepted && leased < TOTAL, "what was not sent is back: {:?}", ring.stats());
        }
        peer.start();
        overwrite(ring, TOTAL).await;
        assert_eq!(ring.stats().quarantined, 0);
        accepted
    });
    (accepted, peer.finish())
}

#[test]
fn what_a_dropped_sink_has_sent_arrives_while_the_ring_is_written_again() {
    for way in AT_ONCE {
        for ends in [tcp(), unix()] {
            let (accepted, received) = dropped(ends, way.config(), &way.ring(), true);
            is_exactly(&received, accepted);
        }
    }
}

#[test]
fn control_a_ring_that_keeps_its_pages_sends_later_bytes_after_the_sink_is_gone() {
    for ends in [tcp(), unix()] {
        let ring = ring_on(KeepsItsPages(Kind::Anonymous.map(TOTAL)), Reuse::FreshPages);
        let (_, received) = dropped(ends, by(Mechanism::Splice), &ring, true);
        assert!(verdict(&received).wrong > 4096, "{:?}", verdict(&received));
    }
}

#[test]
fn a_dropped_sink_lingers_until_the_peer_has_the_bytes() {
    let test = "a_dropped_sink_lingers_until_the_peer_has_the_bytes";
    for way in BY_THE_PEER {
        let (accepted, received) = dropped(unix(), way.config(), &way.ring(), false);
        is_exactly(&received, accepted);
        if !without_network(test) {
            let network = Network::by_wire(Link::default()).unwrap();
            let (accepted, received) = dropped(over_wire(&network), way.config(), &way.ring(), false);
            is_exactly(&received, accepted);
        }
    }
}

/// The number by which `/proc` knows a socket, whoever has it open.
fn inode(socket: &impl AsFd) -> String {
    fs::read_link(format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd())).unwrap().display().to_string()
}

fn is_open(inode: &str) -> bool {
    let open = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == inode);
    fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok).any(open)
}

/// Closing it would not stop the reader, and would take away what says how far he is.
#[test]
fn the_descriptor_of_a_dropped_af_unix_sink_is_kept_until_the_reader_has_everything_or_is_gone() {
    for reads in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let inode = inode(&ours);
        let ring = BY_THE_PEER[0].ring();
        runtime().block_on(async {
            let mut sink = ours.into_sink(BY_THE_PEER[0].config()).await.unwrap();
            within("send", sink.send(filled(ring.try_reserve(PIECE).unwrap(), 0, PIECE))).await.unwrap();
            drop(sink);
            tokio::task::yield_now().await;
            assert!(is_open(&inode));
            let received = reads.then(|| read_all(&theirs));
            drop(theirs);
            harness::until("its end", || !is_open(&inode)).await;
            assert_eq!(ring.stats().free, TOTAL, "{:?}", ring.stats());
            if let Some(received) = received {
                is_exactly(&received, PIECE);
            }
        });
    }
}

#[test]
fn a_send_dropped_after_any_poll_loses_and_doubles_nothing() {
    for way in AT_ONCE.into_iter().chain(BY_THE_PEER) {
        for polls in 1..6 {
            // Loopback is no path for a trusting sink, whatever it was told.
            let (socket, reader) = if way.releases_at_once() && polls % 2 == 0 { tcp() } else { unix() };
            let peer = Peer::reading(reader);
            let ring = way.ring();
            runtime().block_on(async {
                let mut sink = socket.into_sink(way.config()).await;
                let pieces = pieces(&ring);
                let heads = heads(&pieces);
                let mut queue = queue_of(&heads, &pieces);
                drop(pieces);
                let mut cuts = 0;
                let all = async {
                    while cut_after(polls, || peer.start(), sink.send_queue(&mut queue)).await.is_none() {
                        let accepted = sink.position().accepted as usize;
                        assert_eq!(accepted + queue.remaining(), TOTAL, "{way:?} cut after {polls} polls");
                        cuts += 1;
                        peer.start();
                        tokio::task::yield_now().await;
                    }
                };
                within("sending, cut by cut", all).await;
                assert!(polls > 1 || cuts > 0, "one poll cannot send what no buffer holds");
                within("release", sink.released(TOTAL as u64)).await.unwrap();
                let stats = sink.stats();
                assert_eq!(stats.bytes_copied, (heads.len() * HEAD) as u64, "{way:?}: {stats:?}");
                assert_eq!(ring.stats().leased, 0, "{way:?}: {:?}", ring.stats());
            });
            is_exactly(&peer.finish(), TOTAL);
        }
    }
}

#[test]
fn memory_comes_back_after_the_runtime_has_ended() {
    let test = "memory_comes_back_after_the_runtime_has_ended";
    let network = (!without_network(test)).then(|| Network::by_wire(Link::default()).unwrap());
    let every_end = || [Some(unix()), network.as_ref().map(over_wire)].into_iter().flatten();
    for (way, sink_outlives) in BY_THE_PEER.into_iter().zip([true, false]) {
        for (socket, reader) in every_end() {
            let ring = way.ring();
            let peer = Peer::reading(reader);
            let first = runtime();
            let (sink, accepted) = first.block_on(async {
                let mut sink = socket.into_sink(way.config()).await;
                let accepted = fill(&mut sink, pieces(&ring)).await;
                if sink_outlives {
                    return (Some(sink), accepted);
                }
                // It goes down with a task of the runtime.
                tokio::spawn(async move {
                    let _sink = sink;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
                (None, accepted)
            });
            drop(first);
            assert!(ring.stats().leased >= accepted, "the peer has read nothing yet: {:?}", ring.stats());
            peer.start();
            runtime().block_on(overwrite(&ring, TOTAL));
            drop(sink);
            is_exactly(&peer.finish(), accepted);
        }
    }
}

/// Also of whole pages, which are replaced then.
#[test]
fn the_deadline_is_kept_after_the_runtime_has_ended() {
    for way in BY_THE_PEER {
        let (socket, reader) = unix();
        let ring = way.ring();
        let accepted = runtime().block_on(async {
            let config = way.config().release_timeout(Duration::from_millis(300));
            let mut sink = socket.into_sink(config).await;
            fill(&mut sink, pieces(&ring)).await
        });
        assert!(ring.stats().leased >= accepted);
        runtime().block_on(overwrite(&ring, TOTAL));
        is_exactly(&read_all(reader), accepted);
    }
}
