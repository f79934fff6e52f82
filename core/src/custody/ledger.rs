//! The shared form of custody.

use std::{
    sync::PoisonError,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Custody, Released, Until, abandoned,
    sync::{
        AtomicBool, AtomicU64, Mutex, MutexGuard,
        Ordering::{Relaxed, Release, SeqCst},
    },
};
use crate::{ReleaseError, SinkStats, region};

/// Custody that a connection and its driver share, and the counters beside it.
///
/// Memory is dropped, and tasks are woken, only after the lock is released.
#[derive(Debug, Default)]
#[repr(C)] // What every send touches comes first.
pub struct Ledger {
    /// Bytes accepted so far. Written by the sender alone: sends take turns.
    accepted: AtomicU64,
    /// Bytes of these that are in the socket.
    flushed: AtomicU64,
    /// Bytes in custody, as the state under the lock has it, for whoever sends.
    pinned: AtomicU64,
    state: Mutex<State>,
    quarantined: AtomicBool,
    notified: AtomicU64,
    notified_copied: AtomicU64,
    looks: AtomicU64,
    looks_by_event: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    custody: Custody,
    waiter: Option<(u64, Waker)>,
    /// Bytes whose release was given up, and the offset of the first of them.
    abandoned: Option<(u64, u64)>,
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
    pub fn open(&self, until: Until, memory: impl IntoIterator<Item = Bytes>) -> PendingSend<'_> {
        let now = Instant::now();
        let start = self.accepted();
        let number = {
            let mut state = self.lock();
            let number = state.custody.open(until, start, memory, now);
            self.note_pinned(&state);
            number
        };
        PendingSend { ledger: self, number, settled: false }
    }

    /// `bytes` went into the socket and are in nobody's custody: they were copied, or their memory needs none.
    #[inline]
    pub fn passed(&self, bytes: usize) {
        self.accept(bytes as u64);
        self.flush_here(bytes as u64);
    }

    /// A plain load and store: there is one sender at a time.
    #[inline]
    fn accept(&self, bytes: u64) {
        self.accepted.store(self.accepted.load(Relaxed) + bytes, Release);
    }

    /// As [`flush`](Self::flush), by the sender. No fence: who closes the sink, and asks whether this was the last, comes after it.
    #[inline]
    fn flush_here(&self, bytes: u64) {
        self.flushed.store(self.flushed.load(Relaxed) + bytes, Release);
    }

    /// `bytes` more of what was accepted are in the socket.
    pub fn flush(&self, bytes: u64) {
        self.flushed.store(self.flushed.load(Relaxed) + bytes, SeqCst);
    }

    /// The kernel let go of the sends with the ids `first..=last`; `copied` if it copied them on delivery after all.
    pub fn notify(&self, first: u32, last: u32, copied: bool) -> Completion {
        let now = Instant::now();
        let completion = self.release(|custody, out| custody.notify(first, last, now, out));
        self.count_notified(completion.sends, copied);
        completion
    }

    /// The memory of the send `number` is released, says whoever made it; `copied` as in [`notify`](Self::notify).
    pub fn complete(&self, number: u64, copied: bool) -> Completion {
        let now = Instant::now();
        let completion = self.release(|custody, out| u32::from(custody.complete(number, now, out)));
        self.count_notified(completion.sends, copied);
        completion
    }

    /// As [`complete`](Self::complete), if nobody knows whether the kernel copied on delivery: the send does not count as
    /// notified. For sends that failed, were copied in the first place, or by a kernel that does not say.
    pub fn complete_unreported(&self, number: u64) -> Completion {
        let now = Instant::now();
        self.release(|custody, out| u32::from(custody.complete(number, now, out)))
    }

    /// The peer has everything below the stream offset `upto`. Returns how many bytes that released.
    pub fn reach(&self, upto: u64) -> u64 {
        let now = Instant::now();
        let mut bytes = 0;
        self.release(|custody, out| {
            bytes = custody.reach(upto, now, out);
            0
        });
        bytes
    }

    fn release(&self, change: impl FnOnce(&mut Custody, &mut Released) -> u32) -> Completion {
        let (sends, pinned, waiter) = {
            let mut released = Released::new();
            let mut state = self.lock();
            let sends = change(&mut state.custody, &mut released);
            self.note_pinned(&state);
            // What is released is dropped here, after the lock: locals end in reverse order.
            (sends, state.custody.pinned(), self.take_waiter(&mut state, false))
        };
        if pinned == 0 {
            self.quarantined.store(false, Relaxed);
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        Completion { sends, pinned }
    }

    fn take_waiter(&self, state: &mut State, force: bool) -> Option<Waker> {
        // Mostly nobody waits.
        state.waiter.as_ref()?;
        let released = self.released_in(state);
        state.waiter.take_if(|(upto, _)| force || *upto <= released).map(|(_, waker)| waker)
    }

    fn count_notified(&self, sends: u32, copied: bool) {
        // In this order, and read in the other: whoever looks in between must not take a copied one for one that is not.
        if copied {
            self.notified_copied.fetch_add(u64::from(sends), SeqCst);
        }
        self.notified.fetch_add(u64::from(sends), SeqCst);
    }

    /// The driver asked how far the peer is; because of an event, or else of its timer.
    pub fn count_look(&self, by_event: bool) {
        self.looks.fetch_add(1, Relaxed);
        self.looks_by_event.fetch_add(u64::from(by_event), Relaxed);
    }

    /// The deadline has passed without proof: what is in custody stays there until the kernel proves its release, and
    /// whoever waits for it is told. Returns how many bytes that is.
    pub fn quarantine(&self) -> u64 {
        self.quarantined.store(true, Relaxed);
        let mut state = self.lock();
        let pinned = state.custody.pinned();
        let waiter = self.take_waiter(&mut state, true);
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        pinned
    }

    /// The connection is gone, so the peer will never say that it has the rest, and nothing else proves that the kernel lets
    /// go: memory of a ring goes back to be replaced or quarantined, other memory is kept for ever. Never reused as it is.
    ///
    /// Returns how many bytes that is.
    pub fn abandon(&self) -> u64 {
        let mut memory = Released::new();
        let mut state = self.lock();
        let Some((bytes, first)) = state.custody.abandon(&mut memory) else { return 0 };
        self.note_pinned(&state);
        let (before, first) = state.abandoned.unwrap_or((0, first));
        state.abandoned = Some((before + bytes, first));
        let waiter = self.take_waiter(&mut state, true);
        drop(state);
        for piece in memory {
            if !region::distrust(&piece) {
                abandoned::keep(piece);
            }
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        bytes
    }

    /// Bytes accepted so far: the end of the stream.
    #[inline]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(SeqCst)
    }

    /// Bytes accepted that are in the socket.
    #[inline]
    pub fn flushed(&self) -> u64 {
        self.flushed.load(SeqCst)
    }

    /// Everything below this stream offset is released. It stays where the first abandoned byte is.
    pub fn released(&self) -> u64 {
        self.released_in(&self.lock())
    }

    fn released_in(&self, state: &State) -> u64 {
        let held = state.custody.released().unwrap_or_else(|| self.accepted());
        state.abandoned.map_or(held, |(_, first)| held.min(first))
    }

    /// When the oldest send in custody was made.
    pub fn oldest(&self) -> Option<Instant> {
        self.lock().custody.oldest()
    }

    /// Bytes in custody.
    #[inline]
    pub fn pinned(&self) -> u64 {
        self.pinned.load(Relaxed)
    }

    #[inline]
    fn note_pinned(&self, state: &State) {
        self.pinned.store(state.custody.pinned(), Relaxed);
    }

    /// Bytes in custody that wait for the peer to have them.
    pub fn reaching(&self) -> u64 {
        self.lock().custody.reaching()
    }

    /// True if nothing is in custody.
    pub fn is_empty(&self) -> bool {
        self.lock().custody.is_empty()
    }

    /// Ready when everything below `upto` is released. The last task to poll is woken.
    ///
    /// # Errors
    ///
    /// If the release of something can no longer be proven.
    pub fn poll_released(&self, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        let mut state = self.lock();
        if let Some((bytes, first)) = state.abandoned
            && first < upto
        {
            return Poll::Ready(Err(ReleaseError::new(bytes)));
        }
        if self.released_in(&state) >= upto {
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

    /// Notified sends so far, and how many of them were copied on delivery. While notifications come there may be more copied
    /// ones for a moment, which have not been counted as notified yet.
    pub fn notified(&self) -> (u64, u64) {
        let notified = self.notified.load(SeqCst);
        (notified, self.notified_copied.load(SeqCst))
    }

    /// Adds what custody knows to `stats`.
    pub fn describe(&self, stats: &mut SinkStats) {
        (stats.notified, stats.notified_copied) = self.notified();
        stats.looks = self.looks.load(Relaxed);
        stats.looks_by_event = self.looks_by_event.load(Relaxed);
        let state = self.lock();
        let custody = &state.custody;
        stats.strays = custody.strays();
        stats.pinned_bytes = custody.pinned();
        stats.pinned_high_water = custody.high_water();
        stats.oldest_pin = custody.oldest().map(|since| since.elapsed());
        stats.longest_pin = custody.longest().max(stats.oldest_pin.unwrap_or_default());
        stats.quarantined_bytes = if self.quarantined.load(Relaxed) { custody.pinned() } else { 0 };
        stats.abandoned_bytes = state.abandoned.map_or(0, |(bytes, _)| bytes);
    }
}

/// A send call that is under way: its memory is in custody.
#[must_use = "dropping it says that the call accepted nothing"]
#[derive(Debug)]
pub struct PendingSend<'a> {
    ledger: &'a Ledger,
    number: u64,
    settled: bool,
}

impl PendingSend<'_> {
    /// The number of the send, by which [`Ledger::complete`] knows it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The call put `bytes` bytes into the socket.
    pub fn accepted(mut self, bytes: usize) {
        self.ledger.flush_here(bytes as u64);
        self.settle(bytes);
    }

    /// The call took `bytes` bytes, and will put them into the socket: [`Ledger::flush`] says when.
    pub fn queued(mut self, bytes: usize) {
        self.settle(bytes);
    }

    /// As [`queued`](Self::queued), of a send that took all its memory and is released already; `copied` as in
    /// [`Ledger::complete`], `None` if nobody knows.
    pub fn released(mut self, bytes: usize, copied: Option<bool>) {
        let number = self.number;
        self.settle_by(bytes, |custody, out| custody.settle_released(number, out));
        if let Some(copied) = copied {
            self.ledger.count_notified(1, copied);
        }
    }

    fn settle(&mut self, bytes: usize) {
        let number = self.number;
        self.settle_by(bytes, |custody, out| custody.settle(number, bytes, out));
    }

    fn settle_by(&mut self, bytes: usize, change: impl FnOnce(&mut Custody, &mut Released)) {
        self.settled = true;
        let waiter = {
            let mut released = Released::new();
            let mut state = self.ledger.lock();
            // With the lock held, so that the watermark never falls behind what was accepted.
            self.ledger.accept(bytes as u64);
            change(&mut state.custody, &mut released);
            self.ledger.note_pinned(&state);
            // What is released is dropped here, after the lock: locals end in reverse order.
            self.ledger.take_waiter(&mut state, false)
        };
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
