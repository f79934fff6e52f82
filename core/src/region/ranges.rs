//! Ranges that somebody registered: who owns them, and what was said of them.
#![expect(unsafe_code, reason = "facts about memory are a promise; what the maps point to is never freed")]

use std::{
    error::Error,
    fmt, mem,
    ops::Range,
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

/// What changes when a range is registered.
#[derive(Debug)]
struct Registry {
    next_id: u64,
    owners: Outline<Cell<Known>>,
    /// Apart from the owners, so that a range without facts does not hide one that has them.
    facts: Outline<Cell<Known>>,
    unused: Vec<&'static Cell<Known>>,
}

static OWNERS: Map<Cell<Known>, { 1 << 14 }> = super::empty_map();
static FACTS: Map<Cell<Known>, { 1 << 10 }> = super::empty_map();
static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { next_id: 0, owners: Outline::new(), facts: Outline::new(), unused: Vec::new() });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks what `map` has for all of `slice`.
#[inline]
fn find<const N: usize, R>(map: &Map<Cell<Known>, N>, slice: &[u8], f: impl Fn(&Known) -> Option<R>) -> Option<R> {
    let start = slice.as_ptr().addr();
    loop {
        let cell = map.find_any(start, start + slice.len())?;
        // SAFETY: both maps are given leaked cells only.
        let cell = unsafe { &*cell };
        let answer = cell.read(&REGISTRY, |known| match known {
            Some(known) if known.covers(slice) => f(known),
            _ => None,
        });
        // The cell may be another range's since; then the map has changed, too.
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
    place: Option<(Key, &'static Cell<Known>)>,
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
            let known = Known { bytes: bytes.clone(), facts };
            let mut registry = registry();
            let cell = registry.unused.pop().unwrap_or_else(|| Box::leak(Box::new(Cell::new())));
            // SAFETY: all users of these cells name REGISTRY.
            let before = unsafe { cell.set(&mut registry, Some(known)) };
            debug_assert!(before.is_none(), "an unused cell is empty");
            let key = Key { start, end, id: registry.next_id };
            registry.next_id += 1;
            registry.owners.insert(&OWNERS, key, cell);
            if facts.is_some() {
                registry.facts.insert(&FACTS, key, cell);
            }
            (key, cell)
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
        let Some((key, cell)) = self.place else { return };
        let mut registry = registry();
        registry.owners.remove(&OWNERS, key);
        if self.facts.is_some() {
            registry.facts.remove(&FACTS, key);
        }
        // SAFETY: all users of these cells name REGISTRY.
        let known = unsafe { cell.set(&mut registry, None) };
        registry.unused.push(cell);
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
    find(&OWNERS, slice, |known| Some(known.bytes.slice_ref(slice)))
}

/// What was said about a range that has all of `slice`, and that range's addresses.
#[inline]
pub(super) fn facts_of(slice: &[u8]) -> Option<(MemoryFacts, Range<usize>)> {
    find(&FACTS, slice, |known| {
        let start = known.bytes.as_ptr().addr();
        known.facts.map(|facts| (facts, start..start + known.bytes.len()))
    })
}
