//! A reserved piece, its way into a lease, and its way back.
#![expect(unsafe_code, reason = "BufMut is an unsafe trait; a grant is where exclusive ring memory comes into being")]

use std::{fmt, mem::MaybeUninit, ops::Range, ptr::NonNull, sync::Arc};

use bytes::{BufMut, Bytes, buf::UninitSlice};

use super::{RingError, cell::Piece, limit::Permit, reuse::Returned, shared::Shared};
use crate::memory::Reuse;

/// A segment in use: what a grant and a lease are made of. Dropping it gives the segment back.
struct Held {
    shared: Arc<Shared>,
    node: u32,
    start: u32,
    committed: bool,
    piece: Piece,
    /// Goes last, when the segment is back.
    _permit: Option<Permit>,
}

impl AsRef<[u8]> for Held {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.piece.filled()
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        let returned = match self.shared.slots.get(self.node) {
            Some(slot) if self.committed => {
                let distrusted = slot.distrusted();
                slot.close();
                if distrusted { Returned::Distrusted } else { Returned::Lease }
            }
            _ => Returned::Unsent,
        };
        self.shared.take_back(self.node, self.start, &mut self.piece, returned);
    }
}

/// A contiguous piece of a ring, to be filled and committed.
///
/// Fill it as [`BufMut`] (also with tokio's `read_buf`, which reads from a socket right into it), as a raw slice with
/// [`as_mut_slice`](Self::as_mut_slice) and [`fill`](Self::fill), or through
/// [`spare_capacity_mut`](Self::spare_capacity_mut). Only what was filled in this grant can be committed, so that bytes of
/// a previous lap are never sent. Dropping the grant gives the whole piece back.
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
    held: Held,
    /// The bytes that were asked for; the segment may have a few more.
    limit: usize,
}

impl Grant {
    pub(super) fn new(shared: Arc<Shared>, (node, start): (u32, u32), limit: usize, permit: Option<Permit>) -> Self {
        let range = shared.range(start, shared.bytes(shared.granules(limit)));
        // SAFETY: the segment lies within the ring's capacity, which the memory has (checked when the ring was built).
        let ptr: NonNull<u8> = unsafe { shared.memory().as_ptr().add(range.start) };
        // SAFETY: the memory lives as long as `shared`, of which `Held` keeps a count beside the piece. `Space` gave the segment
        // to this call alone, and takes it back only when `Held` is dropped, with the piece. `Memory` promises that nobody
        // outside writes.
        let piece = unsafe { Piece::new(ptr, range.len()) };
        Self { held: Held { shared, node, start, committed: false, piece, _permit: permit }, limit }
    }

    /// The bytes filled so far: what a commit would send.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.held.piece.filled()
    }

    /// The bytes filled so far, to be changed in place.
    #[must_use]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.held.piece.filled_mut()
    }

    /// How many bytes can still be filled.
    #[must_use]
    #[inline]
    pub fn remaining(&self) -> usize {
        self.limit - self.held.piece.len()
    }

    /// The unfilled rest. Count what was written with [`assume_filled`](Self::assume_filled).
    #[must_use]
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let remaining = self.remaining();
        &mut self.held.piece.spare()[..remaining]
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
        assert!(n <= self.remaining(), "{n} bytes cannot be filled where {} remain", self.remaining());
        // SAFETY: the caller's promise is the same.
        unsafe { self.held.piece.assume_filled(n) }
    }

    /// The unfilled rest as plain bytes. What this grant has not written yet is zeroed first, once; a wrong count can
    /// therefore send zeroes, but nothing of a previous lap. Count what was written with [`fill`](Self::fill).
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let remaining = self.remaining();
        &mut self.held.piece.zeroed_spare()[..remaining]
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
        self.held.piece.fill(n).map_err(|written| RingError::NotWritten { asked: n, written })
    }

    /// Makes the filled bytes a lease and gives the unused tail back at once.
    ///
    /// The last clone's drop gives the lease's space back. A grant with nothing filled becomes an empty `Bytes` that
    /// holds no space.
    #[must_use = "dropping the lease gives its space back"]
    pub fn commit(self) -> Bytes {
        let Self { mut held, .. } = self;
        if held.piece.len() == 0 {
            return Bytes::new();
        }
        let shared: *const Shared = Arc::as_ptr(&held.shared);
        let node = held.node;
        let granules = held.shared.granules(held.piece.len());
        if held.piece.exposed() {
            let filled = held.piece.len();
            held.shared.wipe(&mut held.piece, filled);
        }
        held.piece.narrow(held.shared.bytes(granules));
        held.shared.commit(node, granules);
        held.committed = true;
        let lease = Bytes::from_owner(held);
        // SAFETY: `lease` owns the `Held` with its count of `shared`, and is alive until this function returns it.
        let shared = unsafe { &*shared };
        if let Some(slot) = shared.slots.get(node) {
            // SAFETY: the segment is this lease's alone, and nobody can have a slice of it yet: `lease` is its only handle
            // and has not left this function.
            unsafe { slot.publish(&lease) };
        }
        lease
    }
}

