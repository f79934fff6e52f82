//! Whether a ring is large enough for clients that stop reading.

use zerosink_core::Ring;

use crate::headroom;

/// What the operator wants to withstand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Headroom {
    clients: usize,
    ring_bytes: usize,
    body_bytes: usize,
}

impl Headroom {
    pub(super) fn new(clients: usize, ring: &Ring, body_bytes: usize) -> Self {
        Self { clients, ring_bytes: ring.capacity(), body_bytes }
    }

    /// Says so if a ring is too small.
    pub(super) fn check(&self, cap: u64) {
        let withstood = headroom::stalled(self.ring_bytes as u64, self.body_bytes as u64, cap);
        if withstood < self.clients as u64 {
            tracing::warn!(
                ring_bytes = self.ring_bytes,
                body_bytes = self.body_bytes,
                max_pinned_bytes = cap,
                clients = self.clients,
                withstood,
                "clients that stop reading can take the whole ring: enlarge it, or lower max_pinned_bytes or the body budget"
            );
        }
    }
}
