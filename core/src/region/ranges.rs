//! Ranges that somebody registered: who owns them, and what was said of them.
//!
//! Registering is no rare thing: a web server does it for each body that it sends. So that threads do not wait for each
//! other, addresses are cut into blocks, blocks are spread over shards, and a range is in the shard of every block that
//! it touches.
#![expect(unsafe_code, reason = "facts about memory are a promise; what the maps point to is never freed")]

use std::{
    error::Error,
    fmt, iter, mem,
    ops::Range,
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    cell::Cell,
    map::Map,
    outline::{Key, Outline},
};
use crate::memory::{Backing, MemoryFacts, Reuse};

/// What is known of a registered range.
#[derive(Debug)]
struct Known {
    bytes: Bytes,
    facts: Option<MemoryFacts>,
}

impl Known {
    #[inline]
    fn covers(&self, slice: &[u8]) -> bool {
        let (from, to) = (self.bytes.as_ptr().addr(), slice.as_ptr().addr());
        from <= to && to + slice.len() <= from + self.bytes.len()
    }
}

/// Where one registration is known. Never freed: when the range is no longer registered, another one takes it.
#[derive(Debug)]
struct Place {
    /// The shard whose lock guards it.
    home: usize,
    known: Cell<Known>,
}

/// What changes when a range is registered.
#[derive(Debug)]
struct Registry {
    owners: Outline<Place>,
    /// Apart from the owners, so that a range without facts does not hide one that has them.
    facts: Outline<Place>,
    /// Places at home here.
    unused: Vec<&'static Place>,
}

#[derive(Debug)]
struct Shard {
    owners: Map<Place, 512>,
    facts: Map<Place, 32>,
    registry: Mutex<Registry>,
}

const SHARDS: usize = 64;
/// Logarithm of a block's bytes.
const BLOCK: u32 = 18;

static TABLE: [Shard; SHARDS] = [const {
    let registry = Registry { owners: Outline::new(), facts: Outline::new(), unused: Vec::new() };
    Shard { owners: super::empty_map(), facts: super::empty_map(), registry: Mutex::new(registry) }
}; SHARDS];

#[inline]
fn shard_of(address: usize) -> usize {
    // Fibonacci hashing: neighbouring blocks go to different shards.
    (((address >> BLOCK) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize
}

/// One bit per shard that has a block of the range.
fn shards_of(key: Key) -> u64 {
    let (first, last) = (key.start >> BLOCK, (key.end - 1) >> BLOCK);
    if last - first >= SHARDS {
        return u64::MAX;
    }
    (first..=last).fold(0, |shards, block| shards | 1 << shard_of(block << BLOCK))
}

/// The bits that are set, each as a number.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(bit)
    })
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, registry: &mut Registry, key: Key, place: &'static Place, facts: bool) {
        registry.owners.insert(&self.owners, key, place);
        if facts {
            registry.facts.insert(&self.facts, key, place);
        }
    }

    fn remove(&self, registry: &mut Registry, key: Key, facts: bool) {
        registry.owners.remove(&self.owners, key);
        if facts {
            registry.facts.remove(&self.facts, key);
        }
    }
}

/// Asks what `map`, one of the shard of `slice`'s first byte, has for all of `slice`.
#[inline]
fn find<const N: usize, R>(map: &Map<Place, N>, slice: &[u8], f: impl Fn(&Known) -> Option<R>) -> Option<R> {
    let start = slice.as_ptr().addr();
    loop {
        let place = map.find_any(start, start + slice.len())?;
        // SAFETY: maps are given leaked places only.
        let place = unsafe { &*place };
        let answer = place.known.read(&TABLE[place.home].registry, |known| match known {
            Some(known) if known.covers(slice) => f(known),
            _ => None,
        });
        // The place may be another range's since; then the map has changed, too.
        if answer.is_some() {
            return answer;
        }
    }
}

