//! From a slice to its lease.
#![expect(unsafe_code, reason = "a slice of a lease proves that the lease lives")]

use bytes::Bytes;

use super::slots::Slot;
use crate::{memory::Reuse, region::rings::RingSlice};

impl<'a> RingSlice<'a> {
    /// The slot of the segment that the byte at `address` lies in, and the lease if it is one.
    #[inline]
    fn segment(&self, address: usize) -> Option<(&'a Slot<Bytes>, Option<&'a Bytes>)> {
        let ring = self.ring();
        let slot = ring.desk().index().find(ring.granule(address))?;
        // SAFETY: the byte is borrowed for 'a, so for that long its segment is in use, and `find` gave what was noted
        // for it (proof in index.rs): its slot, which lives as long as the ring, which lives as long as its segments.
        let slot = unsafe { &*slot };
        // SAFETY: for 'a the segment is a grant that somebody borrows (it cannot be committed) or a lease of which a
        // handle is borrowed.
        Some((slot, unsafe { slot.read() }))
    }

    /// A handle to exactly this slice, if all of it lies in one lease.
    #[inline]
    pub(crate) fn lease(&self) -> Option<Bytes> {
        let lease = self.segment(self.start())?.1?;
        let from = self.start().checked_sub(lease.as_ptr().addr())?;
        let to = from + self.len();
        if to > lease.len() {
            return None;
        }
        Some(lease.slice(from..to))
    }

    /// Notes that the leases under the slice may be read after their last handles are gone. False if a part of it is no
    /// lease.
    pub(crate) fn distrust(&self) -> bool {
        let ring = self.ring();
        let first = ring.addresses().start;
        let mut at = self.start();
        while at < self.start() + self.len() {
            let Some((slot, Some(lease))) = self.segment(at) else { return false };
            slot.distrust();
            // The segment ends with the lease's last granule, which is the one of `at` or a later one.
            at = first + ring.bytes(ring.granules(lease.as_ptr().addr() + lease.len() - first));
        }
        true
    }

    /// Notes that the lease was sent, if the slice is its end.
    pub(crate) fn note_sent(&self) {
        if let Some((slot, Some(lease))) = self.segment(self.start())
            && self.start() + self.len() == lease.as_ptr().addr() + lease.len()
        {
            slot.note_sent();
        }
    }

    /// True if that was noted of the lease that the slice begins in.
    pub(crate) fn was_sent(&self) -> bool {
        self.segment(self.start()).is_some_and(|(slot, _)| slot.was_sent())
    }

    /// Has the lease under the slice replaced when it comes back. False, and nothing noted, where that cannot be.
    pub(crate) fn give_away(&self) -> bool {
        let ring = self.ring();
        match ring.facts().reuse {
            Reuse::FreshPages => return true,
            Reuse::Immutable => return false,
            Reuse::InPlace => {}
        }
        let Some((slot, Some(lease))) = self.segment(self.start()) else { return false };
        let (lease_start, lease_end) = (lease.as_ptr().addr(), lease.as_ptr().addr() + lease.len());
        let offset = lease_start - ring.start();
        let whole = self.start() + self.len() <= lease_end
            && ring.can_replace(offset..offset + ring.bytes(ring.granules(lease.len())));
        if whole {
            slot.distrust();
        }
        whole
    }
}
