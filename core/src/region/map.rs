//! From an address to what was noted for its range; whoever looks writes nothing and waits for nobody.
//!
//! A range is noted at the **level** of its length. A level cuts all addresses into blocks, which are no shorter than
//! the range, so that the range lies in one or two of them; it is in the bucket of each. A reader asks, of each level
//! that is in use, the bucket of the one block that his address lies in, however many ranges there are.
//!
//! A bucket is a list of entries. Entries are never freed, so reading one is always sound, but one that was taken out
//! may be used again, for another range and in another bucket. Before that the bucket that it was in **ages**, and a
//! reader who sees that his bucket has aged reads it again. That is enough for ranges that do not overlap. Where one
//! may take another's place, at another level perhaps, where a reader has looked already, whoever finds nothing looks
//! again if anything was taken out meanwhile.
#![expect(unsafe_code, reason = "follows pointers to entries, which are never freed")]

use std::ptr;

use super::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// The lowest level. Level `k` has blocks of `1 << k` bytes.
const LOWEST: u32 = 8;
/// From one level to the next that is used.
const STEP: u32 = 2;

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Map<V, const BUCKETS: usize> {
    /// One bit for each level that is in use.
    pub(super) levels: AtomicU64,
    /// Counts what was taken out.
    pub(super) removals: Padded,
    pub(super) buckets: [Bucket<V>; BUCKETS],
}

/// On a cache line of its own, for it changes all the time, and whoever finds what he looks for does not ask it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Padded(pub(super) AtomicUsize);

#[derive(Debug)]
pub(super) struct Bucket<V> {
    pub(super) age: AtomicUsize,
    pub(super) first: AtomicPtr<Entry<V>>,
}

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Entry<V> {
    start: AtomicUsize,
    end: AtomicUsize,
    value: AtomicPtr<V>,
    next: AtomicPtr<Self>,
}

/// What whoever changes a map must have alone.
#[derive(Debug)]
pub(super) struct Writer<V: 'static> {
    unused: Vec<&'static Entry<V>>,
    /// Ranges of each level.
    ranges: [usize; usize::BITS as usize],
}

impl<V> Writer<V> {
    pub(super) const fn new() -> Self {
        Self { unused: Vec::new(), ranges: [0; usize::BITS as usize] }
    }

    fn entry(&mut self) -> &'static Entry<V> {
        self.unused.pop().unwrap_or_else(|| {
            Box::leak(Box::new(Entry {
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                value: AtomicPtr::new(ptr::null_mut()),
                next: AtomicPtr::new(ptr::null_mut()),
            }))
        })
    }
}

/// The level of a range of `len > 0` bytes.
fn level(len: usize) -> u32 {
    let logarithm = usize::BITS - (len - 1).leading_zeros();
    // No range is longer than half of all addresses, so the highest level is long enough for any.
    (LOWEST + logarithm.saturating_sub(LOWEST).next_multiple_of(STEP)).min(usize::BITS - 1)
}

