//! How much of a ring one body may hold.

use zerosink_core::Ring;

use crate::headroom;

/// How much of a ring one body may hold: so many leases, each of at most so many bytes.
///
/// A client that stops reading holds this, and what its connection has in flight, until the connection is revoked. The ring serves the
/// other clients for as long as `ring > stalled × (budget + cap)`, all in bytes; [`stalled`](Self::stalled) solves that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    leases: usize,
    chunk: usize,
}

impl Budget {
    /// 2 leases of 64 KiB: one is sent while the next is filled.
    #[must_use]
    pub const fn new() -> Self {
        Self { leases: 2, chunk: 64 << 10 }
    }

    /// At most so many leases and grants at once, at least 1.
    #[must_use]
    pub const fn leases(mut self, leases: usize) -> Self {
        self.leases = if leases == 0 { 1 } else { leases };
        self
    }

    /// Readers fill pieces of at most so many bytes, at least 1. Producers choose the sizes of their pieces themselves.
    #[must_use]
    pub const fn chunk(mut self, bytes: usize) -> Self {
        self.chunk = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// What a body that is read holds at most, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.leases.saturating_mul(self.chunk)
    }

    /// How many clients may stop reading while a ring of `ring` bytes still serves the others, if each connection has at most `cap`
    /// bytes of earlier bodies in flight: the largest `stalled` with `ring > stalled × (budget + cap)`.
    #[must_use]
    pub const fn stalled(&self, ring: usize, cap: usize) -> usize {
        headroom::stalled(ring as u64, self.bytes() as u64, cap as u64) as usize
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

/// A ring for bodies, and the budget of each.
///
/// Handlers get it from the layer: as a request extension, and in axum as an extractor.
#[derive(Debug, Clone)]
pub struct BodyRing {
    ring: Ring,
    budget: Budget,
}

impl BodyRing {
    /// Bodies out of `ring`, with the default [`Budget`].
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        Self { ring, budget: Budget::new() }.checked()
    }

    /// Bodies with another budget.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self.checked()
    }

    /// The ring. What is reserved through it is in nobody's budget.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// How much of it one body may hold.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    fn checked(self) -> Self {
        let (ring, budget) = (self.ring.capacity(), self.budget.bytes());
        if self.budget.stalled(ring, 0) == 0 {
            tracing::warn!(ring, budget, "one stalled client can hold the whole ring; enlarge it or lower the budget");
        }
        self
    }

    /// A handle for one body.
    pub(super) fn lend(&self) -> Ring {
        self.ring.limited(self.budget.leases)
    }

    /// The size of the next piece if `left` bytes are to come.
    pub(super) fn piece(&self, left: Option<u64>) -> usize {
        let most = self.budget.chunk.min(self.ring.capacity());
        left.and_then(|left| usize::try_from(left).ok()).map_or(most, |left| left.min(most))
    }
}

impl From<Ring> for BodyRing {
    fn from(ring: Ring) -> Self {
        Self { ring, budget: Budget::new() }
    }
}

impl From<&Ring> for BodyRing {
    fn from(ring: &Ring) -> Self {
        ring.clone().into()
    }
}

impl From<&Self> for BodyRing {
    fn from(ring: &Self) -> Self {
        ring.clone()
    }
}
