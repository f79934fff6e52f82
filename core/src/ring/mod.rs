//! A ring of memory that is written in place and sent without a copy.
//!
//! [`Ring::reserve`] grants a contiguous piece, the [`Grant`] is filled, [`Grant::commit`] makes it a lease: a
//! [`bytes::Bytes`] whose last clone's drop gives the space back. Leases come back in any order; one that is held blocks only
//! its own bytes, for the ring skips over it. Those who wait for space are served in order of arrival.
//!
//! What "gives the space back" means is the ring's [`Reuse`]:
//!
//! | reuse | when the last clone is dropped |
//! |---|---|
//! | `InPlace` | the same bytes can be granted again: keep a clone until release is proven |
//! | `FreshPages` | the pages are replaced first, in whole units; if that fails the range is quarantined |
//! | `Immutable` | nothing: committed bytes stay as they are until the ring is gone, and the space is spent |
//!
//! The memory lives until the ring's last handle, grant and lease are gone.

mod builder;
mod cell;
mod error;
mod grant;
mod index;
mod reserve;
mod reuse;
mod shared;
mod space;
mod stats;
mod sync;
mod waiters;

use std::{fmt, sync::Arc};

pub(crate) use shared::Shared;

pub use builder::RingBuilder;
pub use error::RingError;
pub use grant::Grant;
pub use reserve::Reserve;
pub use stats::RingStats;

use crate::memory::{MemoryFacts, Reuse};

/// A handle to a ring. Clones are handles to the same one.
#[derive(Clone)]
pub struct Ring {
    shared: Arc<Shared>,
}

impl Ring {
    /// Starts building a ring.
    pub fn builder() -> RingBuilder {
        RingBuilder::default()
    }

    const fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits for a contiguous piece of `bytes` bytes.
    ///
    /// First come, first served: a large reservation that waits is not overtaken by small ones, so it gets its piece when
    /// what blocks it comes back. Cancel-safe: dropping the future loses neither space nor anybody's place in the queue.
    ///
    /// # Errors
    ///
    /// [`RingError::ZeroReserve`], or [`RingError::TooLong`] if there can never be such a piece.
    pub fn reserve(&self, bytes: usize) -> Reserve {
        Reserve::new(self.shared.clone(), bytes)
    }

    /// A contiguous piece of `bytes` bytes, now or not at all.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), and [`RingError::Full`] if there is no such piece now or others wait already.
    pub fn try_reserve(&self, bytes: usize) -> Result<Grant, RingError> {
        let taken = self.shared.try_take(bytes)?;
        Ok(Grant::new(self.shared.clone(), taken, bytes))
    }

    /// All bytes of the ring.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    /// What becomes of returned leases.
    #[must_use]
    pub fn reuse(&self) -> Reuse {
        self.shared.facts().reuse
    }

    /// What the memory is.
    #[must_use]
    pub fn facts(&self) -> MemoryFacts {
        self.shared.facts()
    }

    /// True if bytes that come back are zeroed.
    #[must_use]
    pub fn scrubs(&self) -> bool {
        self.shared.scrubs()
    }

    /// How full it is. Takes the ring's lock and walks its segments: for dashboards, not for each send.
    #[must_use]
    pub fn stats(&self) -> RingStats {
        self.shared.stats()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("facts", &self.facts()).field("stats", &self.stats()).finish()
    }
}
