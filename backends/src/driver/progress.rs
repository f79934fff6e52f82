//! When a peer counts as gone: nothing moves for the whole time-out although something waits for it.

use std::time::{Duration, Instant};

/// When the peer, or the kernel, last moved.
#[derive(Debug)]
pub(super) struct Progress {
    released: u64,
    /// How far the peer is: a number that grows with what it has.
    reached: u64,
    since: Instant,
    /// When a writer was first seen to wait for room, if he has waited each time since then.
    waiting: Option<Instant>,
}

/// How far things are, and what waits for them to go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) released: u64,
    pub(super) reached: u64,
    /// Since when the oldest memory is in custody.
    pub(super) oldest: Option<Instant>,
    /// A writer waits for room.
    pub(super) waits: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { released: 0, reached: 0, since: Instant::now(), waiting: None }
    }

    /// The last move.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// The connection was revoked, which counts as a move: the kernel has to let go now.
    pub(super) fn revoked(&mut self) {
        self.since = Instant::now();
    }

    /// Takes in what is seen now. True if for `timeout` nothing has moved that something has waited for.
    pub(super) fn has_ended(&mut self, seen: Seen, now: Instant, timeout: Duration) -> bool {
        let Seen { released, reached, oldest, waits } = seen;
        if (self.released, self.reached) != (released, reached) {
            *self = Self { released, reached, since: now, waiting: waits.then_some(now) };
            return false;
        }
        // He may have been told to try again although nothing happened, and wait again.
        self.waiting = waits.then(|| self.waiting.unwrap_or(now));
        let Some(oldest) = [oldest, self.waiting].into_iter().flatten().min() else { return false };
        // An idle connection makes no progress either: time counts from when the waiting began.
        now.saturating_duration_since(self.since.max(oldest)) >= timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// What is seen at which second, and whether that is the end.
    fn table(rows: &[(u64, u64, Option<u64>, bool, bool)]) {
        let mut progress = Progress::new();
        let start = progress.since();
        let at = |seconds| start + Duration::from_secs(seconds);
        for &(second, reached, oldest, waits, end) in rows {
            let seen = Seen { released: reached, reached, oldest: oldest.map(at), waits };
            assert_eq!(progress.has_ended(seen, at(second), TIMEOUT), end, "second {second}");
        }
    }

    #[test]
    fn memory_counts_from_when_it_went_into_custody_and_a_writer_from_when_he_was_seen_to_wait() {
        table(&[(100, 0, Some(90), false, false), (119, 0, Some(90), false, false), (120, 0, Some(90), false, true)]);
        table(&[(100, 0, None, true, false), (129, 0, None, true, false), (130, 0, None, true, true)]);
    }

    #[test]
    fn a_move_and_a_time_without_waiting_begin_it_anew() {
        table(&[(100, 1, Some(90), true, false), (129, 1, Some(90), true, false), (130, 1, Some(90), true, true)]);
        table(&[(100, 0, None, true, false), (120, 0, None, false, false), (140, 0, None, true, false)]);
        table(&[
            (100, 0, None, true, false),
            (129, 5, None, true, false),
            (158, 5, None, true, false),
            (159, 5, None, true, true),
        ]);
    }

    #[test]
    fn nothing_ends_while_nothing_waits() {
        table(&[(100, 0, None, false, false), (100_000, 0, None, false, false)]);
    }
}
