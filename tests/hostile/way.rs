//! How bytes go: the mechanism, the memory, and whose word releases it.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use zerosink::{Path, Proof, mapped::MapOptions, prelude::*};

use crate::support::{POISON, pattern};

/// Where the bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Heap,
    Anonymous,
    Memfd,
}

/// One way to send a stream out of a small ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// As tables name it.
    pub(crate) name: &'static str,
    /// `None`: `auto` decides.
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) place: Place,
    pub(crate) reuse: Reuse,
    /// What releases the memory; of `auto`, at worst.
    pub(crate) proof: Proof,
}

const fn way(name: &'static str, mechanism: Option<Mechanism>, place: Place, reuse: Reuse, proof: Proof) -> Way {
    Way { name, mechanism, place, reuse, proof }
}

/// Every mechanism, with every kind of memory that it can send.
pub(crate) const WAYS: &[Way] = {
    use Mechanism::{Copy, Gift, MsgZerocopy, Splice};
    use Place::{Anonymous, Heap, Memfd};
    use Proof::{Acked, Copied, Immutable, Notified, Replaced};
    &[
        way("copy", Some(Copy), Heap, Reuse::InPlace, Copied),
        way("msg-zerocopy", Some(MsgZerocopy), Heap, Reuse::InPlace, Notified),
        way("msg-zerocopy, mapped", Some(MsgZerocopy), Anonymous, Reuse::InPlace, Notified),
        #[cfg(zerosink_uring)]
        way("io-uring", Some(Mechanism::IoUring), Heap, Reuse::InPlace, Notified),
        #[cfg(zerosink_uring)]
        way("io-uring, registered", Some(Mechanism::IoUring), Anonymous, Reuse::InPlace, Notified),
        way("splice, fresh pages", Some(Splice), Anonymous, Reuse::FreshPages, Replaced),
        way("splice, fresh pages, memfd", Some(Splice), Memfd, Reuse::FreshPages, Replaced),
        way("splice, immutable", Some(Splice), Anonymous, Reuse::Immutable, Immutable),
        way("splice, immutable, memfd", Some(Splice), Memfd, Reuse::Immutable, Immutable),
        way("splice, in place", Some(Splice), Anonymous, Reuse::InPlace, Acked),
        way("splice, in place, memfd", Some(Splice), Memfd, Reuse::InPlace, Acked),
        way("gift, fresh pages", Some(Gift), Anonymous, Reuse::FreshPages, Replaced),
        way("gift, in place", Some(Gift), Anonymous, Reuse::InPlace, Replaced),
        way("auto, in place", None, Heap, Reuse::InPlace, Notified),
        way("auto, fresh pages", None, Anonymous, Reuse::FreshPages, Notified),
        way("auto, immutable", None, Memfd, Reuse::Immutable, Immutable),
        way("auto, in place, trusting", None, Anonymous, Reuse::InPlace, Acked),
    ]
};

/// The same for `AF_UNIX`.
pub(crate) const LOCAL_WAYS: &[Way] = {
    use Mechanism::{Copy, Gift, Splice};
    use Place::{Anonymous, Heap, Memfd};
    use Proof::{Consumed, Copied, Immutable, Replaced};
    &[
        way("copy", Some(Copy), Heap, Reuse::InPlace, Copied),
        way("splice, fresh pages", Some(Splice), Anonymous, Reuse::FreshPages, Replaced),
        way("splice, fresh pages, memfd", Some(Splice), Memfd, Reuse::FreshPages, Replaced),
        way("splice, immutable", Some(Splice), Anonymous, Reuse::Immutable, Immutable),
        way("splice, immutable, memfd", Some(Splice), Memfd, Reuse::Immutable, Immutable),
        way("splice, in place", Some(Splice), Anonymous, Reuse::InPlace, Consumed),
        way("splice, in place, memfd", Some(Splice), Memfd, Reuse::InPlace, Consumed),
        way("gift, fresh pages", Some(Gift), Anonymous, Reuse::FreshPages, Replaced),
        way("gift, in place", Some(Gift), Anonymous, Reuse::InPlace, Replaced),
        way("auto, in place", None, Anonymous, Reuse::InPlace, Copied),
        way("auto, fresh pages", None, Anonymous, Reuse::FreshPages, Replaced),
        way("auto, immutable", None, Memfd, Reuse::Immutable, Immutable),
        way("auto, in place, trusting", None, Anonymous, Reuse::InPlace, Consumed),
    ]
};

