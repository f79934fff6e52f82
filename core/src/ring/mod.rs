//! A ring of memory that is written in place and sent without a copy.
//!
//! [`Ring::reserve`] grants a contiguous piece, the [`Grant`] is filled, [`Grant::commit`] makes it a lease: a
//! [`bytes::Bytes`] whose last clone's drop gives the space back. Leases come back in any order; one that is held
//! blocks only its own bytes, for the ring skips over it. Those who wait for space are served in order of arrival.
//!
//! What "gives the space back" means is the ring's [`Reuse`]:
//!
//! | reuse | when the last clone is dropped |
//! |---|---|
//! | `InPlace` | the same bytes can be granted again: keep a clone until release is proven |
//! | `FreshPages` | the pages are replaced before they are granted again, in whole units, many at once; those for which that fails are quarantined |
//! | `Immutable` | nothing: committed bytes stay as they are until the ring is gone, and the space is spent |
//!
//! Reserving takes the ring's lock for a moment. Committing and returning take none while nobody waits for space: they
//! leave a note, which the next one to reserve carries out before anything else.
//!
//! The memory lives until the ring's last handle, grant and lease are gone.

mod builder;
mod desk;
mod error;
mod grant;
mod index;
mod limit;
mod lookup;
mod piece;
mod reserve;
mod returns;
mod reuse;
mod segment;
mod shared;
mod slots;
mod space;
mod stats;
mod sync;
mod waiters;

use std::{fmt, sync::Arc};

pub(crate) use shared::Shared;
pub(crate) use sync::UnsafeCell;

pub use builder::RingBuilder;
pub use error::RingError;
pub use grant::Grant;
pub use reserve::Reserve;
pub use stats::RingStats;

use crate::memory::{MemoryFacts, Reuse};
use limit::Limit;

/// A handle to a ring. Clones are handles to the same one.
#[derive(Clone)]
pub struct Ring {
    handle: Arc<Handle>,
    limit: Option<Arc<Limit>>,
}

/// What all handles of a ring have in common. When the last one goes, the ring lives on for its segments alone.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.0.desk().close());
    }
}

impl Ring {
    /// Starts building a ring.
    pub fn builder() -> RingBuilder {
        RingBuilder::default()
    }

    fn from_shared(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle(shared)), limit: None }
    }

    /// A handle to the same ring that has at most `leases` grants and leases out at once, at least 1. Its clones share
    /// that.
    ///
    /// A grant counts from its reservation, and a lease until it *returns to the ring*: until the last clone is gone,
    /// those that connections have in custody among them. So it bounds how much of the ring one client can hold,
    /// however it stalls. Through such a handle [`reserve`](Self::reserve) first waits for those who asked this handle
    /// before it, and then for space, in the ring's order. Whoever holds all `leases` and waits for one more waits for
    /// himself.
    ///
    /// Of a limited handle this makes another one with a limit of its own.
    #[must_use]
    pub fn limited(&self, leases: usize) -> Self {
        Self { limit: Some(Limit::new(leases)), ..self.clone() }
    }

    /// How many grants and leases this handle may have out at once; `None` if that is not limited.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        self.limit.as_ref().map(|limit| limit.leases())
    }

    #[inline]
    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
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
        Reserve::new(self.clone(), bytes)
    }

    /// A contiguous piece of `bytes` bytes, now or not at all.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), and [`RingError::Full`] if there is no such piece now or others wait already, or
    /// [`RingError::Limited`] if this handle has all out that it [may](Self::limited).
    #[inline]
    pub fn try_reserve(&self, bytes: usize) -> Result<Grant, RingError> {
        if let Some(limit) = &self.limit {
            return self.try_reserve_limited(limit, bytes);
        }
        let taken = self.shared().try_take(bytes)?;
        Ok(Grant::new(taken, None))
    }

    /// Apart, so that what has no limit stays small enough to be a part of its callers.
    #[inline(never)]
    fn try_reserve_limited(&self, limit: &Arc<Limit>, bytes: usize) -> Result<Grant, RingError> {
        let permit = limit.permit().ok_or_else(|| RingError::Limited { leases: limit.leases() })?;
        let taken = self.shared().try_take(bytes)?;
        Ok(Grant::new(taken, Some(permit)))
    }

    /// All bytes of the ring.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared().capacity()
    }

    /// While fewer bytes are free, nobody holds more by sending; see [`RingBuilder::low_water`]. 0 if there is no such mark.
    #[must_use]
    pub fn low_water(&self) -> usize {
        self.shared().low_water()
    }

    /// What becomes of returned leases.
    #[must_use]
    pub fn reuse(&self) -> Reuse {
        self.shared().facts().reuse
    }

    /// What the memory is.
    #[must_use]
    pub fn facts(&self) -> MemoryFacts {
        self.shared().facts()
    }

    /// True if bytes that come back are zeroed.
    #[must_use]
    pub fn scrubs(&self) -> bool {
        self.shared().scrubs()
    }

    /// How full it is. Takes the ring's lock and walks its segments: for dashboards, not for each send.
    #[must_use]
    pub fn stats(&self) -> RingStats {
        self.shared().stats()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("facts", &self.facts()).field("stats", &self.stats()).finish()
    }
}