// SAFETY: `chunk_mut` is the rest of one exclusive piece, `remaining_mut` is its length, and `advance_mut` moves exactly that
// far, or panics.
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

impl Shared {
    /// The lease that all of `slice` lies in, exactly as long as `slice`.
    #[inline]
    pub(crate) fn lease_of(&self, slice: &[u8]) -> Option<Bytes> {
        let address = slice.as_ptr().addr();
        let node = self.index.find(self.granule(address))?;
        let cut = |lease: &Bytes| {
            let from = address.checked_sub(lease.as_ptr().addr())?;
            let to = from + slice.len();
            (to <= lease.len()).then(|| lease.slice(from..to))
        };
        // SAFETY: `slice` is a live borrow of memory that this ring owns, so its segment is a grant that somebody borrows (it
        // cannot be committed now) or a lease of which a handle is borrowed, for the whole call. `find` gave that segment's
        // number (proof in index.rs).
        unsafe { self.slots.get(node)?.read(cut) }.flatten()
    }

    /// Notes that the leases under `slice` may be read after their last handles are gone. False if a part of it is no lease.
    pub(crate) fn distrust(&self, slice: &[u8]) -> bool {
        let Range { start, end: ring_end } = self.addresses();
        let (mut at, end) = (slice.as_ptr().addr(), slice.as_ptr().addr() + slice.len());
        if end > ring_end {
            return false;
        }
        while at < end {
            let Some(slot) = self.index.find(self.granule(at)).and_then(|node| self.slots.get(node)) else {
                return false;
            };
            // SAFETY: as in `lease_of`, for the segment of `at`, which lies in the slice.
            let Some(end) = (unsafe { slot.read(|lease| lease.as_ptr().addr() + lease.len()) }) else { return false };
            slot.distrust();
            // The segment ends with the lease's last granule, which is the one of `at` or a later one.
            at = start + self.bytes(self.granules(end - start));
        }
        true
    }

    /// Has the lease under `slice` replaced when it comes back. False, and nothing noted, where that cannot be.
    pub(crate) fn give_away(&self, slice: &[u8]) -> bool {
        match self.facts().reuse {
            Reuse::FreshPages => return true,
            Reuse::Immutable => return false,
            Reuse::InPlace => {}
        }
        let Some(slot) = self.index.find(self.granule(slice.as_ptr().addr())).and_then(|node| self.slots.get(node))
        else {
            return false;
        };
        let whole = |lease: &Bytes| {
            let offset = lease.as_ptr().addr() - self.start();
            let end = slice.as_ptr().addr() + slice.len();
            end <= lease.as_ptr().addr() + lease.len()
                && self.can_replace(offset..offset + self.bytes(self.granules(lease.len())))
        };
        // SAFETY: as in `lease_of`.
        let given = unsafe { slot.read(whole) } == Some(true);
        if given {
            slot.distrust();
        }
        given
    }
}
