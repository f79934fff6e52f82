//! Segments by number: where [`owner_of`](crate::region::owner_of) finds a lease, and where what happens to it is noted.
#![expect(unsafe_code, reason = "lends a copy of a handle; every block proves that the handle lives")]

use std::{mem::MaybeUninit, ptr, sync::OnceLock};

use super::returns::Fate;
use super::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering, UnsafeCell};

/// Where a lease can be found by its segment's number. Never freed while the ring lives.
///
/// It keeps a bitwise copy of the handle that [`bytes::Bytes::from_owner`] made, and never drops it. A `Bytes` of that
/// kind is a pointer to a shared count, and `clone` is an increment through that pointer; it changes nothing in the
/// handle itself. So a clone made from the copy is as good as one made from any living handle, as long as one is
/// alive, which [`read`](Self::read)'s callers prove. The test `clone_from_the_table_is_a_handle_like_any_other`
/// (tests/region.rs) watches that `bytes` keeps it so.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot<T> {
    value: UnsafeCell<MaybeUninit<T>>,
    number: u32,
    state: AtomicU8,
    /// Granules that a commit keeps, for the note that says so.
    kept: AtomicU32,
    /// The older note behind that one, and behind the note of the segment's return.
    behind_cut: AtomicU64,
    behind_return: AtomicU64,
}

/// The segment was committed since it was reserved, and `value` was copied in.
const COMMITTED: u8 = 1;
/// Somebody outside this process may still read the lease after its last handle is gone.
const DISTRUSTED: u8 = 2;
/// All of the lease was sent once. A hint, on which only speed rests.
const SENT: u8 = 4;

// SAFETY: the value is copied in from, and lent to, any thread: that needs both of T. Who may touch it when is the
// contract of `publish` and `read`.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    fn new(number: u32) -> Self {
        Self {
            value: UnsafeCell::new(MaybeUninit::uninit()),
            number,
            state: AtomicU8::new(0),
            kept: AtomicU32::new(0),
            behind_cut: AtomicU64::new(0),
            behind_return: AtomicU64::new(0),
        }
    }

    /// The segment's number.
    #[inline]
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The segment is a grant from now on. Callers hold the ring's lock, and nobody has the segment yet.
    #[inline]
    pub(super) fn reserve(&self) {
        self.state.store(0, Ordering::Relaxed);
    }

    /// True if the segment was committed since it was reserved, even if it has come back.
    #[inline]
    pub(super) fn committed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & COMMITTED != 0
    }

    /// Keeps so many granules of the segment, once a note says so.
    #[inline]
    pub(super) fn keep(&self, granules: u32) {
        self.kept.store(granules, Ordering::Relaxed);
    }

    /// What [`keep`](Self::keep) said. Whoever took the note sees it.
    #[inline]
    pub(super) fn kept(&self) -> u32 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Where the note behind such a one about this segment is named. A segment that is cut can be back before that is
    /// carried out, so there are two.
    #[inline]
    pub(super) fn link(&self, fate: Fate) -> &AtomicU64 {
        if fate == Fate::Cut { &self.behind_cut } else { &self.behind_return }
    }

    /// Makes the copy that [`read`](Self::read) lends.
    ///
    /// # Safety
    ///
    /// The caller alone has the slot's segment, and the segment is not committed yet.
    #[inline]
    pub(super) unsafe fn publish(&self, value: &T) {
        // SAFETY: COMMITTED was cleared when the segment was reserved, and nobody reads before it is set (see `read`);
        // nobody else writes (the caller's promise). The copy is never dropped, MaybeUninit sees to that.
        self.value.with_mut(|slot| unsafe { ptr::copy_nonoverlapping(value, slot.cast::<T>(), 1) });
        self.state.store(COMMITTED, Ordering::Release);
    }

    /// Lends the copy if the segment was committed.
    ///
    /// # Safety
    ///
    /// As long as the answer lives, the slot's segment stays what it is: an uncommitted grant, or a lease of which one
    /// handle lives.
    #[inline]
    pub(super) unsafe fn read(&self) -> Option<&T> {
        let committed = self.state.load(Ordering::Acquire) & COMMITTED != 0;
        // SAFETY: committed, so `publish` has initialised the value, and Acquire shows it to us; the segment stays a
        // living lease, so there is neither another `publish` nor a count that has gone to zero.
        committed.then(|| self.value.with(|slot| unsafe { &*slot.cast::<T>() }))
    }

    /// Notes that the lease may be read after its last handle is gone. Callers have a slice of the lease, as for `read`.
    pub(super) fn distrust(&self) {
        self.state.fetch_or(DISTRUSTED, Ordering::Relaxed);
    }

    /// Notes that all of the lease was sent once. Callers have a slice of the lease, as for `read`.
    pub(super) fn note_sent(&self) {
        self.state.fetch_or(SENT, Ordering::Relaxed);
    }

    /// True if [`note_sent`](Self::note_sent) was called since the segment was committed.
    pub(super) fn was_sent(&self) -> bool {
        self.state.load(Ordering::Relaxed) & SENT != 0
    }

    /// True if [`distrust`](Self::distrust) was called since the segment was committed. To whoever drops the last
    /// handle the answer is final: the count of handles puts every other holder's calls before that drop.
    #[inline]
    pub(super) fn distrusted(&self) -> bool {
        self.state.load(Ordering::Relaxed) & DISTRUSTED != 0
    }
}

/// Slots by number, in memory that grows and never moves.
#[derive(Debug)]
pub(super) struct Slots<T>([OnceLock<Box<[Slot<T>]>>; CHUNKS]);

/// Slots of the first chunk; each chunk is twice as long as the one before.
const FIRST: u32 = 64;
const CHUNKS: usize = 27;

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self([const { OnceLock::new() }; CHUNKS])
    }

    /// Chunk `k` holds `FIRST << k` slots.
    #[inline]
    fn place(number: u32) -> (usize, usize) {
        let shifted = u64::from(number) + u64::from(FIRST);
        let chunk = shifted.ilog2() - FIRST.ilog2();
        (chunk as usize, (shifted - (u64::from(FIRST) << chunk)) as usize)
    }

    /// The slot, made if it was not there.
    #[inline]
    pub(super) fn ensure(&self, number: u32) -> &Slot<T> {
        let (chunk, at) = Self::place(number);
        let slots = self.0[chunk].get_or_init(|| {
            let first = (FIRST << chunk) - FIRST;
            (first..).take((FIRST as usize) << chunk).map(Slot::new).collect()
        });
        &slots[at]
    }

    /// The slot, if it was ever made.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Slot<T>> {
        let (chunk, at) = Self::place(number);
        self.0.get(chunk)?.get()?.get(at)
    }
}
