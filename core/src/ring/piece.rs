//! The one place where a ring hands out its memory.
//!
//! [`Piece`] is the right to a range of bytes: it is made once per segment, becomes the [`Filled`] of a lease, and is
//! gone before the segment is free again.
#![expect(unsafe_code, reason = "hands out raw memory; every block proves who else could touch it: nobody")]

use std::{
    mem::{self, MaybeUninit},
    ptr::{self, NonNull},
    slice,
};

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

    /// Writes `byte` to everything that is not filled.
    pub(super) fn overwrite_spare(&mut self, byte: u8) {
        self.spare().fill(MaybeUninit::new(byte));
    }

    /// Writes `byte` to everything, of which nothing counts as filled afterwards.
    pub(super) fn overwrite(&mut self, byte: u8) {
        self.filled = 0;
        self.overwrite_spare(byte);
    }

    /// Gives up all bytes, of which the filled ones go on.
    #[inline]
    pub(super) fn take_filled(&mut self) -> Filled {
        let filled = Filled { ptr: self.ptr, len: self.filled };
        (self.cap, self.filled, self.known) = (0, 0, 0);
        filled
    }
}

/// What was filled of a piece, and nothing else. It is alone on its bytes as the piece was.
#[derive(Debug)]
pub(super) struct Filled {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: as for a piece.
unsafe impl Send for Filled {}
// SAFETY: `&Filled` gives only `&[u8]`; writing needs `&mut Filled`.
unsafe impl Sync for Filled {}

impl Filled {
    /// Gives up all bytes to another value.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self { ptr: self.ptr, len: mem::take(&mut self.len) }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `Piece::new` promised these bytes for us alone, `filled` says they are initialised. The borrow of
        // self keeps writers out.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// Writes `byte` to all of it.
    pub(super) fn overwrite(&mut self, byte: u8) {
        // SAFETY: `len` bytes are valid for writes and ours alone through `&mut self`.
        unsafe { ptr::write_bytes(self.ptr.as_ptr(), byte, self.len) };
    }
}

/// Where a ring's memory starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base(pub(super) NonNull<u8>);

// SAFETY: an address by itself gives no access; whoever makes a piece of it proves that he may.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}
