//! A transfer while something fails, and what must hold however it ends: right bytes and no others, all memory back, no descriptor left.

use std::{
    fmt, io,
    net::TcpStream,
    ops::Range,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use zerosink::{
    AutoSink, Path, Refusal, SinkStats,
    mapped::{MapOptions, Replacement},
    prelude::*,
};

use super::{
    harness::{Peer, Received, SMALL, STEP, Tally, connection, cut_after, runtime, within},
    support::{
        mapped::ring_on,
        pattern::{self, Verdict},
    },
};

pub(crate) const TOTAL: usize = 512 << 10;
/// Pages, for rings that replace them.
const PIECE: usize = 32 << 10;
/// Twice, or some things would not happen a second time.
const RING: usize = 4 * PIECE;
/// Looked at four times in that time.
const TIMEOUT: Duration = Duration::from_millis(1600);

/// Whose memory is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Heap,
    /// Pieces of 1 KiB, several to a call.
    Crumbs,
    Anonymous(Replacement),
    Memfd,
    /// As large as the stream, for a peer on this host has the pages after it has acknowledged them.
    InPlace,
}

/// One way to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// `None`: as if completions had said that this is no path within the host.
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) unix: bool,
    pub(crate) memory: Memory,
}

/// How a transfer ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) not_made: Option<Failure>,
    pub(crate) not_sent: Option<Failure>,
    pub(crate) not_closed: Option<Failure>,
    /// So many bytes will not be reused.
    pub(crate) not_released: Option<u64>,
    /// A ring has lost so much to the quarantine that no piece fits in.
    pub(crate) no_ring: bool,
    /// Bytes of the ring in quarantine.
    pub(crate) ring_lost: usize,
    pub(crate) stats: SinkStats,
}

/// An error, as a test compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: io::ErrorKind,
    /// Of the system call, at the end of the chain.
    pub(crate) errno: Option<i32>,
    pub(crate) text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let (mut text, mut errno) = (error.to_string(), error.raw_os_error());
        let mut cause = error.get_ref().and_then(|inner| inner.source());
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).or(errno);
            cause = error.source();
        }
        Self { kind: error.kind(), errno, text }
    }
}

impl Outcome {
    /// Nobody noticed anything.
    pub(crate) fn is_whole(&self) -> bool {
        let errors = [&self.not_made, &self.not_sent, &self.not_closed];
        errors.iter().all(|error| error.is_none()) && self.not_released.is_none() && !self.no_ring
    }

    /// Bytes that were copied for this reason.
    pub(crate) fn copied_by(&self, reason: Refusal) -> u64 {
        self.stats.copied[reason.index()]
    }
}

/// A socket of either kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) async fn into_sink(self, config: SinkConfig) -> io::Result<AutoSink> {
        match self {
            Self::Tcp(socket) => socket.into_sink(config).await,
            Self::Unix(socket) => socket.into_sink(config).await,
        }
    }
}

impl Way {
    pub(crate) fn config(&self) -> SinkConfig {
        let config = SinkConfig::new().release_timeout(TIMEOUT);
        let config = match self.mechanism {
            Some(mechanism) => config.mechanism(mechanism),
            None => config.path(Path::OffHost).copy_threshold(0),
        };
        match self.memory {
            // Loopback is not off this host; the ring is never reused, so that nobody sees the difference.
            Memory::InPlace if self.unix => config.peer_copies(),
            Memory::InPlace => config.path(Path::OffHost).trust_peer_acks(),
            _ => config,
        }
    }

    pub(crate) fn ring(&self) -> Option<Ring> {
        Some(match self.memory {
            Memory::Heap | Memory::Crumbs => return None,
            Memory::Anonymous(replacement) => {
                let memory = MapOptions::new().replacement(replacement).anonymous(RING).unwrap();
                ring_on(memory, Reuse::FreshPages)
            }
            Memory::Memfd => ring_on(MapOptions::new().memfd(RING).unwrap(), Reuse::FreshPages),
            Memory::InPlace => ring_on(MapOptions::new().anonymous(TOTAL).unwrap(), Reuse::InPlace),
        })
    }