impl Way {
    /// The settings that go with it. Who trusts says also that the peer is elsewhere, for a TAP device is of this host.
    pub(crate) fn config(self) -> SinkConfig {
        let config = self.mechanism.map_or_else(SinkConfig::new, |mechanism| SinkConfig::new().mechanism(mechanism));
        match self.proof {
            Proof::Acked => config.trust_peer_acks().path(Path::OffHost),
            Proof::Consumed => config.peer_copies(),
            _ => config,
        }
    }

    /// The same with a deadline.
    pub(crate) fn config_within(self, deadline: Duration) -> SinkConfig {
        self.config().release_timeout(deadline)
    }

    /// It rests on the peer's word.
    pub(crate) fn trusts(self) -> bool {
        !self.proof.is_kernel_proof()
    }

    /// A ring of that memory, which poisons what comes back.
    pub(crate) fn ring(self, bytes: usize) -> Ring {
        let builder = Ring::builder().reuse(self.reuse).poison(POISON);
        let memory = |memory: io::Result<zerosink::mapped::MappedMemory>| memory.expect("the host maps memory");
        match self.place {
            Place::Heap => builder.capacity(bytes).build(),
            Place::Anonymous => builder.granule(4096).build_on(memory(MapOptions::new().anonymous(bytes))),
            Place::Memfd => builder.granule(4096).build_on(memory(MapOptions::new().memfd(bytes))),
        }
        .expect("the ring can be built")
    }
}

/// One way of each mechanism and proof.
pub(crate) fn one_of_each() -> impl Iterator<Item = Way> {
    let same = |one: &Way, other: &Way| (one.mechanism, one.proof) == (other.mechanism, other.proof);
    WAYS.iter()
        .enumerate()
        .filter(move |(index, way)| !WAYS[..*index].iter().any(|other| same(way, other)))
        .map(|(_, way)| *way)
}

/// Plays a scene with each of these ways, some at the same time, for most of it is waiting. What `prepare` makes is used by one
/// scene at a time.
pub(crate) fn each<T>(ways: impl Iterator<Item = Way>, prepare: impl Fn() -> T + Sync, scene: impl Fn(Way, &T) + Sync) {
    let ways = Mutex::new(ways.collect::<Vec<_>>());
    let next = || ways.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let prepared = prepare();
                while let Some(way) = next() {
                    scene(way, &prepared);
                }
            });
        }
    });
}

/// The stream, piece by piece, in ring memory.
#[derive(Debug)]
pub(crate) struct Source {
    way: Way,
    bytes: usize,
    pub(crate) ring: Ring,
    pub(crate) offset: u64,
}

impl Source {
    /// Out of a ring of so many bytes.
    pub(crate) fn new(way: Way, bytes: usize) -> Self {
        Self { way, bytes, ring: way.ring(bytes), offset: 0 }
    }

    /// The next piece, when there is space for it.
    pub(crate) async fn next(&mut self, bytes: usize) -> Bytes {
        if self.way.reuse == Reuse::Immutable && self.ring.try_reserve(bytes).is_err() {
            // Nothing is used twice. What was sent lives on as long as somebody refers to it.
            self.ring = self.way.ring(self.bytes);
        }
        let mut grant = self.ring.reserve(bytes).await.expect("a piece fits into the ring");
        pattern::fill(self.offset, grant.as_mut_slice());
        grant.fill(bytes).expect("the grant is as large as it was asked for");
        self.offset += bytes as u64;
        grant.commit()
    }
}

/// Writes over all that a ring gives.
pub(crate) fn overwrite(ring: &Ring) {
    let mut taken = Vec::new();
    while let Ok(mut grant) = ring.try_reserve(4096) {
        grant.as_mut_slice().fill(POISON);
        taken.push(grant);
    }
}
