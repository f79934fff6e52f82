//! The one place where a ring hands out its memory.
//!
//! [`Piece`] is the right to a range of bytes: it is made once per segment, moves from the grant into the lease, and
//! is gone before the segment is free again. [`Slot`] is where [`owner_of`](crate::region::owner_of) finds a lease.
#![expect(unsafe_code, reason = "hands out raw memory; every block proves who else could touch it: nobody")]

use std::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
    slice,
    sync::OnceLock,
};

use super::sync::{AtomicU8, Ordering, UnsafeCell};

/// The exclusive right to `cap` bytes, of which the first `filled` were written for the caller of
/// [`assume_filled`](Self::assume_filled) or [`fill`](Self::fill), and the first `known >= filled` hold values that were
/// written since the piece was made.
#[derive(Debug)]
pub(super) struct Piece {
    ptr: NonNull<u8>,
    cap: usize,
    filled: usize,
    known: usize,
    exposed: bool,
}

// SAFETY: a piece is alone on its bytes, like a Box<[u8]>.
unsafe impl Send for Piece {}
// SAFETY: `&Piece` gives only `&[u8]`; writing needs `&mut Piece`.
unsafe impl Sync for Piece {}

impl Piece {
    /// # Safety
    ///
    /// * `ptr..ptr + cap` lies in one allocation and stays valid for reads and writes while the piece lives;
    /// * nothing else reads or writes those bytes while the piece lives.
    pub(super) unsafe fn new(ptr: NonNull<u8>, cap: usize) -> Self {
        Self { ptr, cap, filled: 0, known: 0, exposed: false }
    }

