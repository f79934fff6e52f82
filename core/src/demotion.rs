//! Turning a mechanism off for a while, not for ever.

use std::time::{Duration, Instant};

use crate::Refusal;

/// Whether one mechanism is off on one connection, why, and until when. Each demotion in a row lasts twice as long.
#[derive(Debug, Clone)]
pub struct Demotion {
    // In milliseconds: every connection has one for each mechanism, and most never need them.
    first: u32,
    longest: u32,
    next: u32,
    current: Option<(Instant, Refusal)>,
}

const fn milliseconds(duration: Duration) -> u32 {
    let whole = duration.as_millis();
    if whole < u32::MAX as u128 { whole as u32 } else { u32::MAX }
}

impl Demotion {
    /// Demotions that last `first`, then twice that, up to `longest`; to the millisecond.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        let (first, longest) = (milliseconds(first), milliseconds(longest));
        Self { first, longest, next: first, current: None }
    }

    /// Turns the mechanism off. Returns for how long.
    pub fn demote(&mut self, now: Instant, reason: Refusal) -> Duration {
        let lasts = Duration::from_millis(self.next.into());
        self.current = Some((now + lasts, reason));
        self.next = self.next.saturating_mul(2).min(self.longest);
        lasts
    }

    /// Why the mechanism is off at `now`; `None` if it may be tried. The clock is read only while it is off.
    pub fn reason(&mut self, now: impl FnOnce() -> Instant) -> Option<Refusal> {
        let (until, reason) = self.current?;
        if now() >= until {
            self.current = None;
            return None;
        }
        Some(reason)
    }

    /// The mechanism has proven itself: the next demotion is a short one again.
    pub const fn reset(&mut self) {
        self.next = self.first;
        self.current = None;
    }
}

/// What `MSG_ZEROCOPY` completions tell about a connection: a window of them is judged by ratio, with hysteresis.
///
/// After loss one in a hundred may be `COPIED` on a path that does not copy, so a single one says nothing.
#[derive(Debug, Clone, Default)]
pub struct CopiedWindow {
    came: u32,
    copied: u32,
}

/// What a full window says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel copies on delivery: zero-copy costs and gains nothing here.
    Copies,
    /// The kernel reads the pages in place.
    ReadsInPlace,
}

impl CopiedWindow {
    /// Completions in a window.
    pub const LENGTH: u32 = 16;

    /// True if the next completion begins a window.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.came == 0
    }

    /// Takes in `count` completions, as [`take`](Self::take).
    pub const fn record(&mut self, count: u32, copied: bool) -> Option<Verdict> {
        self.take(count, if copied { count } else { 0 })
    }

    /// Takes in `came` completions, of which `copied` are copied ones. A full window gives a verdict, or none when it is mixed,
    /// and starts anew.
    pub const fn take(&mut self, came: u32, copied: u32) -> Option<Verdict> {
        self.came = self.came.saturating_add(came);
        self.copied = self.copied.saturating_add(copied);
        if self.came < Self::LENGTH {
            return None;
        }
        let verdict = if self.copied.saturating_mul(2) >= self.came {
            Some(Verdict::Copies)
        } else if self.copied.saturating_mul(8) < self.came {
            Some(Verdict::ReadsInPlace)
        } else {
            None
        };
        self.came = 0;
        self.copied = 0;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_demotion_in_a_row_lasts_longer_and_ends() {
        let start = Instant::now();
        let mut demotion = Demotion::new(Duration::from_secs(1), Duration::from_secs(3));
        let mut now = start;
        for seconds in [1, 2, 3, 3] {
            assert_eq!(demotion.demote(now, Refusal::NoBuffers), Duration::from_secs(seconds));
            now += Duration::from_secs(seconds);
            assert_eq!(demotion.reason(|| now - Duration::from_millis(1)), Some(Refusal::NoBuffers));
            assert_eq!(demotion.reason(|| now), None);
        }
        demotion.reset();
        assert_eq!(demotion.demote(now, Refusal::NoBuffers), Duration::from_secs(1));
    }

    #[test]
    fn one_copied_completion_in_a_window_is_no_verdict_of_copying() {
        let mut window = CopiedWindow::default();
        assert_eq!(window.record(1, true), None);
        assert_eq!(window.record(CopiedWindow::LENGTH - 1, false), Some(Verdict::ReadsInPlace));
        assert_eq!(window.record(CopiedWindow::LENGTH, true), Some(Verdict::Copies));
        assert_eq!(window.record(4, true), None);
        assert_eq!(window.record(12, false), None, "a mixed window changes nothing");
    }
}
