//! Ranges that somebody registered.
//!
//! Addresses are cut into blocks of 2 MiB, blocks are spread over shards, and a range is kept in the shard of every block that
//! it touches. A shard keeps apart what matters: **outer** ranges, none of which lies within another, so that in order of
//! their starts their ends are in order too, and the last one that starts at or before an address is the one that reaches
//! furthest; and **inner** ranges, which lie within an outer one and are never asked, until that one goes.

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

const SHARDS: usize = 64;
const BLOCK: u32 = 21;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    start: usize,
    end: usize,
    id: u64,
}

#[derive(Debug)]
struct Outer {
    end: usize,
    id: u64,
    bytes: Bytes,
}

#[derive(Debug)]
struct Shard {
    outer: BTreeMap<usize, Outer>,
    inner: BTreeMap<Key, Bytes>,
}

/// A cache line of its own, so that neighbours do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

static TABLE: [Padded; SHARDS] =
    [const { Padded(Mutex::new(Shard { outer: BTreeMap::new(), inner: BTreeMap::new() })) }; SHARDS];
static REGISTERED: AtomicUsize = AtomicUsize::new(0);
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn shard_of(address: usize) -> usize {
    // Fibonacci hashing: neighbouring blocks go to different shards.
    (((address >> BLOCK) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize
}

fn lock(shard: usize) -> MutexGuard<'static, Shard> {
    TABLE[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One bit per shard that has a block of `start..end`.
fn shards(start: usize, end: usize) -> u64 {
    let (first, last) = (start >> BLOCK, (end - 1) >> BLOCK);
    if last - first >= SHARDS {
        return u64::MAX;
    }
    (first..=last).fold(0, |shards, block| shards | 1 << shard_of(block << BLOCK))
}

impl Shard {
    /// The outer range that starts at or before `start` and reaches furthest.
    fn covering(&self, start: usize, end: usize) -> Option<&Outer> {
        self.outer.range(..=start).next_back().map(|(_, outer)| outer).filter(|outer| end <= outer.end)
    }

    fn insert(&mut self, key: Key, bytes: Bytes) {
        if self.covering(key.start, key.end).is_some() {
            self.inner.insert(key, bytes);
            return;
        }
        // Outer ranges within the new one start in it, and are in order of their ends: the first that sticks out ends the row.
        while let Some((&start, outer)) = self.outer.range(key.start..key.end).next()
            && outer.end <= key.end
        {
            if let Some(Outer { end, id, bytes }) = self.outer.remove(&start) {
                self.inner.insert(Key { start, end, id }, bytes);
            }
        }
        self.outer.insert(key.start, Outer { end: key.end, id: key.id, bytes });
    }

    /// The handle is for the caller to drop, after the lock.
    fn remove(&mut self, key: Key) -> Option<Bytes> {
        if let Some(bytes) = self.inner.remove(&key) {
            return Some(bytes);
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
                && let Some(bytes) = self.inner.remove(&key)
            {
                self.insert(key, bytes);
            }
        }
        Some(removed.bytes)
    }
}

/// Keeps a range findable with [`owner_of`](super::owner_of), and its memory alive. Dropping it ends that; handles that were
/// found stay good.
#[must_use = "the range is found only while the registration lives"]
pub struct Registration {
    key: Key,
    bytes: Bytes,
}

/// Makes the range of `bytes` findable with [`owner_of`](super::owner_of).
///
/// Ranges may overlap, and the same range may be registered many times; any of them answers. A strong clone is held, so the memory
/// cannot be freed meanwhile. An empty range is never found.
pub fn register(bytes: Bytes) -> Registration {
    let start = bytes.as_ptr().addr();
    let end = start + bytes.len();
    let key = Key { start, end, id: NEXT_ID.fetch_add(1, Ordering::Relaxed) };
    if start < end {
        // Counted before it can be found; whoever has the slice has seen this function return, or has no claim yet.
        REGISTERED.fetch_add(1, Ordering::Release);
        let mut shards = shards(start, end);
        while shards != 0 {
            lock(shards.trailing_zeros() as usize).insert(key, bytes.clone());
            shards &= shards - 1;
        }
    }
    Registration { key, bytes }
}

impl Registration {
    /// The registered bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Key { start, end, .. } = self.key;
        if start == end {
            return;
        }
        let mut shards = shards(start, end);
        while shards != 0 {
            let removed = lock(shards.trailing_zeros() as usize).remove(self.key);
            // `self.bytes` is still there, so this is never the last handle and runs nobody's destructor.
            drop(removed);
            shards &= shards - 1;
        }
        REGISTERED.fetch_sub(1, Ordering::Release);
        // The last handle may be dropped here, with no lock held.
        drop(mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("start", &self.bytes.as_ptr()).field("len", &self.bytes.len()).finish()
    }
}

#[inline]
pub(super) fn owner_of(slice: &[u8]) -> Option<Bytes> {
    if REGISTERED.load(Ordering::Acquire) == 0 {
        return None;
    }
    let start = slice.as_ptr().addr();
    let end = start + slice.len();
    let shard = lock(shard_of(start));
    shard.covering(start, end).map(|outer| outer.bytes.slice_ref(slice))
}
