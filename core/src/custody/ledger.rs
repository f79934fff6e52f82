//! The shared form of custody.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;

use super::{Custody, Released};
use crate::{ReleaseError, SinkStats};

/// Custody that a connection and its driver share, and the counters beside it.
///
/// Memory is dropped, and tasks are woken, only after the lock is released.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    quarantined: AtomicBool,
    notified: AtomicU64,
    notified_copied: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    custody: Custody,
    waiter: Option<(u64, Waker)>,
}

impl State {
    fn take_waiter(&mut self, force: bool) -> Option<Waker> {
        let released = self.custody.released();
        self.waiter.take_if(|(upto, _)| force || *upto <= released).map(|(_, waker)| waker)
    }
}

/// What a notification did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Sends that left custody.
    pub sends: u32,
    /// Bytes that are still in custody.
    pub pinned: u64,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock can only be a failed allocation; the state is consistent at every such point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes memory into custody before a send call is made. The guard settles it when the call has returned; dropping
    /// the guard says that the call accepted nothing.
    ///
    /// One send call per connection may be under way at a time.
    pub fn open(&self, memory: impl IntoIterator<Item = Bytes>) -> PendingSend<'_> {
        let now = Instant::now();
        let id = self.lock().custody.open(memory, now);
        PendingSend { ledger: self, id, settled: false }
    }

    /// `bytes` were copied: they move the stream on and are released already.
    pub fn copied(&self, bytes: usize) {
        self.lock().custody.copied(bytes);
    }

    /// The kernel let go of the sends `first..=last`; `copied` if it copied them on delivery after all.
    pub fn complete(&self, first: u32, last: u32, copied: bool) -> Completion {
        let now = Instant::now();
        let mut released = Released::new();
        let mut state = self.lock();
        let sends = state.custody.complete(first, last, now, &mut released);
        let pinned = state.custody.pinned();
        let waiter = state.take_waiter(false);
        drop(state);
        self.notified.fetch_add(u64::from(sends), Relaxed);
        if copied {
            self.notified_copied.fetch_add(u64::from(sends), Relaxed);
        }
        if pinned == 0 {
            self.quarantined.store(false, Relaxed);
        }
        drop(released);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        Completion { sends, pinned }
    }

    /// The deadline has passed without proof: what is in custody stays there until the kernel proves its release, and
    /// whoever waits for it is told. Returns how many bytes that is.
    pub fn quarantine(&self) -> u64 {
        self.quarantined.store(true, Relaxed);
        let mut state = self.lock();
        let pinned = state.custody.pinned();
        let waiter = state.take_waiter(true);
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        pinned
    }

    /// Bytes accepted so far.
    pub fn accepted(&self) -> u64 {
        self.lock().custody.accepted()
    }

    /// Everything below this stream offset is released.
    pub fn released(&self) -> u64 {
        self.lock().custody.released()
    }

    /// When the oldest send in custody was made.
    pub fn oldest(&self) -> Option<Instant> {
        self.lock().custody.oldest()
    }

    /// Bytes in custody.
    pub fn pinned(&self) -> u64 {
        self.lock().custody.pinned()
    }

    /// True if nothing is in custody.
    pub fn is_empty(&self) -> bool {
        self.lock().custody.is_empty()
    }

    /// Ready when everything below `upto` is released. The last task to poll is woken.
    ///
    /// # Errors
    ///
    /// If what is waited for is in quarantine.
    pub fn poll_released(&self, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        let mut state = self.lock();
        if state.custody.released() >= upto {
            return Poll::Ready(Ok(()));
        }
        if self.quarantined.load(Relaxed) {
            return Poll::Ready(Err(ReleaseError::new(state.custody.pinned())));
        }
        match &mut state.waiter {
            Some((offset, waker)) if waker.will_wake(cx.waker()) => *offset = upto,
            waiter => *waiter = Some((upto, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Notified sends so far, and how many of them were copied on delivery.
    pub fn notified(&self) -> (u64, u64) {
        (self.notified.load(Relaxed), self.notified_copied.load(Relaxed))
    }

    /// Adds what custody knows to `stats`.
    pub fn describe(&self, stats: &mut SinkStats) {
        (stats.notified, stats.notified_copied) = self.notified();
        let state = self.lock();
        let custody = &state.custody;
        stats.strays = custody.strays();
        stats.pinned_bytes = custody.pinned();
        stats.pinned_high_water = custody.high_water();
        stats.oldest_pin = custody.oldest().map(|since| since.elapsed());
        stats.longest_pin = custody.longest().max(stats.oldest_pin.unwrap_or_default());
        stats.quarantined_bytes = if self.quarantined.load(Relaxed) { custody.pinned() } else { 0 };
    }
}

/// A send call that is under way: its memory is in custody.
#[must_use = "dropping it says that the call accepted nothing"]
#[derive(Debug)]
pub struct PendingSend<'a> {
    ledger: &'a Ledger,
    id: u32,
    settled: bool,
}

impl PendingSend<'_> {
    /// The call accepted `bytes` bytes.
    pub fn accepted(mut self, bytes: usize) {
        self.settle(bytes);
    }

    fn settle(&mut self, bytes: usize) {
        self.settled = true;
        let mut released = Released::new();
        let mut state = self.ledger.lock();
        state.custody.settle(self.id, bytes, &mut released);
        let waiter = state.take_waiter(false);
        drop(state);
        drop(released);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl Drop for PendingSend<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(0);
        }
    }
}
