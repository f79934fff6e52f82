//! The wire: a thread that carries frames from one TAP device to another, and takes its time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io, mem,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{
    conditions::{Conditions, Fates},
    tap::Tap,
};

/// A wire between two devices. It carries frames until it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicBool,
    /// Forth and back.
    counts: [Counts; 2],
}

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

/// What happened to the frames of one direction so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Frames that arrived, and their bytes.
    pub(crate) carried: u64,
    pub(crate) bytes: u64,
    /// Lost by chance, or because the wire was cut.
    pub(crate) lost: u64,
    /// Lost because too much was on the way.
    pub(crate) overflowed: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
}

impl Wire {
    /// Joins `ends`: the first condition is for frames from the first to the second, the other for the way back.
    pub(crate) fn join(ends: [Tap; 2], conditions: [Conditions; 2]) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let lanes = conditions.map(Lane::new);
        let carrier =
            Carrier { ends, lanes, shared: Arc::clone(&shared), stop: Arc::clone(&stop), buffers: Vec::new() };
        let thread = thread::Builder::new().name("wire".into()).spawn(|| carrier.run())?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// From now on every frame that is sent is lost. What is on its way arrives.
    pub(crate) fn cut(&self) {
        self.shared.cut.store(true, Relaxed);
    }

    /// Undoes [`cut`](Self::cut).
    pub(crate) fn mend(&self) {
        self.shared.cut.store(false, Relaxed);
    }

    /// What happened on the way forth, and on the way back.
    pub(crate) fn tally(&self) -> [Tally; 2] {
        self.shared.counts.each_ref().map(|counts| Tally {
            carried: counts.carried.load(Relaxed),
            bytes: counts.bytes.load(Relaxed),
            lost: counts.lost.load(Relaxed),
            overflowed: counts.overflowed.load(Relaxed),
            duplicated: counts.duplicated.load(Relaxed),
            reordered: counts.reordered.load(Relaxed),
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).expect("an eventfd takes a 1");
        let ended = self.thread.take().map(JoinHandle::join);
        // A wire that broke by itself made its test meaningless; do not hide a first panic behind a second.
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(())))), "the wire broke: {ended:?}");
        }
    }
}

/// A frame on its way. The earliest comes first, of equals the one that was sent first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Instant,
    number: u64,
    frame: Frame,
}

/// The first `bytes` of a buffer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    buffer: Vec<u8>,
    bytes: usize,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    conditions: Conditions,
    fates: Fates,
    flying: BinaryHeap<Reverse<Flight>>,
    bytes: usize,
    /// When the last frame has left, at the lane's rate.
    idle_from: Instant,
    sent: u64,
}

impl Lane {
    fn new(conditions: Conditions) -> Self {
        let fates = Fates::new(conditions);
        Self { conditions, fates, flying: BinaryHeap::new(), bytes: 0, idle_from: Instant::now(), sent: 0 }
    }

    /// When a frame of so many bytes arrives that is sent now.
    fn arrival(&mut self, bytes: usize) -> Instant {
        let now = Instant::now();
        if let Some(rate) = self.conditions.bytes_per_second {
            self.idle_from = self.idle_from.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.idle_from + self.conditions.delay
        } else {
            now + self.conditions.delay
        }
    }

    fn send(&mut self, frame: Frame, due: Instant) {
        self.bytes += frame.bytes;
        self.sent += 1;
        self.flying.push(Reverse(Flight { due, number: self.sent, frame }));
    }

    /// The next frame that has arrived.
    fn arrived(&mut self, now: Instant) -> Option<Frame> {
        let due = self.flying.peek().is_some_and(|Reverse(flight)| flight.due <= now);
        let Reverse(flight) = if due { self.flying.pop() } else { None }?;
        self.bytes -= flight.frame.bytes;
        Some(flight.frame)
    }
}

/// The thread's own.
struct Carrier {
    ends: [Tap; 2],
    lanes: [Lane; 2],
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    /// Buffers of full length, to be filled again.
    buffers: Vec<Vec<u8>>,
}

impl Carrier {
    /// So many frames are taken before the others are looked at.
    const BATCH: usize = 16;
    /// Shorter frames are copied out of their buffer, so that a thousand acknowledgements do not hold 64 MiB.
    const SHORT: usize = 4 << 10;

    fn run(mut self) -> io::Result<()> {
        loop {
            for direction in [0, 1] {
                self.deliver(direction)?;
            }
            let next = self.lanes.iter().filter_map(|lane| lane.flying.peek()).map(|Reverse(flight)| flight.due).min();
            let timeout = next.map(|due| due.saturating_duration_since(Instant::now()));
            let timeout = timeout.map(|left| Timespec::try_from(left).map_err(io::Error::other)).transpose()?;
            let [near, far] = &self.ends;
            let mut fds = [
                PollFd::new(near, PollFlags::IN),
                PollFd::new(far, PollFlags::IN),
                PollFd::new(&*self.stop, PollFlags::IN),
            ];
            poll(&mut fds, timeout.as_ref())?;
            let ready = fds.map(|fd| !fd.revents().is_empty());
            if ready[2] {
                return Ok(());
            }
            for direction in [0, 1] {
                if ready[direction] {
                    self.accept(direction)?;
                }
            }
        }
    }

    /// Hands over what has arrived.
    fn deliver(&mut self, direction: usize) -> io::Result<()> {
        let counts = &self.shared.counts[direction];
        let now = Instant::now();
        while let Some(Frame { buffer, bytes }) = self.lanes[direction].arrived(now) {
            // Counted first: whoever reads what it brings finds it counted.
            counts.carried.fetch_add(1, Relaxed);
            counts.bytes.fetch_add(bytes as u64, Relaxed);
            self.ends[1 - direction].put(&buffer[..bytes])?;
            if buffer.len() == Tap::FRAME {
                self.buffers.push(buffer);
            }
        }
        Ok(())
    }

    /// Takes what was sent.
    fn accept(&mut self, direction: usize) -> io::Result<()> {
        let (lane, counts) = (&mut self.lanes[direction], &self.shared.counts[direction]);
        for _ in 0..Self::BATCH {
            let mut buffer = self.buffers.pop().unwrap_or_else(|| vec![0; Tap::FRAME]);
            let Some(bytes) = self.ends[direction].take(&mut buffer)? else {
                self.buffers.push(buffer);
                break;
            };
            if bytes < Self::SHORT {
                let short = buffer[..bytes].to_vec();
                self.buffers.push(mem::replace(&mut buffer, short));
            }
            let fate = lane.fates.decide();
            if self.shared.cut.load(Relaxed) || fate.lost {
                counts.lost.fetch_add(1, Relaxed);
                continue;
            }
            if lane.bytes + bytes > lane.conditions.backlog {
                counts.overflowed.fetch_add(1, Relaxed);
                continue;
            }
            let (frame, mut due) = (Frame { buffer, bytes }, lane.arrival(bytes));
            if fate.twice {
                counts.duplicated.fetch_add(1, Relaxed);
                lane.send(frame.clone(), due);
            }
            if fate.detour {
                counts.reordered.fetch_add(1, Relaxed);
                due += Conditions::DETOUR;
            }
            lane.send(frame, due);
        }
        Ok(())
    }
}