impl<V: 'static, const BUCKETS: usize> Map<V, BUCKETS> {
    #[inline]
    fn bucket(&self, address: usize, level: u32) -> &Bucket<V> {
        let key = ((address >> level) as u64).wrapping_add(u64::from(level) << 56);
        const { assert!(BUCKETS.is_power_of_two()) };
        // Fibonacci hashing: the high bits of the product are mixed best.
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(BUCKETS.ilog2());
        &self.buckets[hash as usize & (BUCKETS - 1)]
    }

    /// The buckets of a range.
    fn places(&self, start: usize, end: usize) -> impl Iterator<Item = &Bucket<V>> {
        let level = level(end - start);
        let second = (start >> level != (end - 1) >> level).then_some(end - 1);
        [Some(start), second].into_iter().flatten().map(move |address| self.bucket(address, level))
    }

    /// Notes `value` for `start..end`, which must not be empty.
    pub(super) fn insert(&self, writer: &mut Writer<V>, (start, end): (usize, usize), value: *const V) {
        let level = level(end - start);
        for bucket in self.places(start, end) {
            let entry = writer.entry();
            entry.start.store(start, Ordering::Relaxed);
            entry.end.store(end, Ordering::Relaxed);
            entry.value.store(value.cast_mut(), Ordering::Relaxed);
            entry.next.store(bucket.first.load(Ordering::Relaxed), Ordering::Relaxed);
            bucket.first.store(ptr::from_ref(entry).cast_mut(), Ordering::Release);
        }
        writer.ranges[level as usize] += 1;
        if writer.ranges[level as usize] == 1 {
            self.levels.fetch_or(1 << level, Ordering::Release);
        }
    }

    /// Forgets what [`insert`](Self::insert) noted.
    pub(super) fn remove(&self, writer: &mut Writer<V>, (start, end): (usize, usize), value: *const V) {
        self.removals.0.fetch_add(1, Ordering::Release);
        let level = level(end - start);
        for bucket in self.places(start, end) {
            let mut link = &bucket.first;
            while let Some(entry) = follow(link) {
                let noted = (entry.start.load(Ordering::Relaxed), entry.end.load(Ordering::Relaxed));
                if noted != (start, end) || !ptr::eq(entry.value.load(Ordering::Relaxed), value) {
                    link = &entry.next;
                    continue;
                }
                link.store(entry.next.load(Ordering::Relaxed), Ordering::Release);
                bucket.age.fetch_add(1, Ordering::Release);
                // Whoever sees what the entry is used for next sees that the bucket has aged.
                fence(Ordering::Release);
                writer.unused.push(entry);
                break;
            }
        }
        writer.ranges[level as usize] -= 1;
        if writer.ranges[level as usize] == 0 {
            self.levels.fetch_and(!(1 << level), Ordering::Release);
        }
    }

    /// What is noted for a range that has all of `start..end`. A range is found if it was inserted before the call and
    /// is not removed before its end.
    #[inline]
    pub(super) fn find(&self, start: usize, end: usize) -> Option<*const V> {
        let mut levels = self.levels.load(Ordering::Acquire);
        while levels != 0 {
            let level = levels.trailing_zeros();
            levels &= levels - 1;
            if let Some(value) = self.bucket(start, level).find(start, end) {
                return Some(value);
            }
        }
        None
    }

    /// The same where ranges may be removed after others were inserted that have all of them. Of such a row of ranges
    /// one is found.
    #[inline]
    pub(super) fn find_any(&self, start: usize, end: usize) -> Option<*const V> {
        if self.levels.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.find(start, end).or_else(|| self.find_again(start, end))
    }

    #[cold]
    fn find_again(&self, start: usize, end: usize) -> Option<*const V> {
        loop {
            let removals = self.removals.0.load(Ordering::Acquire);
            if let Some(value) = self.find(start, end) {
                return Some(value);
            }
            fence(Ordering::Acquire);
            if self.removals.0.load(Ordering::Relaxed) == removals {
                return None;
            }
        }
    }
}

impl<V: 'static> Bucket<V> {
    #[inline]
    fn find(&self, start: usize, end: usize) -> Option<*const V> {
        loop {
            let age = self.age.load(Ordering::Acquire);
            let mut found = None;
            let mut link = &self.first;
            while let Some(entry) = follow(link) {
                if entry.start.load(Ordering::Relaxed) <= start && end <= entry.end.load(Ordering::Relaxed) {
                    found = Some(entry.value.load(Ordering::Relaxed).cast_const());
                    break;
                }
                link = &entry.next;
            }
            fence(Ordering::Acquire);
            if self.age.load(Ordering::Relaxed) == age {
                return found;
            }
        }
    }
}

#[inline]
fn follow<V: 'static>(link: &AtomicPtr<Entry<V>>) -> Option<&'static Entry<V>> {
    // SAFETY: only addresses of leaked entries and null are stored in links; Acquire shows the entry as it was when it
    // was made.
    unsafe { link.load(Ordering::Acquire).as_ref() }
}
