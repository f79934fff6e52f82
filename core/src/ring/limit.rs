//! How many grants and leases may be out through a handle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// So many permits, given in order of arrival.
#[derive(Debug)]
pub(super) struct Limit {
    leases: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Permits that nobody has. None while somebody waits.
    free: usize,
    next: u64,
    waiting: BTreeMap<u64, Waker>,
    /// Have a permit, but have not looked yet.
    served: BTreeSet<u64>,
}

/// The right to one segment. It lives as long as the segment is out, and is dropped after it is back, so that whoever waits for
/// the permit finds the space as well.
#[derive(Debug)]
pub(super) struct Permit(Arc<Limit>);

/// A place in the queue for a permit. Dropping it leaves the queue; a permit that it was given but has not taken goes to
/// whoever waits next.
#[derive(Debug)]
pub(super) struct Turn {
    limit: Arc<Limit>,
    ticket: Option<u64>,
}

impl Limit {
    pub(super) fn new(leases: usize) -> Arc<Self> {
        let leases = leases.max(1);
        let state = State { free: leases, next: 0, waiting: BTreeMap::new(), served: BTreeSet::new() };
        Arc::new(Self { leases, state: Mutex::new(state) })
    }

    pub(super) fn leases(&self) -> usize {
        self.leases
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, if one is free.
    pub(super) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Permit(self.clone()))
    }

    /// A permit comes back.
    fn give_back(&self) {
        let mut state = self.lock();
        let Some((ticket, waker)) = state.waiting.pop_first() else {
            state.free += 1;
            return;
        };
        state.served.insert(ticket);
        drop(state);
        // After the lock, because a waker may run anything.
        waker.wake();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Turn {
    pub(super) const fn new(limit: Arc<Limit>) -> Self {
        Self { limit, ticket: None }
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Permit> {
        let mut state = self.limit.lock();
        match self.ticket {
            None => {
                if let Some(free) = state.free.checked_sub(1) {
                    state.free = free;
                    return Poll::Ready(Permit(self.limit.clone()));
                }
                let ticket = state.next;
                state.next += 1;
                state.waiting.insert(ticket, cx.waker().clone());
                self.ticket = Some(ticket);
                Poll::Pending
            }
            Some(ticket) if state.served.remove(&ticket) => {
                self.ticket = None;
                Poll::Ready(Permit(self.limit.clone()))
            }
            Some(ticket) => {
                if let Some(waker) = state.waiting.get_mut(&ticket) {
                    waker.clone_from(cx.waker());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.limit.lock();
        state.waiting.remove(&ticket);
        if state.served.remove(&ticket) {
            drop(state);
            self.limit.give_back();
        }
    }
}
