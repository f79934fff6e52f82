//! A segment in use, and its way back.
#![expect(unsafe_code, reason = "a segment in use keeps its ring alive without a count of its own")]

use std::{fmt, ptr::NonNull, sync::Arc};

use bytes::Bytes;

use super::{
    limit::Permit,
    piece::Filled,
    returns::{Fate, Note},
    shared::{Shared, Taken},
    slots::Slot,
};

/// A segment that was taken and is not yet back.
///
/// **Why the ring is alive.** The ring has a count of itself for all its segments together
/// ([`Desk::open`](super::desk::Desk::open)). It is given up under the ring's lock when no segment is in use any more,
/// and one is in use until the note of its return was taken, or carried out directly. The note is the last thing that
/// [`give_back`](Self::give_back) does.
pub(super) struct Segment {
    shared: NonNull<Shared>,
    slot: NonNull<Slot<Bytes>>,
}

// SAFETY: a segment is a way to `&Shared` and to `&Slot<Bytes>`, both of which are Sync, and can end the ring, which is
// Send.
unsafe impl Send for Segment {}
// SAFETY: `&Segment` gives `&Shared` and `&Slot<Bytes>`, both of which are Sync.
unsafe impl Sync for Segment {}

const _: () = {
    const fn shared_by_all<T: Send + Sync>() {}
    shared_by_all::<Shared>();
    shared_by_all::<Bytes>();
};

impl Segment {
    #[inline]
    pub(super) fn new(taken: Taken<'_>) -> Self {
        let (shared, slot) = taken.into_parts();
        // SAFETY: a pointer of an Arc is not null.
        let shared = unsafe { NonNull::new_unchecked(Arc::as_ptr(shared).cast_mut()) };
        Self { shared, slot: NonNull::from(slot) }
    }

    #[inline]
    pub(super) fn shared(&self) -> &Shared {
        // SAFETY: the ring is alive, see above.
        unsafe { self.shared.as_ref() }
    }

    #[inline]
    pub(super) fn slot(&self) -> &Slot<Bytes> {
        // SAFETY: slots live as long as their ring, which is alive, and never move.
        unsafe { self.slot.as_ref() }
    }

    /// Makes a lease of what was `filled` in it, and gives the rest back at once.
    #[inline]
    pub(super) fn into_lease(self, filled: Filled, reserved: usize, permit: Option<Permit>) -> Bytes {
        let Self { shared, slot } = self;
        let bytes = filled.as_slice().len();
        let lease = Bytes::from_owner(Lease { filled, segment: self, permit });
        // SAFETY: `lease` owns the segment, which keeps the ring alive, and is itself alive until the return.
        let shared = unsafe { shared.as_ref() };
        // SAFETY: the same; slots live as long as their ring.
        let slot = unsafe { slot.as_ref() };
        // SAFETY: the segment is this lease's alone, and nobody can have a slice of it yet: `lease` is its only handle
        // and has not left this function.
        unsafe { slot.publish(&lease) };
        shared.desk().keep(slot, shared.granules(bytes), shared.granules(reserved));
        lease
    }

    /// Gives the segment back.
    ///
    /// # Safety
    ///
    /// It is the last call for this segment, and nobody can reach its bytes any more. The ring may be gone when it
    /// returns, so no reference to the ring that depends on this segment may be an argument of a function that is still
    /// running.
    #[inline]
    pub(super) unsafe fn give_back(&self, fate: Fate) {
        // Copies of atomics' addresses, and no `&Shared` as an argument: the note can be taken, and the ring be freed,
        // before `leave` returns.
        let (returns, slot) = (self.shared().desk().returns(), self.slot());
        let number = slot.number();
        if !returns.leave(Note::new(number, fate), slot.link(fate)) {
            // SAFETY: the segment is not back yet.
            unsafe { Self::give_back_now(self.shared, number, fate) };
        }
    }

    /// # Safety
    ///
    /// Segment `number` of the ring is in use, and the caller's to give back.
    #[cold]
    unsafe fn give_back_now(shared: NonNull<Shared>, number: u32, fate: Fate) {
        // SAFETY: `shared` came from an Arc (see `new`), and the segment in use keeps it alive.
        unsafe { Arc::increment_strong_count(shared.as_ptr()) };
        // SAFETY: this is the count from the line above. With it the ring outlives its lock.
        let shared = unsafe { Arc::from_raw(shared.as_ptr()) };
        drop(shared.desk().carry_out(number, fate));
        if fate == Fate::Stale {
            shared.renew_for_waiters();
        }
    }
}

/// A committed segment: the owner of a lease's [`Bytes`]. Dropping it gives the segment back.
struct Lease {
    filled: Filled,
    segment: Segment,
    permit: Option<Permit>,
}

impl AsRef<[u8]> for Lease {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.filled.as_slice()
    }
}

impl Drop for Lease {
    /// Moves the value out instead of lending it: where nothing takes its address, the compiler builds a lease in its
    /// place on the heap, and not on the stack first.
    #[inline]
    fn drop(&mut self) {
        let Self { filled, segment: Segment { shared, slot }, permit } = self;
        Self::end(filled.take(), Segment { shared: *shared, slot: *slot }, permit.take());
    }
}

impl Lease {
    #[inline(never)]
    fn end(mut filled: Filled, segment: Segment, permit: Option<Permit>) {
        let fate = segment.shared().fate(&mut filled, segment.slot().distrusted());
        // SAFETY: the last handle is gone, and with it every way to the bytes but this value, which is going.
        unsafe { segment.give_back(fate) };
        // When the segment is back, so that whoever waits for the permit finds the space as well.
        drop(permit);
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Segment").field(&self.slot().number()).finish()
    }
}
