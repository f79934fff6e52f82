//! A sink and a TCP peer that need not keep the rules.

use std::{
    fs,
    io::ErrorKind,
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use zerosink::{SendError, prelude::*};

use crate::{
    harness,
    support::pattern::Verdict,
    way::{Source, Way, each, one_of_each, overwrite},
    wire::{self, raw_peer::RawPeer},
};

pub(crate) const CHUNK: usize = 64 << 10;
/// What leaves before anything is acknowledged: ten segments.
pub(crate) const FIRST: usize = 10 * RawPeer::SEGMENT;
/// Of sinks that are impatient.
const DEADLINE: Duration = Duration::from_millis(300);
/// Of the others: for a peer that takes its time.
const LONG: Duration = Duration::from_secs(60);

/// Plays a scene with one way of each mechanism and proof.
pub(crate) fn with_each_way(scene: impl Fn(Way) + Sync) {
    each(one_of_each(), || (), |way, ()| scene(way));
}

/// What ended with memory in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    Sink,
    Runtime,
}

/// One connection, whose chunk is sent and partly in the device, where the peer has not read it.
pub(crate) struct Scene {
    way: Way,
    runtime: Runtime,
    pub(crate) sink: AutoSink,
    pub(crate) peer: RawPeer,
    /// The sink's socket, to ask the kernel about it.
    socket: TcpStream,
    pub(crate) ring: Ring,
    capacity: usize,
}

impl Scene {
    /// A chunk is sent.
    pub(crate) fn sent(way: Way) -> Self {
        Self::sent_within(way, LONG)
    }

    /// The same with a short deadline.
    pub(crate) fn impatient(way: Way) -> Self {
        Self::sent_within(way, DEADLINE)
    }

    fn sent_within(way: Way, deadline: Duration) -> Self {
        let mut scene = Self::connected(way, deadline);
        let mut source = Source::new(way, CHUNK);
        scene.ring = source.ring.clone();
        scene.runtime.block_on(async {
            let piece = source.next(CHUNK).await;
            harness::within(way.name, scene.sink.send(piece)).await.unwrap();
        });
        scene.peer.wait_unread().unwrap();
        scene
    }

    fn connected(way: Way, deadline: Duration) -> Self {
        let (socket, peer) = RawPeer::connect(256 << 10).unwrap();
        // Of more than one thread: the driver works while the peer is at work on this one.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let own = socket.try_clone().unwrap();
        let sink = runtime.block_on(socket.into_sink(way.config_within(deadline))).unwrap();
        Self { way, runtime, sink, peer, socket: own, ring: way.ring(CHUNK), capacity: CHUNK }
    }

    /// Bytes in custody.
    pub(crate) fn pinned(&self) -> u64 {
        self.sink.stats().pinned_bytes
    }

