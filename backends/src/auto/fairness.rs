//! A peer that always has room must not keep a thread from its other tasks.

use std::task::{Context, Poll, ready};

use tokio::task::coop;

/// So many small sends cost the task one unit of the budget that tokio gives it per turn (128 units).
const SENDS: usize = 4;
/// A send of so many bytes costs one unit.
const BYTES: usize = 64 << 10;

/// What a sink has sent and its task has not paid for.
#[derive(Debug, Default)]
pub(super) struct Fairness {
    /// In bytes; a send counts as the part of `BYTES` that it may at least cost.
    unpaid: usize,
}

impl Fairness {
    /// Pending, and the task is woken, if it has had its turn.
    #[inline]
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unpaid >= BYTES {
            ready!(coop::poll_proceed(cx)).made_progress();
            self.unpaid = 0;
        }
        Poll::Ready(())
    }

    #[inline]
    pub(super) const fn count(&mut self, bytes: usize) {
        let least = BYTES / SENDS;
        self.unpaid = self.unpaid.saturating_add(if bytes > least { bytes } else { least });
    }
}
