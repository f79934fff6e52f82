//! How a ring comes to be.

use super::{Ring, RingError, desk::Desk, shared::Shared};
use crate::memory::{HeapMemory, Memory, Reuse};

/// Builds a [`Ring`]: on heap, or on memory that another crate brings.
///
/// A crate that brings memory reads [`requested_capacity`](Self::requested_capacity) and
/// [`requested_reuse`](Self::requested_reuse), maps it, and calls [`build_on`](Self::build_on).
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until build is called"]
pub struct RingBuilder {
    capacity: Option<usize>,
    granule: Option<usize>,
    reuse: Option<Reuse>,
    scrub: bool,
    poison: Option<u8>,
    low_water: usize,
    memory: Option<Box<dyn Memory>>,
}

impl RingBuilder {
    /// Bytes of a granule unless [`granule`](Self::granule) says otherwise: a lease occupies a whole number of
    /// granules. In [`Reuse::FreshPages`] rings it is the memory's replacement unit instead.
    pub const GRANULE: usize = 256;

    /// Sets the size in bytes. It is rounded up to whole granules on heap. On memory that was given, the default is all
    /// of it.
    pub const fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Sets the bytes of a granule: a power of two, [`GRANULE`](Self::GRANULE) or more. A ring keeps eight bytes of
    /// index for each, which matters for few leases over huge memory. A granule as large as the ring makes a ring of a
    /// single lease, and the capacity is not rounded then. In [`Reuse::FreshPages`] rings a granule is never less than
    /// the memory's replacement unit.
    pub const fn granule(mut self, bytes: usize) -> Self {
        self.granule = Some(bytes);
        self
    }

    /// Sets what becomes of returned leases. The default is what the memory's facts say; heap is [`Reuse::InPlace`].
    pub const fn reuse(mut self, reuse: Reuse) -> Self {
        self.reuse = Some(reuse);
        self
    }

    /// Zeroes what comes back, so that secrets do not outlive their lease. A [`Reuse::FreshPages`] ring must not write the old
    /// pages: it replaces them, by pages of zeroes, at once instead of when they are needed, which costs more. Of an
    /// [`Reuse::Immutable`] ring only what was never committed is zeroed.
    pub const fn scrub(mut self, scrub: bool) -> Self {
        self.scrub = scrub;
        self
    }

    /// Writes `byte` over what comes back, for tests: whoever still reads a returned lease sees it. Pages of a
    /// [`Reuse::FreshPages`] ring are replaced at once then. Goes before [`scrub`](Self::scrub).
    pub const fn poison(mut self, byte: u8) -> Self {
        self.poison = Some(byte);
        self
    }

    /// While fewer than `bytes` are free, sends whose memory would wait for the kernel or the peer are copied instead, so that it
    /// comes back at once: those who read slowly hold no more of a ring that others need. 0, the default: never.
    ///
    /// That slows a ring's exhaustion down and does not prevent it: what is in custody already stays there, and leases
    /// wait for a full socket whoever copies them. Sinks ask before each send that could go without a copy, which takes the
    /// ring's lock. A mark of more than the capacity is the capacity.
    pub const fn low_water(mut self, bytes: usize) -> Self {
        self.low_water = bytes;
        self
    }

    /// Uses this memory instead of heap.
    pub fn memory(mut self, memory: impl Memory + 'static) -> Self {
        self.memory = Some(Box::new(memory));
        self
    }

    /// The capacity that was set, in bytes.
    #[must_use]
    pub const fn requested_capacity(&self) -> Option<usize> {
        self.capacity
    }

    /// The discipline of reuse that was set.
    #[must_use]
    pub const fn requested_reuse(&self) -> Option<Reuse> {
        self.reuse
    }

    /// Builds the ring on `memory`.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_on(self, memory: impl Memory + 'static) -> Result<Ring, RingError> {
        self.memory(memory).build()
    }

    /// Builds the ring.
    ///
    /// # Errors
    ///
    /// No capacity, more of it than there is memory, or memory that cannot keep the discipline of reuse: each error says
    /// what to do.
    pub fn build(self) -> Result<Ring, RingError> {
        if self.capacity == Some(0) {
            return Err(RingError::ZeroCapacity);
        }
        let granule = self.granule.unwrap_or(Self::GRANULE);
        if !granule.is_power_of_two() || granule < Self::GRANULE {
            return Err(RingError::BadGranule { granule });
        }
        let memory = match self.memory {
            Some(memory) => memory,
            None => Box::new(Self::heap(self.capacity, self.reuse, self.granule)?),
        };
        let facts = memory.facts();
        let reuse = self.reuse.unwrap_or(facts.reuse);
        if !facts.reuse.can_keep(reuse) {
            return Err(RingError::CannotKeep { asked: reuse, can: facts.reuse, backing: facts.backing });
        }
        let unit = facts.unit;
        let offset = memory.as_ptr().addr().get() % unit.max(1);
        let granule = match reuse {
            Reuse::FreshPages if !unit.is_power_of_two() || unit < Self::GRANULE => {
                return Err(RingError::BadUnit { unit, offset: 0 });
            }
            Reuse::FreshPages if offset != 0 => return Err(RingError::BadUnit { unit, offset }),
            Reuse::FreshPages => granule.max(unit),
            _ => granule,
        };
        let shift = granule.ilog2();
        let (capacity, len) = match (self.granule, self.capacity.unwrap_or(memory.len())) {
            (Some(asked), whole) if asked >= whole && reuse != Reuse::FreshPages => (whole, memory.len()),
            _ => {
                let len = memory.len() >> shift << shift;
                (Self::round_up(self.capacity.unwrap_or(len), granule)?, len)
            }
        };
        if capacity == 0 {
            return Err(RingError::ZeroCapacity);
        }
        if capacity > len {
            return Err(RingError::MemoryTooSmall { capacity: self.capacity.unwrap_or(capacity), len });
        }
        let max = (u32::MAX as usize - 1).saturating_mul(granule);
        let too_large = RingError::TooLarge { capacity, max };
        let granules = u32::try_from(capacity.div_ceil(granule)).ok().filter(|n| *n < u32::MAX).ok_or(too_large)?;
        let desk = Desk::new(granules, reuse == Reuse::Immutable).ok_or(too_large)?;
        let facts = facts.with_reuse(reuse);
        let wipe = (self.scrub, self.poison);
        let low_water = self.low_water.div_ceil(granule).min(granules as usize) as u32;
        Ok(Ring::from_shared(Shared::new(memory, (capacity, shift), facts, wipe, low_water, desk)))
    }

    fn heap(capacity: Option<usize>, reuse: Option<Reuse>, granule: Option<usize>) -> Result<HeapMemory, RingError> {
        use crate::memory::Backing;

        let capacity = capacity.ok_or(RingError::ZeroCapacity)?;
        match reuse {
            None | Some(Reuse::InPlace) => {}
            Some(asked) => return Err(RingError::CannotKeep { asked, can: Reuse::InPlace, backing: Backing::Heap }),
        }
        let bytes = match granule {
            Some(granule) if granule >= capacity => capacity,
            _ => Self::round_up(capacity, granule.unwrap_or(Self::GRANULE))?,
        };
        HeapMemory::new(bytes).map_err(RingError::Memory)
    }

    fn round_up(capacity: usize, unit: usize) -> Result<usize, RingError> {
        let max = isize::MAX as usize / unit * unit;
        capacity.checked_next_multiple_of(unit).filter(|n| *n <= max).ok_or(RingError::TooLarge { capacity, max })
    }
}
