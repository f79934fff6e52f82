//! What a ring's handles, grants and leases have in common.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
};

use bytes::Bytes;

use super::{
    RingError, RingStats,
    desk::{Desk, Refused},
    piece::Base,
    reuse::KeptPages,
    slots::Slot,
};
use crate::{
    memory::{Memory, MemoryFacts, Reuse},
    region::rings,
};

/// Bytes of what came back that get fresh pages in one call, unless a single granule has more. Enough to make little of what a
/// call costs, and few enough to be in the processor's cache when they are written.
const RENEWED_AT_ONCE: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` only when the ring is being dropped.
    memory: Option<Box<dyn Memory>>,
    /// The first byte, so that neither a grant nor a look-up asks a virtual function.
    base: Base,
    capacity: usize,
    /// Logarithm of a granule's bytes.
    pub(super) shift: u32,
    facts: MemoryFacts,
    pub(super) scrub: bool,
    pub(super) poison: Option<u8>,
    /// In granules.
    low_water: u32,
    /// Granules that get fresh pages at once, at most.
    batch: u32,
    /// Who relies on the pages of a ring that is reused in place.
    pub(super) keeps_pages: Mutex<KeptPages>,
    desk: Desk<Bytes, Arc<Self>>,
}

/// A segment that was taken for `bytes` bytes. It is made in this file only, once each time that a segment is taken,
/// and has no copies: whoever has it is alone with the segment, and must make a grant of it.
#[derive(Debug)]
#[must_use = "the segment is lost"]
pub(super) struct Taken<'a> {
    shared: &'a Arc<Shared>,
    slot: &'a Slot<Bytes>,
    start: u32,
    bytes: usize,
}

impl<'a> Taken<'a> {
    #[inline]
    pub(super) fn shared(&self) -> &'a Shared {
        self.shared
    }

    /// The first byte, from the ring's first.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        (self.start as usize) << self.shared.shift
    }

    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    pub(super) fn into_parts(self) -> (&'a Arc<Shared>, &'a Slot<Bytes>) {
        (self.shared, self.slot)
    }
}

impl Shared {
    /// `capacity` is a whole number of granules of `1 << shift` bytes, or part of a single one; the memory has that much.
    /// The desk must be closed when the last handle goes.
    pub(super) fn new(
        memory: Box<dyn Memory>,
        (capacity, shift): (usize, u32),
        facts: MemoryFacts,
        (scrub, poison): (bool, Option<u8>),
        low_water: u32,
        desk: Desk<Bytes, Arc<Self>>,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            base: Base(memory.as_ptr()),
            memory: Some(memory),
            capacity,
            shift,
            facts,
            scrub,
            poison,
            low_water,
            batch: (RENEWED_AT_ONCE >> shift).max(1) as u32,
            keeps_pages: Mutex::default(),
            desk,
        });
        shared.desk.open(shared.clone());
        rings::insert(shared.addresses(), Arc::as_ptr(&shared));
        shared
    }

    #[inline]
    pub(crate) fn facts(&self) -> MemoryFacts {
        self.facts
    }

    #[inline]
    pub(super) fn desk(&self) -> &Desk<Bytes, Arc<Self>> {
        &self.desk
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(super) fn base(&self) -> Base {
        self.base
    }

    #[inline]
    pub(super) fn start(&self) -> usize {
        self.base.0.addr().get()
    }

    /// # Panics
    ///
    /// If the ring is being dropped, when nobody else has it.
    pub(crate) fn memory(&self) -> &dyn Memory {
        self.memory.as_deref().expect("lives as long as the ring")
    }

    /// The addresses of all that can be granted.
    #[inline]
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.start()..self.start() + self.capacity
    }

    /// True if less than the low-water mark is free.
    #[inline]
    pub(crate) fn is_low(&self) -> bool {
        self.low_water > 0 && self.desk.free() < self.low_water
    }

    pub(super) fn low_water(&self) -> usize {
        self.bytes(self.low_water)
    }

    pub(super) fn scrubs(&self) -> bool {
        self.scrub
    }

    /// The granule of an address within this ring.
    #[inline]
    pub(super) fn granule(&self, address: usize) -> u32 {
        ((address - self.start()) >> self.shift) as u32
    }

    /// Whole granules for `bytes`.
    #[inline]
    pub(super) fn granules(&self, bytes: usize) -> u32 {
        bytes.div_ceil(1 << self.shift) as u32
    }

    /// Bytes of so many granules. A ring of a single one may be shorter than it.
    #[inline]
    pub(super) fn bytes(&self, granules: u32) -> usize {
        ((granules as usize) << self.shift).min(self.capacity)
    }

    #[inline]
    pub(super) fn check(&self, bytes: usize) -> Result<u32, RingError> {
        if bytes.wrapping_sub(1) < self.capacity { Ok(self.granules(bytes)) } else { Err(self.never(bytes)) }
    }

    #[cold]
    fn never(&self, bytes: usize) -> RingError {
        match bytes {
            0 => RingError::ZeroReserve,
            asked => RingError::TooLong { asked, longest: self.capacity },
        }
    }

    #[cold]
    fn refused(&self, asked: usize, refused: Refused) -> RingError {
        match refused {
            Refused::Full(free) => RingError::Full { asked, free: self.bytes(free) },
            Refused::Never(longest) => RingError::TooLong { asked, longest: self.bytes(longest) },
        }
    }

    /// A segment, or `Full`, or the reason why there never will be one.
    #[inline]
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Result<Taken<'_>, RingError> {
        let granules = self.check(bytes)?;
        match self.desk.take(granules).or_else(|| self.renew_and_take(granules)) {
            Some((slot, start)) => Ok(Taken { shared: self, slot, start, bytes }),
            None => Err(self.refused(bytes, self.desk.refusal(granules))),
        }
    }

    /// A segment, or a ticket in the queue, or the reason why there never will be one.
    pub(super) fn take_or_join(
        self: &Arc<Self>,
        bytes: usize,
        waker: &Waker,
    ) -> Result<Result<Taken<'_>, u64>, RingError> {
        let granules = self.check(bytes)?;
        let taken = |(slot, start)| Taken { shared: self, slot, start, bytes };
        let outcome = self.desk.take_or_join(granules, waker).map_err(|refused| self.refused(bytes, refused))?;
        match outcome {
            Ok(segment) => Ok(Ok(taken(segment))),
            // What came back before is for whoever waits now.
            Err(ticket) if self.has_fresh_pages() => {
                self.renew_for_waiters();
                self.collect(bytes, ticket, waker).map_or(Ok(Err(ticket)), |outcome| outcome.map(Ok))
            }
            Err(ticket) => Ok(Err(ticket)),
        }
    }

    #[inline]
    fn has_fresh_pages(&self) -> bool {
        self.facts.reuse == Reuse::FreshPages
    }

    /// A segment of what came back and gets fresh pages now.
    #[cold]
    fn renew_and_take(&self, granules: u32) -> Option<(&Slot<Bytes>, u32)> {
        let mut renewed = 0;
        // Not for more than a lap: others may take what is renewed here.
        while self.has_fresh_pages() && renewed < self.granules(self.capacity) {
            match self.desk.renew(self.batch, |start, granules| self.replace(start, granules)) {
                0 => break,
                more => renewed += more,
            }
            if let Some(taken) = self.desk.take(granules) {
                return Some(taken);
            }
        }
        None
    }

    /// Gives what came back fresh pages as long as somebody waits for space.
    #[cold]
    pub(super) fn renew_for_waiters(&self) {
        self.desk.renew_for_waiters(self.batch, |start, granules| self.replace(start, granules));
    }

    /// What the ticket for `bytes` bytes became, if it was served.
    pub(super) fn collect(
        self: &Arc<Self>,
        bytes: usize,
        ticket: u64,
        waker: &Waker,
    ) -> Option<Result<Taken<'_>, RingError>> {
        let outcome = self.desk.collect(ticket, waker)?.map_err(|refused| self.refused(bytes, refused));
        Some(outcome.map(|(slot, start)| Taken { shared: self, slot, start, bytes }))
    }

    pub(super) fn stats(&self) -> RingStats {
        let totals = self.desk.totals();
        RingStats {
            capacity: self.capacity,
            free: self.bytes(totals.free),
            granted: self.bytes(totals.granted),
            leased: self.bytes(totals.leased),
            distrusted: self.bytes(totals.distrusted),
            high_water: self.bytes(totals.high_water),
            oldest_lease_age: totals.oldest,
            quarantined: self.bytes(totals.quarantined),
            retired: self.bytes(totals.retired),
            waiters: totals.waiters,
        }
    }
}

/// Memory that must never go back to an allocator.
static KEPT: Mutex<Vec<Box<dyn Memory>>> = Mutex::new(Vec::new());

impl Drop for Shared {
    fn drop(&mut self) {
        // Before the memory goes, and with it the right to its addresses.
        let addresses = self.addresses();
        rings::remove(addresses.clone(), self);
        self.keeps_pages.get_mut().unwrap_or_else(PoisonError::into_inner).let_go(&addresses);
        if self.desk.totals().quarantined > 0
            && let Some(memory) = self.memory.take_if(|memory| memory.facts().reuse == Reuse::InPlace)
        {
            // What is in quarantine may still be read, and this memory's next owner would write it.
            let bytes = memory.len();
            tracing::warn!(bytes, "a ring's memory is never freed: a part of it is in quarantine");
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
    }
}
