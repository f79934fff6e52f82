//! From an address to its segment, without a lock.
//!
//! One bit per granule says "a segment in use starts here", one summary bit per word says "this word is not zero".
//! Writers hold the ring's lock; readers hold nothing.
//!
//! **Why a reader is right.** It asks about a granule for which its caller has a live `&[u8]`. That borrow keeps the
//! granule's segment, a grant or a lease, from being returned for the whole call. So the segment's start bit, its
//! summary bit and its entry in `noted` stay as they were set before the slice came into being, and no start bit
//! can appear between that start and the granule, for those granules belong to the same segment. Bits of other segments
//! in the same words may change; each word is read once, whole.

use std::ptr;

use super::sync::{AtomicPtr, AtomicU64, Ordering};

/// Knows a `T` for each segment in use.
#[derive(Debug)]
pub(super) struct Index<T> {
    starts: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    noted: Box<[AtomicPtr<T>]>,
}

impl<T> Index<T> {
    /// `None` if there is no memory for it.
    pub(super) fn new(granules: u32) -> Option<Self> {
        let granules = granules as usize;
        let words = granules.div_ceil(64);
        Some(Self {
            starts: table(words, || AtomicU64::new(0))?,
            summary: table(words.div_ceil(64), || AtomicU64::new(0))?,
            noted: table(granules, || AtomicPtr::new(ptr::null_mut()))?,
        })
    }

    /// A segment in use starts at granule `at`, and `value` is noted for it. Callers hold the ring's lock, so the plain
    /// read-change-write of a word is not interrupted by another writer.
    #[inline]
    pub(super) fn set(&self, at: u32, value: &T) {
        let at = at as usize;
        let word = at / 64;
        self.noted[at].store(ptr::from_ref(value).cast_mut(), Ordering::Relaxed);
        raise(&self.starts[word], at % 64);
        raise(&self.summary[word / 64], word % 64);
    }

    /// No segment in use starts at granule `at` any more. Callers hold the ring's lock.
    #[inline]
    pub(super) fn clear(&self, at: u32) {
        let at = at as usize;
        let word = at / 64;
        if lower(&self.starts[word], at % 64) == 0 {
            lower(&self.summary[word / 64], word % 64);
        }
    }

    /// What was noted for the segment in use that granule `at` belongs to; see the module's proof.
    #[inline]
    pub(super) fn find(&self, at: u32) -> Option<*const T> {
        let at = at as usize;
        let word = at / 64;
        let bits = self.starts.get(word)?.load(Ordering::Acquire) & (u64::MAX >> (63 - at % 64));
        let start = if bits == 0 { self.find_before(word)? } else { word * 64 + bits.ilog2() as usize };
        Some(self.noted[start].load(Ordering::Relaxed).cast_const())
    }

    /// The last start in a word before `word`.
    #[cold]
    fn find_before(&self, word: usize) -> Option<usize> {
        let mut at = word / 64;
        let mut bits = self.summary[at].load(Ordering::Acquire) & ((1 << (word % 64)) - 1);
        while bits == 0 {
            at = at.checked_sub(1)?;
            bits = self.summary[at].load(Ordering::Acquire);
        }
        let word = at * 64 + bits.ilog2() as usize;
        let bits = self.starts[word].load(Ordering::Acquire);
        (bits != 0).then(|| word * 64 + bits.ilog2() as usize)
    }
}

#[inline]
fn raise(word: &AtomicU64, bit: usize) {
    word.store(word.load(Ordering::Relaxed) | 1 << bit, Ordering::Release);
}

#[inline]
fn lower(word: &AtomicU64, bit: usize) -> u64 {
    let rest = word.load(Ordering::Relaxed) & !(1 << bit);
    word.store(rest, Ordering::Release);
    rest
}

fn table<T>(len: usize, entry: impl FnMut() -> T) -> Option<Box<[T]>> {
    let mut entries = Vec::new();
    entries.try_reserve_exact(len).ok()?;
    entries.resize_with(len, entry);
    Some(entries.into_boxed_slice())
}
