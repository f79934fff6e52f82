//! Whose memory is it? Custody and facts, looked up by address.
//!
//! Protocol stacks hand down slices. [`owner_of`] finds a [`Bytes`] that keeps a slice's memory alive and unwritten: a
//! clone of the ring's lease, or of a range that somebody [`register`]ed. [`locate`] tells what the memory is. All
//! lookups are process-wide.

mod cell;
mod map;
mod outline;
mod ranges;
pub(crate) mod rings;
mod sync;

use std::{
    ops::Range,
    ptr,
    sync::{
        Weak,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize},
    },
};

use bytes::Bytes;

pub use ranges::{CannotReplace, Registration, register, register_static, register_with};

use crate::{memory::MemoryFacts, ring::Shared};
use map::{Bucket, Map, Padded};

const fn empty_map<V, const BUCKETS: usize>() -> Map<V, BUCKETS> {
    Map {
        levels: AtomicU64::new(0),
        removals: Padded(AtomicUsize::new(0)),
        buckets: [const { Bucket { age: AtomicUsize::new(0), first: AtomicPtr::new(ptr::null_mut()) } }; BUCKETS],
    }
}

/// A handle to exactly `slice`'s bytes that keeps them in custody as long as it lives.
///
/// `None` for empty slices, for grants that are not committed, for slices across two leases, and for memory that nobody
/// registered. Costs no allocation, and for rings no lock.
#[must_use]
pub fn owner_of(slice: &[u8]) -> Option<Bytes> {
    if slice.is_empty() {
        return None;
    }
    match rings::find(slice) {
        Some(slice) => slice.lease(),
        None => ranges::owner_of(slice),
    }
}

/// What and where a slice's memory is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Location<'a> {
    /// What the memory is, and what its owner does with it.
    pub facts: MemoryFacts,
    /// The addresses of all of it: of everything that the ring can grant, or of the range that was registered.
    pub block: Range<usize>,
    /// The file that is mapped there, and where in it the slice's first byte is. The others follow.
    #[cfg(unix)]
    pub file: File<'a>,
    #[cfg(not(unix))]
    file: File<'a>,
}

#[cfg(unix)]
type File<'a> = Option<(std::os::fd::BorrowedFd<'a>, u64)>;
#[cfg(not(unix))]
type File<'a> = std::marker::PhantomData<&'a ()>;

#[cfg(unix)]
fn file(ring: &Shared, offset: usize) -> File<'_> {
    ring.memory().file().map(|(file, start)| (file, start + offset as u64))
}
#[cfg(not(unix))]
fn file(_: &Shared, _: usize) -> File<'_> {
    File::default()
}

/// Tells `f` what and where `slice`'s memory is.
///
/// The answer holds for grants, for leases, for slices across several of them in one ring, and for ranges that were
/// registered [with facts](register_with). `None`, and `f` is not called, for empty slices and for memory that nobody
/// knows: to be treated as heap that is reused [in place](crate::memory::Reuse::InPlace). For rings it takes no lock.
#[inline]
pub fn locate<R>(slice: &[u8], f: impl FnOnce(&Location<'_>) -> R) -> Option<R> {
    if slice.is_empty() {
        return None;
    }
    let location = match rings::find(slice) {
        Some(slice) => {
            let (ring, block) = (slice.ring(), slice.ring().addresses());
            Location { facts: ring.facts(), file: file(ring, slice.start() - block.start), block }
        }
        None => {
            let (facts, block) = ranges::facts_of(slice)?;
            Location { facts, file: File::default(), block }
        }
    };
    Some(f(&location))
}

/// The facts alone, as [`locate`] has them.
#[must_use]
#[inline]
pub fn facts_of(slice: &[u8]) -> Option<MemoryFacts> {
    locate(slice, |location| location.facts)
}

/// True if `slice` is of a ring that has less free than its [low-water mark](crate::ring::RingBuilder::low_water).
///
/// For rings without a mark, and for memory that no ring owns, it is false and takes no lock.
#[must_use]
#[inline]
pub fn ring_is_low(slice: &[u8]) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.ring().is_low())
}

/// Says that `slice` was sent. If it is the end of a lease, [`was_sent`] is true of that lease from now on.
///
/// Who sends a lease again, to another peer or in the answer to another request, pays for the replacement of its pages once for all of
/// these sends. Nothing but speed rests on it.
pub fn note_sent(slice: &[u8]) {
    if !slice.is_empty()
        && let Some(slice) = rings::find(slice)
    {
        slice.note_sent();
    }
}

/// True if the end of the lease that `slice` begins in was [sent](note_sent) since it was committed.
#[must_use]
pub fn was_sent(slice: &[u8]) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.was_sent())
}

/// Says that `slice`, a part of leases, may be read even after their last handles are gone, because a release could not
/// be proven. True if a ring took note.
///
/// When the last handle of such a lease is dropped, its pages are replaced
/// ([`Memory::recycle`](crate::memory::Memory::recycle)), also in a ring that is otherwise reused in place. Where that
/// cannot be, because the lease is not whole replacement units, or the memory cannot, or somebody relies on the pages
/// ([`keep_pages`]), the lease goes into quarantine: its bytes are never written again, and memory that would return to
/// an allocator is never freed.
///
/// False if `slice` is empty or a part of it is no lease, such as memory that no ring owns: then the caller must keep
/// the memory alive for ever.
#[must_use = "if no ring took note, the memory must be kept alive for ever"]
pub fn distrust(slice: &[u8]) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.distrust())
}

/// Says that the pages under `slice`, a part of one lease, are given away: whoever was given them may read them for
/// ever. True if the ring replaces them when the lease's last handle is dropped, before the space is granted again.
///
/// False, and nothing is noted, if it could not: the lease is not whole replacement units, the memory cannot replace
/// pages, somebody relies on them ([`keep_pages`]), or no ring owns them.
#[must_use = "pages that are not replaced must not be given away"]
pub fn give_away(slice: &[u8]) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.give_away())
}

/// Asks the ring that owns `slice` to keep its pages as they are from now on, for as long as the ring lives. True if it
/// does.
///
/// A kernel that has pinned pages for good, such as io_uring for registered buffers, goes on sending the old ones after a
/// replacement. Ask before registering a ring's [`block`](Location::block). False for rings with fresh pages, and for
/// memory that no ring owns.
#[must_use = "a ring that says no replaces its pages"]
pub fn keep_pages(slice: &[u8]) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.ring().keep_pages(None))
}

/// Somebody who relies on the pages of rings, and has to know when one is over.
pub trait Keeper: Send + Sync {
    /// The ring with these addresses is over: nobody has a part of it. Called by whoever dropped the last part, whatever he is
    /// doing, and before its memory returns to where it came from; so neither wait here, nor panic.
    fn let_go(&self, addresses: Range<usize>);
}

/// As [`keep_pages`], and tells `keeper` when the ring is over, unless the keeper is gone by then.
#[must_use = "a ring that says no replaces its pages"]
pub fn keep_pages_for(slice: &[u8], keeper: &Weak<dyn Keeper>) -> bool {
    !slice.is_empty() && rings::find(slice).is_some_and(|slice| slice.ring().keep_pages(Some(keeper)))
}