    #[inline]
    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.filled
    }

    #[inline]
    pub(super) fn remaining(&self) -> usize {
        self.cap - self.filled
    }

    /// True if somebody was given a way to write behind what is filled.
    pub(super) fn exposed(&self) -> bool {
        self.exposed
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        // SAFETY: `new` promised cap valid bytes for us alone; filled <= cap, and `filled` grows only over bytes that
        // were initialised (`fill`, `assume_filled`). The borrow of self keeps writers out.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.filled) }
    }

    #[inline]
    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `filled`; `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.filled) }
    }

    /// What is not filled. Whoever gets it may leave it uninitialised, so nothing behind `filled` is known afterwards.
    #[inline]
    pub(super) fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        self.known = self.filled;
        self.exposed = true;
        // SAFETY: filled <= cap, so the offset is in bounds of the bytes promised to `new`.
        let start = unsafe { self.ptr.add(self.filled) };
        // SAFETY: the remaining cap - filled bytes are valid and ours alone; MaybeUninit asks for no values.
        unsafe { slice::from_raw_parts_mut(start.as_ptr().cast(), self.cap - self.filled) }
    }

    /// What is not filled, zeroed where this piece has not written yet.
    pub(super) fn zeroed_spare(&mut self) -> &mut [u8] {
        self.exposed = true;
        // SAFETY: known <= cap, so the offset is in bounds.
        let unknown = unsafe { self.ptr.add(self.known) };
        // SAFETY: cap - known bytes from there are valid for writes and ours alone.
        unsafe { ptr::write_bytes(unknown.as_ptr(), 0, self.cap - self.known) };
        self.known = self.cap;
        // SAFETY: filled <= cap, in bounds.
        let start = unsafe { self.ptr.add(self.filled) };
        // SAFETY: all cap bytes are initialised now, and ours alone through `&mut self`.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.cap - self.filled) }
    }

    /// Counts `n` more bytes as filled if all of them were written through this piece; else says how many were.
    pub(super) fn fill(&mut self, n: usize) -> Result<(), usize> {
        let written = self.known - self.filled;
        if n > written {
            return Err(written);
        }
        self.filled += n;
        Ok(())
    }

    /// Counts `n` more bytes as filled.
    ///
    /// # Safety
    ///
    /// The first `n` bytes of [`spare`](Self::spare) were initialised since this piece was made.
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes remain.
    #[inline]
    pub(super) unsafe fn assume_filled(&mut self, n: usize) {
        assert!(n <= self.remaining(), "{n} bytes cannot be filled where {} remain", self.remaining());
        self.filled += n;
        self.known = self.known.max(self.filled);
    }

    /// Gives up everything behind the first `cap` bytes; `cap` must not be less than what is filled.
    #[inline]
    pub(super) fn narrow(&mut self, cap: usize) {
        assert!(self.filled <= cap && cap <= self.cap, "a piece only loses what is not filled");
        self.cap = cap;
        self.known = self.known.min(cap);
    }

    /// Writes `byte` to everything from `from` on.
    pub(super) fn overwrite(&mut self, from: usize, byte: u8) {
        let from = from.min(self.cap);
        // SAFETY: from <= cap, in bounds.
        let start = unsafe { self.ptr.add(from) };
        // SAFETY: cap - from bytes from there are valid for writes and ours alone.
        unsafe { ptr::write_bytes(start.as_ptr(), byte, self.cap - from) };
    }
}

/// Where a lease can be found by its segment's number. Never freed while the ring lives.
///
/// It keeps a bitwise copy of the handle that [`bytes::Bytes::from_owner`] made, and never drops it. A `Bytes` of that
/// kind is a pointer to a shared count, and `clone` is an increment through that pointer; it changes nothing in the
/// handle itself. So a clone made from the copy is as good as one made from any living handle, as long as one is
/// alive, which [`read`](Self::read)'s callers prove. The test `clone_from_the_table_is_a_handle_like_any_other`
/// (tests/ring.rs) watches that `bytes` keeps it so.
#[derive(Debug)]
pub(super) struct Slot<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// The segment is a lease, and `value` was copied in.
const COMMITTED: u8 = 1;
/// Somebody outside this process may still read the lease after its last handle is gone.
const DISTRUSTED: u8 = 2;

// SAFETY: the value is copied in from, and lent to, any thread: that needs both of T. Who may touch it when is the
// contract of `publish` and `read`.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    fn new() -> Self {
        Self { state: AtomicU8::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Makes the copy that [`read`](Self::read) lends.
    ///
    /// # Safety
    ///
    /// The caller alone has the slot's segment, and the segment is not committed yet.
    #[inline]
    pub(super) unsafe fn publish(&self, value: &T) {
        // SAFETY: nobody reads before COMMITTED is set (see `read`), nobody else writes (the caller's promise). The copy is
        // never dropped, MaybeUninit sees to that.
        self.value.with_mut(|slot| unsafe { ptr::copy_nonoverlapping(value, slot.cast::<T>(), 1) });
        self.state.store(COMMITTED, Ordering::Release);
    }

    /// Lends the copy if the segment was committed.
    ///
    /// # Safety
    ///
    /// For the whole call, the slot's segment stays what it is: an uncommitted grant, or a lease of which one handle lives.
    #[inline]
    pub(super) unsafe fn read<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        let committed = self.state.load(Ordering::Acquire) & COMMITTED != 0;
        // SAFETY: committed, so `publish` has initialised the value, and Acquire shows it to us; the segment stays a living
        // lease, so there is neither another `publish` nor a count that has gone to zero.
        committed.then(|| self.value.with(|slot| f(unsafe { &*slot.cast::<T>() })))
    }

    /// Notes that the lease may be read after its last handle is gone. Callers have a slice of the lease, as for `read`.
    pub(super) fn distrust(&self) {
        self.state.fetch_or(DISTRUSTED, Ordering::Relaxed);
    }

    /// True if [`distrust`](Self::distrust) was called since the segment was committed. To whoever drops the last handle the answer
    /// is final: the count of handles puts every other holder's calls before that drop.
    #[inline]
    pub(super) fn distrusted(&self) -> bool {
        self.state.load(Ordering::Relaxed) & DISTRUSTED != 0
    }

    /// The segment is no lease any more.
    #[inline]
    pub(super) fn close(&self) {
        self.state.store(0, Ordering::Release);
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
        let slots = self.0[chunk].get_or_init(|| (0..(FIRST as usize) << chunk).map(|_| Slot::new()).collect());
        &slots[at]
    }

    /// The slot, if it was ever made.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Slot<T>> {
        let (chunk, at) = Self::place(number);
        self.0.get(chunk)?.get()?.get(at)
    }
}