/// Keeps a range findable with [`owner_of`](super::owner_of), and its memory alive. Dropping it ends that; handles that
/// were found stay good.
#[must_use = "the range is found only while the registration lives"]
pub struct Registration {
    bytes: Bytes,
    facts: Option<MemoryFacts>,
    /// Where it is found; an empty range is not.
    place: Option<(Key, &'static Place)>,
}

/// Makes the range of `bytes` findable with [`owner_of`](super::owner_of).
///
/// Ranges may overlap, and the same range may be registered many times; any of them answers. A strong clone is held, so
/// the memory cannot be freed meanwhile. An empty range is never found. Nothing is said about what the memory is.
pub fn register(bytes: Bytes) -> Registration {
    Registration::new(bytes, None)
}

/// The same, for bytes that live as long as the process and never change: that is what `&'static [u8]` says. They count
/// as [`Reuse::Immutable`], so every mechanism can send them without a copy, to any peer.
pub fn register_static(bytes: &'static [u8]) -> Registration {
    let facts = MemoryFacts::new(Backing::Static, Reuse::Immutable);
    Registration::new(Bytes::from_static(bytes), Some(facts))
}

/// The same, and states what the memory is, for [`locate`](super::locate).
///
/// Of stated ranges that overlap, one that has all of the slice answers; which one is not said. Their facts should agree.
///
/// # Safety
///
/// If `facts` say [`Reuse::Immutable`], the bytes are never written again, by anybody, in this process or through a
/// file that is mapped there, also after the registration and all handles are gone: sockets may go on sending from the
/// pages, and whoever the pages belong to next would be heard by the peer. So the memory must not go back to an
/// allocator, which is what a `Bytes` on heap does in the end. Unmapping it is right. Leaked heap is right too.
///
/// # Errors
///
/// [`CannotReplace`] if `facts` say [`Reuse::FreshPages`]: nobody replaces the pages of a registered range.
pub unsafe fn register_with(bytes: Bytes, facts: MemoryFacts) -> Result<Registration, CannotReplace> {
    if facts.reuse == Reuse::FreshPages {
        return Err(CannotReplace(()));
    }
    Ok(Registration::new(bytes, Some(facts)))
}

/// A registered range was said to get fresh pages, but nobody replaces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannotReplace(());

impl fmt::Display for CannotReplace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody replaces the pages of a registered range; say in-place or immutable, or use a ring")
    }
}

impl Error for CannotReplace {}

impl Registration {
    fn new(bytes: Bytes, facts: Option<MemoryFacts>) -> Self {
        let (start, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
        let place = (start < end).then(|| {
            let home = shard_of(start);
            let known = Known { bytes: bytes.clone(), facts };
            let mut registry = TABLE[home].lock();
            let new = || &*Box::leak(Box::new(Place { home, known: Cell::new() }));
            let place = registry.unused.pop().unwrap_or_else(new);
            // SAFETY: whoever reads or sets a place names its home's lock.
            let before = unsafe { place.known.set(&mut registry, Some(known)) };
            debug_assert!(before.is_none(), "an unused place is empty");
            let key = Key { start, end, id: ptr::from_ref(place).addr() };
            TABLE[home].insert(&mut registry, key, place, facts.is_some());
            drop(registry);
            for shard in bits(shards_of(key) & !(1 << home)) {
                TABLE[shard].insert(&mut TABLE[shard].lock(), key, place, facts.is_some());
            }
            (key, place)
        });
        Self { bytes, facts, place }
    }

    /// The registered bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What was said about them.
    #[must_use]
    pub const fn facts(&self) -> Option<MemoryFacts> {
        self.facts
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some((key, place)) = self.place else { return };
        for shard in bits(shards_of(key) & !(1 << place.home)) {
            TABLE[shard].remove(&mut TABLE[shard].lock(), key, self.facts.is_some());
        }
        let home = &TABLE[place.home];
        let mut registry = home.lock();
        home.remove(&mut registry, key, self.facts.is_some());
        // SAFETY: whoever reads or sets a place names its home's lock.
        let known = unsafe { place.known.set(&mut registry, None) };
        registry.unused.push(place);
        drop(registry);
        // Both handles after the lock: one of them may be the last, and run somebody's destructor.
        drop((known, mem::take(&mut self.bytes)));
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, len) = (self.bytes.as_ptr(), self.bytes.len());
        f.debug_struct("Registration").field("start", &start).field("len", &len).field("facts", &self.facts).finish()
    }
}

#[inline(never)]
pub(super) fn owner_of(slice: &[u8]) -> Option<Bytes> {
    find(&TABLE[shard_of(slice.as_ptr().addr())].owners, slice, |known| Some(known.bytes.slice_ref(slice)))
}

/// What was said about a range that has all of `slice`, and that range's addresses.
#[inline]
pub(super) fn facts_of(slice: &[u8]) -> Option<(MemoryFacts, Range<usize>)> {
    find(&TABLE[shard_of(slice.as_ptr().addr())].facts, slice, |known| {
        let start = known.bytes.as_ptr().addr();
        known.facts.map(|facts| (facts, start..start + known.bytes.len()))
    })
}