    /// Bytes that the kernel wants to have acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        wire::unacknowledged(&self.socket).unwrap()
    }

    /// Nothing was acknowledged: who awaits a proof has everything in custody.
    #[track_caller]
    pub(crate) fn holds_what_it_must(&self) {
        let stats = self.sink.stats();
        if self.way.mechanism.is_some() {
            let held = if self.way.proof.is_awaited() { CHUNK } else { 0 };
            assert_eq!(stats.pinned_bytes, held as u64, "{}: {stats:?}", self.way.name);
            assert_eq!(self.ring.stats().leased, held, "{}: {:?}", self.way.name, self.ring.stats());
        }
        assert_eq!(self.sink.position().released, CHUNK as u64 - stats.pinned_bytes, "{}: {stats:?}", self.way.name);
    }

    /// Waits for release. An error says how many bytes nobody will ever prove.
    pub(crate) fn released(&mut self) -> Result<(), u64> {
        let accepted = self.sink.position().accepted;
        let released = harness::within(self.way.name, self.sink.released(accepted));
        let released = self.runtime.block_on(released);
        self.settle();
        released.map_err(|error| error.quarantined)
    }

    /// The driver is on another thread: the ring has what it gives back a moment later.
    fn settle(&self) {
        self.runtime.block_on(harness::until(self.way.name, || self.ring.stats().leased == 0));
    }

    /// The same, while the peer does this again and again.
    pub(crate) fn released_by(&mut self, mut act: impl FnMut(&mut RawPeer)) -> Result<(), u64> {
        let start = Instant::now();
        loop {
            act(&mut self.peer);
            let accepted = self.sink.position().accepted;
            let released = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(5), self.sink.released(accepted)).await });
            if let Ok(released) = released {
                self.settle();
                return released.map_err(|error| error.quarantined);
            }
            assert!(start.elapsed() < harness::STEP, "{}: no release", self.way.name);
        }
    }

    /// Closes this side's direction.
    pub(crate) fn close(&mut self) {
        let closing = self.sink.close();
        self.runtime.block_on(async { harness::within("closing", closing).await }).unwrap();
    }

    /// Drops the sink, and waits until nobody has its socket but this scene.
    pub(crate) fn drop_sink(self) {
        let link = |fd: &Path| fs::read_link(fd).ok();
        let own = link(Path::new(&format!("/proc/self/fd/{}", self.socket.as_raw_fd())));
        let open = || {
            let entries = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
            entries.filter(|entry| link(&entry.path()) == own).count()
        };
        assert!(own.is_some() && open() > 1, "{}: the sink has it", self.way.name);
        drop(self.sink);
        self.runtime.block_on(harness::until("the socket's end", || open() == 1));
    }

    /// Nobody has the sink any more, or its runtime has ended; then the peer does this. All memory comes back, is written over, and
    /// what the peer takes from its way then is what was sent.
    pub(crate) fn goes_on_without(self, gone: Gone, act: impl FnOnce(&RawPeer)) {
        self.holds_what_it_must();
        let Self { way, runtime, sink, mut peer, ring, capacity, .. } = self;
        let (_runtime, _sink) = match gone {
            Gone::Sink => {
                drop(sink);
                (Some(runtime), None)
            }
            Gone::Runtime => {
                drop(runtime);
                (None, Some(sink))
            }
        };
        act(&peer);
        let (start, whole) = (Instant::now(), |ring: &Ring| ring.stats().free + ring.stats().retired == capacity);
        while !whole(&ring) {
            assert!(start.elapsed() < harness::STEP, "{} without its {gone:?}: {:?}", way.name, ring.stats());
            thread::yield_now();
        }
        overwrite(&ring);
        assert_eq!(judge(peer.receive_rest().unwrap()).wrong, 0, "{} without its {gone:?}", way.name);
    }

    /// What a further send is answered.
    pub(crate) fn send(&mut self) -> Result<(), SendError> {
        let more = self.sink.send(Bytes::from_static(b"more"));
        self.runtime.block_on(async { harness::within("one more send", more).await })
    }

    /// The connection was revoked.
    #[track_caller]
    pub(crate) fn fails_with_time_out(&mut self) {
        let error = self.send().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{}: {error:?}", self.way.name);
    }

    /// Writes over everything that the ring gives.
    pub(crate) fn overwrite(&self) {
        overwrite(&self.ring);
    }

    /// The peer keeps the rules, until it has so much of the stream.
    pub(crate) fn received(&mut self, bytes: usize) -> Verdict {
        judge(self.peer.receive(bytes).unwrap())
    }

    /// The peer takes what is on its way.
    pub(crate) fn received_rest(&mut self) -> Verdict {
        judge(self.peer.receive_rest().unwrap())
    }

    /// Nothing is in custody, so many bytes were abandoned, and the ring is whole: it has replaced them.
    #[track_caller]
    pub(crate) fn balances(&self, abandoned: u64) {
        let (stats, ring) = (self.sink.stats(), self.ring.stats());
        let seen = (stats.pinned_bytes, stats.quarantined_bytes, stats.strays, stats.abandoned_bytes);
        assert_eq!(seen, (0, 0, 0, abandoned), "{}: {stats:?}", self.way.name);
        let out = (ring.leased, ring.granted, ring.distrusted, ring.quarantined);
        assert_eq!(out, (0, 0, 0, 0), "{}: {ring:?}", self.way.name);
        assert_eq!(ring.free + ring.retired, self.capacity, "{}: {ring:?}", self.way.name);
    }
}

fn judge(stream: &[u8]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.take(stream);
    verdict
}