    /// Sends the stream, to a peer that begins to read when the socket is full. `begin` is called when everything that is not ours is
    /// there, and `end` when the sink is gone.
    pub(crate) fn transfer(&self, begin: impl FnOnce(), end: impl FnOnce()) -> Outcome {
        self.transfer_with(begin, |_| {}, end)
    }

    /// The same, with something that happens when half of it is sent, and is told which memory that was.
    pub(crate) fn transfer_with(
        &self,
        begin: impl FnOnce(),
        midway: impl FnOnce(&[Range<usize>]),
        end: impl FnOnce(),
    ) -> Outcome {
        let (socket, peer) = if self.unix {
            let (ours, theirs) = UnixStream::pair().unwrap();
            // So that it is full now and then.
            socket2::SockRef::from(&ours).set_send_buffer_size(TOTAL / 16).unwrap();
            theirs.set_read_timeout(Some(STEP)).unwrap();
            (Socket::Unix(ours), Peer::reading(theirs))
        } else {
            let (ours, theirs) = connection(SMALL);
            (Socket::Tcp(ours), Peer::reading(theirs))
        };
        let (ring, tally) = (self.ring(), Tally::default());
        let mut outcome = Outcome::default();
        let runtime = runtime();
        let accepted = runtime.block_on(async {
            begin();
            let mut sink = match socket.into_sink(self.config()).await {
                Ok(sink) => sink,
                Err(error) => {
                    outcome.not_made = Some(error.into());
                    return 0;
                }
            };
            let half = TOTAL / 2;
            let sent = self.send(0..half, &mut sink, &peer, (ring.as_ref(), &tally), &mut outcome).await;
            midway(&sent);
            if outcome.is_whole() {
                self.send(half..TOTAL, &mut sink, &peer, (ring.as_ref(), &tally), &mut outcome).await;
            }
            peer.start();
            let accepted = sink.position().accepted;
            // While the connection is open: its end would be one more event.
            if let Err(error) = within("release", sink.released(accepted)).await {
                outcome.not_released = Some(error.quarantined);
            }
            if outcome.not_sent.is_none() {
                outcome.not_closed =
                    within("close", sink.close()).await.err().map(|error| io::Error::from(error).into());
            }
            outcome.stats = sink.stats();
            accepted
        });
        end();
        drop(runtime);
        outcome.ring_lost = self.settles(&outcome, accepted, (ring, &tally), peer.finish());
        outcome
    }

