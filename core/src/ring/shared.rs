//! What a ring's handles, grants and leases have in common.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    RingError, RingStats,
    cell::{Piece, Slot, Slots},
    index::Index,
    reuse::Returned,
    space::{Kind, Space},
    waiters::Waiters,
};
use crate::{
    memory::{Memory, MemoryFacts, Reuse},
    region::rings,
};

type Wakers = SmallVec<[Waker; 4]>;

#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` only when the ring is being dropped.
    memory: Option<Box<dyn Memory>>,
    /// Address of the first byte, so that looking up a slice asks no virtual function.
    start: usize,
    capacity: usize,
    /// Logarithm of a granule's bytes.
    shift: u32,
    facts: MemoryFacts,
    pub(super) scrub: bool,
    pub(super) poison: Option<u8>,
    /// True once somebody relies on the pages of a ring that is reused in place.
    pub(super) keeps_pages: Mutex<bool>,
    pub(super) index: Index,
    pub(super) slots: Slots<Bytes>,
    state: Mutex<State>,
}

/// Starts on a cache line of its own: what changes with every reservation is not beside what every lookup reads.
#[derive(Debug)]
#[repr(align(128))]
struct State {
    space: Space,
    waiters: Waiters,
}

impl Shared {
    /// `capacity` is a whole number of granules of `1 << shift` bytes, or part of a single one; the memory has that much.
    pub(super) fn new(
        memory: Box<dyn Memory>,
        (capacity, shift): (usize, u32),
        facts: MemoryFacts,
        (scrub, poison): (bool, Option<u8>),
        (index, granules): (Index, u32),
    ) -> Arc<Self> {
        let state = State { space: Space::new(granules), waiters: Waiters::default() };
        let start = memory.as_ptr().addr().get();
        let slots = Slots::new();
        let shared = Arc::new(Self {
            memory: Some(memory),
            start,
            capacity,
            shift,
            facts,
            scrub,
            poison,
            keeps_pages: Mutex::new(false),
            index,
            slots,
            state: Mutex::new(state),
        });
        rings::insert(shared.start..shared.start + shared.capacity, Arc::as_ptr(&shared));
        shared
    }

    pub(crate) fn facts(&self) -> MemoryFacts {
        self.facts
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn start(&self) -> usize {
        self.start
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
        self.start..self.start + self.capacity
    }

    pub(super) fn scrubs(&self) -> bool {
        self.scrub
    }

    /// The granule of an address within this ring.
    #[inline]
    pub(super) fn granule(&self, address: usize) -> u32 {
        ((address - self.start) >> self.shift) as u32
    }

    /// Byte offsets of a segment of `len` bytes.
    #[inline]
    pub(super) fn range(&self, start: u32, len: usize) -> Range<usize> {
        let start = (start as usize) << self.shift;
        start..start + len
    }

    /// Whole granules for `bytes`.
    #[inline]
    pub(super) fn granules(&self, bytes: usize) -> u32 {
        bytes.div_ceil(1 << self.shift) as u32
    }

    /// Bytes of so many granules. A ring of a single one may be shorter than it.
    pub(super) fn bytes(&self, granules: u32) -> usize {
        ((granules as usize) << self.shift).min(self.capacity)
    }

    pub(super) fn check(&self, bytes: usize) -> Result<u32, RingError> {
        if bytes == 0 {
            Err(RingError::ZeroReserve)
        } else if bytes > self.capacity {
            Err(RingError::TooLong { asked: bytes, longest: self.capacity })
        } else {
            Ok(self.granules(bytes))
        }
    }

    /// Nothing panics with the lock held but a broken invariant of ours; what others see then is still consistent enough
    /// to drop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment's number and first granule, or `Full`, or the reason why there never will be one.
    pub(super) fn try_take(&self, bytes: usize) -> Result<(u32, u32), RingError> {
        let granules = self.check(bytes)?;
        let mut state = self.lock();
        if state.waiters.is_empty()
            && let Some(taken) = state.take(self, granules)
        {
            return Ok(taken);
        }
        state.possible(self, granules)?;
        state.space.stamp();
        Err(RingError::Full { asked: bytes, free: self.bytes(state.space.total(Kind::Hole)) })
    }

    /// The same, or a ticket in the queue.
    pub(super) fn take_or_join(&self, bytes: usize, waker: &Waker) -> Result<Result<(u32, u32), u64>, RingError> {
        let granules = self.check(bytes)?;
        let mut state = self.lock();
        if state.waiters.is_empty()
            && let Some(taken) = state.take(self, granules)
        {
            return Ok(Ok(taken));
        }
        state.possible(self, granules)?;
        state.space.stamp();
        Ok(Err(state.waiters.join(granules, waker.clone())))
    }

    pub(super) fn collect(&self, ticket: u64, waker: &Waker) -> Option<Result<(u32, u32), RingError>> {
        let mut state = self.lock();
        let outcome = state.waiters.collect(ticket, waker)?;
        Some(outcome.map(|node| (node, state.space.start(node))))
    }

    pub(super) fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        if let Some(Ok(node)) = state.waiters.leave(ticket) {
            state.free(self, node);
        }
        Self::wake(state.serve(self), state);
    }

