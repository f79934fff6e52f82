//! A reserved piece, its way into a lease, and its way back.
#![expect(unsafe_code, reason = "BufMut is an unsafe trait; a grant is where exclusive ring memory comes into being")]

use std::{fmt, mem::MaybeUninit};

use bytes::{BufMut, Bytes, buf::UninitSlice};

use super::{RingError, limit::Permit, piece::Piece, returns::Fate, segment::Segment, shared::Taken};

/// A contiguous piece of a ring, to be filled and committed.
///
/// Fill it as [`BufMut`] (also with tokio's `read_buf`, which reads from a socket right into it), as a raw slice with
/// [`as_mut_slice`](Self::as_mut_slice) and [`fill`](Self::fill), or through
/// [`spare_capacity_mut`](Self::spare_capacity_mut). Only what was filled in this grant can be committed, so that bytes
/// of a previous lap are never sent. Dropping the grant gives the whole piece back.
///
/// ```
/// # fn main() -> Result<(), zerosink_core::ring::RingError> {
/// use bytes::BufMut;
/// use zerosink_core::ring::Ring;
///
/// let ring = Ring::builder().capacity(1 << 16).build()?;
/// let mut grant = ring.try_reserve(4096)?;
/// grant.put_slice(b"hello");
/// let lease = grant.commit();
/// assert_eq!(lease, "hello");
/// drop(lease); // the space is free again
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a grant gives its space back; fill it and call commit"]
pub struct Grant {
    piece: Piece,
    /// `None` once it is a lease.
    segment: Option<Segment>,
    /// Goes last, when the segment is back.
    permit: Option<Permit>,
}

impl Grant {
    #[inline]
    pub(super) fn new(taken: Taken<'_>, permit: Option<Permit>) -> Self {
        let offset = taken.offset();
        // SAFETY: the segment lies within the ring's capacity, which the memory has (checked when the ring was built).
        let ptr = unsafe { taken.shared().base().0.add(offset) };
        // SAFETY: the segment is no shorter than `bytes`. The memory lives as long as the ring, which the segment
        // beside the piece keeps alive. `Space` gave the segment to the one who has `taken`, and takes it back only
        // after the piece is gone. `Memory` promises that nobody outside writes.
        let piece = unsafe { Piece::new(ptr, taken.bytes()) };
        Self { piece, segment: Some(Segment::new(taken)), permit }
    }

    /// The bytes filled so far: what a commit would send.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.piece.filled()
    }

    /// The bytes filled so far, to be changed in place.
    #[must_use]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.piece.filled_mut()
    }

    /// How many bytes can still be filled.
    #[must_use]
    #[inline]
    pub fn remaining(&self) -> usize {
        self.piece.remaining()
    }

    /// The unfilled rest. Count what was written with [`assume_filled`](Self::assume_filled).
    #[must_use]
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        self.piece.spare()
    }

    /// Counts `n` more bytes as filled.
    ///
    /// # Safety
    ///
    /// The first `n` bytes of [`spare_capacity_mut`](Self::spare_capacity_mut) were written in this grant.
    ///
    /// # Panics
    ///
    /// If `n > remaining()`.
    #[inline]
    pub unsafe fn assume_filled(&mut self, n: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.piece.assume_filled(n) }
    }

    /// The unfilled rest as plain bytes. What this grant has not written yet is zeroed first, once; a wrong count can
    /// therefore send zeroes, but nothing of a previous lap. Count what was written with [`fill`](Self::fill).
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.piece.zeroed_spare()
    }

    /// Counts the next `n` bytes of [`as_mut_slice`](Self::as_mut_slice) as filled.
    ///
    /// # Errors
    ///
    /// [`RingError::NotWritten`] if that slice was not taken, or not that long; nothing is counted then. Taking
    /// [`spare_capacity_mut`](Self::spare_capacity_mut) or a `BufMut` chunk in between voids the slice.
    pub fn fill(&mut self, n: usize) -> Result<(), RingError> {
        if n > self.remaining() {
            return Err(RingError::NotWritten { asked: n, written: self.remaining() });
        }
        self.piece.fill(n).map_err(|written| RingError::NotWritten { asked: n, written })
    }

    /// Makes the filled bytes a lease and gives the unused tail back at once.
    ///
    /// The last clone's drop gives the lease's space back. A grant with nothing filled becomes an empty `Bytes` that
    /// holds no space.
    #[must_use = "dropping the lease gives its space back"]
    #[inline]
    pub fn commit(mut self) -> Bytes {
        if self.piece.len() == 0 {
            return Bytes::new();
        }
        if self.piece.exposed()
            && let Some(segment) = &self.segment
        {
            segment.shared().wipe_unsent(&mut self.piece);
        }
        let (reserved, filled) = (self.piece.cap(), self.piece.take_filled());
        let permit = self.permit.take();
        self.segment.take().map_or_else(Bytes::new, |segment| segment.into_lease(filled, reserved, permit))
    }
}

impl Drop for Grant {
    #[inline]
    fn drop(&mut self) {
        let Some(segment) = self.segment.take() else { return };
        if self.piece.exposed() {
            segment.shared().wipe_grant(&mut self.piece);
        }
        // SAFETY: nobody else has the grant's bytes, and this value is going.
        unsafe { segment.give_back(Fate::Free) };
    }
}

// SAFETY: `chunk_mut` is the rest of one exclusive piece, `remaining_mut` is its length, and `advance_mut` moves
// exactly that far, or panics.
unsafe impl BufMut for Grant {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.remaining()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, n: usize) {
        // SAFETY: the caller promises that the next n bytes of the chunk were initialised.
        unsafe { self.assume_filled(n) }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::uninit(self.spare_capacity_mut())
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("filled", &self.filled().len()).field("remaining", &self.remaining()).finish()
    }
}
