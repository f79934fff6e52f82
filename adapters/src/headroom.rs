//! How many clients may stop reading before nothing of a ring is left.

/// The greatest number of clients for which a ring of `ring` bytes still serves the others, if each of them holds `budget` bytes
/// with the body that it is sent, and `cap` bytes of earlier ones in flight:
///
/// > `ring > stalled × (budget + cap)`
///
/// At most that many may stop reading. One more can have it all, and nobody's progress is guaranteed until they are cut off.
pub(crate) const fn stalled(ring: u64, budget: u64, cap: u64) -> u64 {
    let each = match budget.saturating_add(cap) {
        0 => 1,
        each => each,
    };
    ring.saturating_sub(1) / each
}

#[cfg(test)]
mod tests {
    use super::stalled;

    #[test]
    fn the_ring_must_be_larger_than_what_the_stalled_ones_hold() {
        for (ring, budget, cap, most) in [
            (1000, 100, 100, 4),
            (1001, 100, 100, 5),
            (200, 100, 100, 0),
            (201, 100, 100, 1),
            (0, 0, 0, 0),
            (8 << 20, 128 << 10, 16 << 20, 0),
            (u64::MAX, u64::MAX, u64::MAX, 0),
        ] {
            assert_eq!(stalled(ring, budget, cap), most, "{ring} {budget} {cap}");
        }
    }
}