    /// Keeps `granules >= 1` of a grant as a lease.
    #[inline]
    pub(super) fn commit(&self, node: u32, granules: u32) {
        let mut state = self.lock();
        let tail = state.space.commit(node, granules);
        if !state.waiters.is_empty() && (tail || self.facts.reuse == Reuse::Immutable) {
            Self::wake(state.serve(self), state);
        }
    }

    /// Takes back a segment whose piece nobody can use any more but the caller.
    #[inline]
    pub(super) fn take_back(&self, node: u32, start: u32, piece: &mut Piece, returned: Returned) {
        let retire = self.clean(start, piece, returned);
        let mut state = self.lock();
        match retire {
            None => state.free(self, node),
            Some(kind) => {
                self.index.clear(start);
                state.space.retire(node, kind);
            }
        }
        if !state.waiters.is_empty() {
            Self::wake(state.serve(self), state);
        }
    }

    pub(super) fn stats(&self) -> RingStats {
        let mut state = self.lock();
        state.space.stamp();
        let bytes = |kind| self.bytes(state.space.total(kind));
        let distrusted = |node| self.slots.get(node).is_some_and(Slot::distrusted);
        RingStats {
            capacity: self.capacity,
            free: bytes(Kind::Hole),
            granted: bytes(Kind::Granted),
            leased: bytes(Kind::Leased),
            distrusted: self.bytes(state.space.leased(distrusted)),
            high_water: self.bytes(state.space.high_water()),
            oldest_lease_age: state.space.oldest().map(|since| since.elapsed()),
            quarantined: bytes(Kind::Quarantined),
            retired: bytes(Kind::Retired),
            waiters: state.waiters.len(),
        }
    }

    /// Wakes after the lock, because a waker may run anything.
    fn wake(wakers: Wakers, state: MutexGuard<'_, State>) {
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Before the memory goes, and with it the right to its addresses.
        rings::remove(self.start);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.space.total(Kind::Quarantined) > 0
            && let Some(memory) = self.memory.take_if(|memory| memory.facts().reuse == Reuse::InPlace)
        {
            // What is in quarantine may still be read, and this memory's next owner would write it.
            let bytes = memory.len();
            tracing::warn!(bytes, "a ring's memory is never freed: a part of it is in quarantine");
            Box::leak(memory);
        }
    }
}

impl State {
    #[inline]
    fn take(&mut self, shared: &Shared, granules: u32) -> Option<(u32, u32)> {
        let node = self.space.allocate(granules)?;
        let start = self.space.start(node);
        shared.slots.ensure(node).close();
        shared.index.set(start, node);
        Some((node, start))
    }

    #[inline]
    fn free(&mut self, shared: &Shared, node: u32) {
        shared.index.clear(self.space.start(node));
        self.space.release(node);
    }

    /// An error if such a piece can never be free again.
    fn possible(&self, shared: &Shared, granules: u32) -> Result<(), RingError> {
        let longest = self.space.attainable(shared.facts.reuse != Reuse::Immutable);
        if granules > longest {
            return Err(RingError::TooLong { asked: shared.bytes(granules), longest: shared.bytes(longest) });
        }
        Ok(())
    }

    /// Serves those who wait, in order, until one has to go on waiting.
    fn serve(&mut self, shared: &Shared) -> Wakers {
        let mut wakers = Wakers::new();
        while let Some(granules) = self.waiters.front() {
            let outcome = match self.take(shared, granules) {
                Some((node, _)) => Ok(node),
                None => match self.possible(shared, granules) {
                    Ok(()) => break,
                    Err(never) => Err(never),
                },
            };
            wakers.extend(self.waiters.serve(outcome));
        }
        wakers
    }
}
