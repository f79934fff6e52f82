//! Ranges that somebody registered: who owns them, and what was said of them.
//!
//! Addresses are cut into blocks of 2 MiB, blocks are spread over shards, and a range is kept in the shard of every block that
//! it touches. A shard keeps apart what matters: **outer** ranges, none of which lies within another, so that in order of
//! their starts their ends are in order too, and the last one that starts at or before an address is the one that reaches
//! furthest; and **inner** ranges, which lie within an outer one and are never asked, until that one goes.

#![expect(unsafe_code, reason = "facts about memory are a promise that the compiler cannot check")]

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, mem,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::memory::{Backing, MemoryFacts, Reuse};

const SHARDS: usize = 64;
const BLOCK: u32 = 21;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    start: usize,
    end: usize,
    id: u64,
}

#[derive(Debug)]
struct Outer<T> {
    end: usize,
    id: u64,
    value: T,
}

#[derive(Debug)]
struct Shard<T> {
    outer: BTreeMap<usize, Outer<T>>,
    inner: BTreeMap<Key, T>,
}

/// A cache line of its own, so that neighbours do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(Mutex<Shard<T>>);

#[derive(Debug)]
struct Table<T> {
    shards: [Padded<T>; SHARDS],
    ranges: AtomicUsize,
}

static OWNERS: Table<Bytes> = Table::new();
/// Apart from the owners, so that a range without facts does not hide one that has them.
static FACTS: Table<MemoryFacts> = Table::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn shard_of(address: usize) -> usize {
    // Fibonacci hashing: neighbouring blocks go to different shards.
    (((address >> BLOCK) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize
}

/// One bit per shard that has a block of `start..end`.
fn shards(start: usize, end: usize) -> u64 {
    let (first, last) = (start >> BLOCK, (end - 1) >> BLOCK);
    if last - first >= SHARDS {
        return u64::MAX;
    }
    (first..=last).fold(0, |shards, block| shards | 1 << shard_of(block << BLOCK))
}

impl<T> Shard<T> {
    /// The outer range that starts at or before `start` and reaches furthest.
    fn covering(&self, start: usize, end: usize) -> Option<(usize, &Outer<T>)> {
        self.outer
            .range(..=start)
            .next_back()
            .map(|(&start, outer)| (start, outer))
            .filter(|(_, outer)| end <= outer.end)
    }

    fn insert(&mut self, key: Key, value: T) {
        if self.covering(key.start, key.end).is_some() {
            self.inner.insert(key, value);
            return;
        }
        // Outer ranges within the new one start in it, and are in order of their ends: the first that sticks out ends the row.
        while let Some((&start, outer)) = self.outer.range(key.start..key.end).next()
            && outer.end <= key.end
        {
            if let Some(Outer { end, id, value }) = self.outer.remove(&start) {
                self.inner.insert(Key { start, end, id }, value);
            }
        }
        self.outer.insert(key.start, Outer { end: key.end, id: key.id, value });
    }

    /// The value is for the caller to drop, after the lock.
    fn remove(&mut self, key: Key) -> Option<T> {
        if let Some(value) = self.inner.remove(&key) {
            return Some(value);
        }
        let outer = self.outer.get(&key.start).filter(|outer| outer.id == key.id)?.end;
        debug_assert_eq!(outer, key.end, "one id, one range");
        let removed = self.outer.remove(&key.start)?;
        // What lay within it may be outer now. In order of start; of two with one start the second is the longer, and takes
        // the first in again.
        let from = Key { start: key.start, end: 0, id: 0 };
        let to = Key { start: key.end, end: 0, id: 0 };
        let freed: Vec<Key> = self.inner.range(from..to).map(|(&key, _)| key).filter(|k| k.end <= key.end).collect();
        for key in freed {
            if self.covering(key.start, key.end).is_none()
                && let Some(value) = self.inner.remove(&key)
            {
                self.insert(key, value);
            }
        }
        Some(removed.value)
    }
}

impl<T> Table<T> {
    const fn new() -> Self {
        let shards = [const { Padded(Mutex::new(Shard { outer: BTreeMap::new(), inner: BTreeMap::new() })) }; SHARDS];
        Self { shards, ranges: AtomicUsize::new(0) }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<T>> {
        self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, key: Key, value: &T)
    where
        T: Clone,
    {
        // Counted before it can be found; whoever has the slice has seen this function return, or has no claim yet.
        self.ranges.fetch_add(1, Ordering::Release);
        let mut shards = shards(key.start, key.end);
        while shards != 0 {
            self.lock(shards.trailing_zeros() as usize).insert(key, value.clone());
            shards &= shards - 1;
        }
    }

    fn remove(&self, key: Key) {
        let mut shards = shards(key.start, key.end);
        while shards != 0 {
            let removed = self.lock(shards.trailing_zeros() as usize).remove(key);
            drop(removed);
            shards &= shards - 1;
        }
        self.ranges.fetch_sub(1, Ordering::Release);
    }

    /// Calls `f` with the addresses and the value of a range that has all of `slice`.
    #[inline]
    fn find<R>(&self, slice: &[u8], f: impl FnOnce(Range<usize>, &T) -> R) -> Option<R> {
        if self.ranges.load(Ordering::Acquire) == 0 {
            return None;
        }
        let start = slice.as_ptr().addr();
        let shard = self.lock(shard_of(start));
        shard.covering(start, start + slice.len()).map(|(start, outer)| f(start..outer.end, &outer.value))
    }
}

/// Keeps a range findable with [`owner_of`](super::owner_of), and its memory alive. Dropping it ends that; handles that were
/// found stay good.
#[must_use = "the range is found only while the registration lives"]
pub struct Registration {
    key: Key,
    bytes: Bytes,
    facts: Option<MemoryFacts>,
}

/// Makes the range of `bytes` findable with [`owner_of`](super::owner_of).
///
/// Ranges may overlap, and the same range may be registered many times; any of them answers. A strong clone is held, so the memory
/// cannot be freed meanwhile. An empty range is never found. Nothing is said about what the memory is.
pub fn register(bytes: Bytes) -> Registration {
    Registration::new(bytes, None)
}

/// The same, for bytes that live as long as the process and never change: that is what `&'static [u8]` says. They count as
/// [`Reuse::Immutable`], so every mechanism can send them without a copy, to any peer.
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
/// If `facts` say [`Reuse::Immutable`], the bytes are never written again, by anybody, in this process or through a file that is
/// mapped there, also after the registration and all handles are gone: sockets may go on sending from the pages, and
/// whoever the pages belong to next would be heard by the peer. So the memory must not go back to an allocator, which is what a
/// `Bytes` on heap does in the end. Unmapping it is right. Leaked heap is right too.
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
        let start = bytes.as_ptr().addr();
        let key = Key { start, end: start + bytes.len(), id: NEXT_ID.fetch_add(1, Ordering::Relaxed) };
        if !bytes.is_empty() {
            OWNERS.insert(key, &bytes);
            if let Some(facts) = &facts {
                FACTS.insert(key, facts);
            }
        }
        Self { key, bytes, facts }
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
        if self.bytes.is_empty() {
            return;
        }
        if self.facts.is_some() {
            FACTS.remove(self.key);
        }
        // `self.bytes` is still there, so no handle in the table is the last one, and nobody's destructor runs under a lock.
        OWNERS.remove(self.key);
        drop(mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, len) = (self.bytes.as_ptr(), self.bytes.len());
        f.debug_struct("Registration").field("start", &start).field("len", &len).field("facts", &self.facts).finish()
    }
}

#[inline]
pub(super) fn owner_of(slice: &[u8]) -> Option<Bytes> {
    OWNERS.find(slice, |_, bytes| bytes.slice_ref(slice))
}

/// What was said about a range that has all of `slice`, and that range's addresses.
#[inline]
pub(super) fn facts_of(slice: &[u8]) -> Option<(MemoryFacts, Range<usize>)> {
    FACTS.find(slice, |block, facts| (*facts, block))
}
