//! Whether a ring is large enough for clients that stop reading.

use zerosink_core::Ring;

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

    /// The most clients that may stop reading while the ring still serves others: the greatest `n` with
    /// `ring > n × (body + cap)`.
    fn withstood(&self, cap: u64) -> u64 {
        let each = (self.body_bytes as u64).saturating_add(cap).max(1);
        (self.ring_bytes as u64).saturating_sub(1) / each
    }

    /// Says so if a ring is too small.
    pub(super) fn check(&self, cap: u64) {
        let withstood = self.withstood(cap);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_must_be_larger_than_what_the_stalled_ones_hold() {
        let headroom = |ring_bytes, body_bytes| Headroom { clients: 0, ring_bytes, body_bytes };
        for (ring, body, cap, withstood) in [
            (1000, 100, 100, 4),
            (1001, 100, 100, 5),
            (200, 100, 100, 0),
            (201, 100, 100, 1),
            (0, 0, 0, 0),
            (8 << 20, 128 << 10, 16 << 20, 0),
            (usize::MAX, usize::MAX, u64::MAX, 0),
        ] {
            assert_eq!(headroom(ring, body).withstood(cap), withstood, "{ring} {body} {cap}");
        }
    }
}
