//! What a ring holds, in numbers.

use std::time::Duration;

/// A look at a ring. Sizes are bytes of whole segments, so a lease of one byte counts as its granule.
///
/// `free + granted + leased + quarantined + retired == capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RingStats {
    /// All there is.
    pub capacity: usize,
    /// Can be reserved, though perhaps not in one piece; some of it may get fresh pages first.
    pub free: usize,
    /// Reserved, not committed.
    pub granted: usize,
    /// Committed, and not yet back.
    pub leased: usize,
    /// The part of `leased` that somebody may still read when it is back, see [`distrust`](crate::region::distrust).
    pub distrusted: usize,
    /// The most that was ever granted and leased at once.
    pub high_water: usize,
    /// How long the oldest lease has been out, `None` without leases. Never overstated; understated by no more than the
    /// time that 32 reservations took (or as many as there are grants, if those are more), or the time until somebody
    /// first waited or asked for statistics.
    pub oldest_lease_age: Option<Duration>,
    /// Returned, but the pages had to be replaced and could not be, which shows when they are needed: never reused.
    pub quarantined: usize,
    /// Committed once in an immutable ring: never reused.
    pub retired: usize,
    /// Reservations that wait.
    pub waiters: usize,
}
