//! Who waits for space, in order of arrival.

use std::{collections::BTreeMap, task::Waker};

use super::desk::Refused;

#[derive(Debug)]
struct Waiter {
    granules: u32,
    waker: Waker,
}

/// First come, first served: nobody is served before whoever waits longest, so a large reservation is never starved by
/// small ones that come later.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
    /// Served, but not yet looked at by their futures.
    served: BTreeMap<u64, Result<u32, Refused>>,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Joins the end of the queue.
    pub(super) fn join(&mut self, granules: u32, waker: Waker) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, Waiter { granules, waker });
        ticket
    }

    /// What whoever waits longest needs.
    pub(super) fn front(&self) -> Option<u32> {
        self.waiting.first_key_value().map(|(_, waiter)| waiter.granules)
    }

    /// Serves whoever waits longest; the waker is for after the lock.
    pub(super) fn serve(&mut self, outcome: Result<u32, Refused>) -> Option<Waker> {
        let (ticket, waiter) = self.waiting.pop_first()?;
        self.served.insert(ticket, outcome);
        Some(waiter.waker)
    }

    /// The outcome if there is one; else notes the new waker.
    pub(super) fn collect(&mut self, ticket: u64, waker: &Waker) -> Option<Result<u32, Refused>> {
        if let Some(outcome) = self.served.remove(&ticket) {
            return Some(outcome);
        }
        if let Some(waiter) = self.waiting.get_mut(&ticket) {
            waiter.waker.clone_from(waker);
        }
        None
    }

    /// Leaves the queue. The outcome, if there was one already, must be given back.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Result<u32, Refused>> {
        self.waiting.remove(&ticket);
        self.served.remove(&ticket)
    }
}