    /// The piece of the stream at `offset`. Waits for space in the ring.
    pub(crate) async fn piece(&self, offset: usize, ring: Option<&Ring>, tally: &Tally) -> SendQueue<'static> {
        self.piece_of(offset, ring, tally).await.expect("space")
    }

    async fn piece_of(
        &self,
        offset: usize,
        ring: Option<&Ring>,
        tally: &Tally,
    ) -> Result<SendQueue<'static>, zerosink::RingError> {
        let mut queue = SendQueue::new();
        let filled = |offset: usize, bytes| {
            let mut piece = vec![0; bytes];
            pattern::fill(offset as u64, &mut piece);
            tally.lend(piece)
        };
        match (self.memory, ring) {
            (Memory::Crumbs, _) => {
                (offset..offset + PIECE).step_by(1 << 10).for_each(|at| queue.push(filled(at, 1 << 10)));
            }
            (_, None) => queue.push(filled(offset, PIECE)),
            (_, Some(ring)) => queue.push(super::support::filled(ring.reserve(PIECE).await?, offset as u64, PIECE)),
        }
        Ok(queue)
    }

    async fn send(
        &self,
        range: Range<usize>,
        sink: &mut AutoSink,
        peer: &Peer,
        (ring, tally): (Option<&Ring>, &Tally),
        outcome: &mut Outcome,
    ) -> Vec<Range<usize>> {
        let mut memory = Vec::new();
        for offset in range.step_by(PIECE) {
            // A peer that has not begun to read may have all of the ring.
            let piece = cut_after(usize::MAX, || peer.start(), self.piece_of(offset, ring, tally));
            let Ok(mut queue) = within("space in the ring", piece).await.unwrap() else {
                outcome.no_ring = true;
                return memory;
            };
            let addresses = queue.segments().iter().map(|segment| segment.as_slice().as_ptr_range());
            memory.extend(addresses.map(|range| range.start.expose_provenance()..range.end.expose_provenance()));
            let sent = cut_after(usize::MAX, || peer.start(), sink.send_queue(&mut queue));
            if let Err(error) = within("send", sent).await.unwrap() {
                let left: usize = queue.segments().iter().map(|segment| segment.as_slice().len()).sum();
                assert_eq!(offset + PIECE - left, sink.position().accepted as usize, "{error}");
                outcome.not_sent = Some(io::Error::from(error).into());
                return memory;
            }
        }
        memory
    }

    /// What must hold whatever has failed. Returns what the ring has lost.
    fn settles(
        &self,
        outcome: &Outcome,
        accepted: u64,
        (ring, tally): (Option<Ring>, &Tally),
        received: Received,
    ) -> usize {
        let mut verdict = Verdict::default();
        verdict.take(&received.bytes);
        assert_eq!((verdict.wrong, verdict.first_wrong), (0, None), "wrong bytes: {outcome:?}");
        let flawless = outcome.not_sent.is_none() && outcome.not_released.is_none() && outcome.not_closed.is_none();
        if flawless && !outcome.no_ring && outcome.not_made.is_none() {
            assert_eq!(accepted, TOTAL as u64);
        }
        if flawless {
            assert!(received.end.is_ok(), "{received:?}, {outcome:?}");
            assert_eq!(verdict.bytes, accepted, "{outcome:?}");
        }
        assert!(verdict.bytes <= accepted, "{} bytes came: {outcome:?}", verdict.bytes);
        let stats = &outcome.stats;
        assert_eq!(stats.bytes_zero_copy + stats.bytes_copied, accepted, "{outcome:?}");
        assert_eq!((stats.strays, stats.pinned_bytes), (0, stats.quarantined_bytes), "{outcome:?}");
        assert!(stats.quarantined_bytes == 0 || outcome.not_released.is_some(), "{outcome:?}");
        tally.wait_for_all();
        if let Some(ring) = ring {
            let started = Instant::now();
            let settled = || {
                let stats = ring.stats();
                stats.free + stats.quarantined + stats.retired == stats.capacity
            };
            while !settled() {
                assert!(started.elapsed() < STEP, "memory that never came back: {:?}, {outcome:?}", ring.stats());
                std::thread::yield_now();
            }
            return ring.stats().quarantined;
        }
        0
    }
}

/// Descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until there are no more than before: a reaper may still be at work.
#[track_caller]
pub(crate) fn no_more_descriptors_than(before: usize, what: &dyn fmt::Debug) {
    let started = Instant::now();
    while descriptors() > before {
        if started.elapsed() > STEP {
            let open: Vec<_> = std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .collect();
            panic!("{} descriptors, {before} before: {open:?}: {what:?}", open.len());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The first and a middle call of so many, and the last.
pub(crate) fn some_of(calls: usize) -> Vec<usize> {
    let mut some = vec![0, calls / 2, calls.saturating_sub(1)];
    some.dedup();
    some
}

/// Nearly every call of so many.
pub(crate) fn each_of(calls: usize) -> Vec<usize> {
    const MOST: usize = 24;
    (0..calls).step_by(calls.div_ceil(MOST).max(1)).collect()
}
