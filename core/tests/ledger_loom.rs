//! Shared custody under loom: `RUSTFLAGS="--cfg loom" cargo test --release -p zerosink-core --test ledger_loom`.
//!
//! `ledger.rs` is included with loom's primitives in place of the standard library's. Up to three threads at a time: the sender, the
//! kernel (that is, the driver that hears of it), and whoever waits for release or looks at the counters. Memory is a cell: the
//! kernel reads it until it lets go, and when it leaves custody it is written, so that loom sees an early release as a race.
#![cfg(loom)]
#![expect(unsafe_code, reason = "memory that loom watches")]

mod sync {
    pub(super) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };
}

/// What `ledger.rs` takes from its crate.
mod region {
    use std::cell::Cell;

    thread_local! {
        /// Loom runs the threads of a model on one.
        pub(crate) static DISTRUSTED: Cell<u64> = const { Cell::new(0) };
    }

    /// As if every piece were a ring's, which replaces it.
    pub(crate) fn distrust(piece: &[u8]) -> bool {
        DISTRUSTED.set(DISTRUSTED.get() + piece.len() as u64);
        true
    }
}

#[path = "../src/custody/abandoned.rs"]
mod abandoned;
#[path = "../src/custody/ledger.rs"]
#[expect(unreachable_pub, dead_code, reason = "it is a part of a library")]
mod ledger;

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use ledger::Ledger;
use loom::{cell::UnsafeCell, sync::Arc, thread};
use zerosink_core::{
    SinkStats,
    custody::{Custody, Released, Until},
};

/// As the crate's own, which nobody else can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReleaseError {
    quarantined: u64,
}

impl ReleaseError {
    const fn new(quarantined: u64) -> Self {
        Self { quarantined }
    }
}

const BYTES: usize = 10;

/// Memory that the kernel may read.
struct Memory {
    cell: UnsafeCell<u8>,
    back: AtomicUsize,
}

// SAFETY: whether the accesses exclude each other is what loom checks.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self { cell: UnsafeCell::new(0), back: AtomicUsize::new(0) })
    }

    fn lend(this: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Lent(Arc::clone(this)))
    }

    /// What the kernel does until it lets go.
    fn read(&self) {
        // SAFETY: it is what loom checks.
        self.cell.with(|cell| unsafe { *cell });
    }

    fn is_back(&self) -> bool {
        self.back.load(SeqCst) == 1
    }
}

struct Lent(Arc<Memory>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &[0; BYTES]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: it is what loom checks.
        self.0.cell.with_mut(|cell| unsafe { *cell += 1 });
        self.0.back.fetch_add(1, SeqCst);
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Somebody who waits for release.
#[derive(Clone)]
struct Waiter {
    ledger: Arc<Ledger>,
    upto: u64,
    wakes: std::sync::Arc<Wakes>,
}

impl Waiter {
    fn new(ledger: &Arc<Ledger>, upto: usize) -> Self {
        Self { ledger: Arc::clone(ledger), upto: upto as u64, wakes: std::sync::Arc::default() }
    }

    fn poll(&self) -> Poll<Result<(), ReleaseError>> {
        let waker = Waker::from(std::sync::Arc::clone(&self.wakes));
        self.ledger.poll_released(&mut Context::from_waker(&waker), self.upto)
    }

    fn elsewhere(&self) -> thread::JoinHandle<Poll<Result<(), ReleaseError>>> {
        let this = self.clone();
        thread::spawn(move || this.poll())
    }

    /// What he learned, when everything has happened: at once, or because he was woken.
    fn outcome(&self, first: Poll<Result<(), ReleaseError>>) -> Result<(), ReleaseError> {
        if let Poll::Ready(outcome) = first {
            return outcome;
        }
        assert!(self.wakes.0.load(SeqCst) > 0, "he sleeps for ever");
        match self.poll() {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("he was woken for nothing"),
        }
    }
}

fn check(f: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(f);
}

fn statistics(ledger: &Ledger) -> SinkStats {
    let mut stats = SinkStats::default();
    ledger.describe(&mut stats);
    stats
}

#[track_caller]
fn is_empty(ledger: &Ledger) {
    let stats = statistics(ledger);
    assert_eq!((ledger.is_empty(), ledger.reaching(), stats.pinned_bytes, stats.strays), (true, 0, 0, 0));
}

/// The notification may be there before the call has returned.
#[test]
fn a_notification_during_the_call_releases_once_and_whoever_waits_learns_of_it() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        let pending = ledger.open(Until::Notified, [Memory::lend(&memory)]);
        let kernel = {
            let (ledger, memory) = (ledger.clone(), memory.clone());
            thread::spawn(move || {
                memory.read();
                assert_eq!(ledger.notify(0, 0, false).sends, 1);
                assert!(memory.is_back());
            })
        };
        let waiter = Waiter::new(&ledger, BYTES);
        let waiting = waiter.elsewhere();
        pending.accepted(BYTES);
        let first = waiting.join().unwrap();
        kernel.join().unwrap();
        assert_eq!(waiter.outcome(first), Ok(()));
        assert_eq!((ledger.released(), ledger.flushed()), (BYTES as u64, BYTES as u64));
        is_empty(&ledger);
    });
}

/// Memory that a call did not take goes back while the kernel reads the rest, and a call that took nothing has no id.
#[test]
fn what_a_call_did_not_accept_goes_back_beside_a_notification() {
    check(|| {
        let ledger = Arc::new(Ledger::default());
        let [taken, left, refused, last] = [(); 4].map(|()| Memory::new());
        ledger.open(Until::Notified, [Memory::lend(&taken), Memory::lend(&left)]).accepted(BYTES);
        assert!(left.is_back());
        let kernel = {
            let (ledger, taken) = (ledger.clone(), taken.clone());
            thread::spawn(move || {
                taken.read();
                assert_eq!(ledger.notify(0, 0, false).sends, 1);
            })
        };
        drop(ledger.open(Until::Notified, [Memory::lend(&refused)]));
        assert!(refused.is_back());
        ledger.open(Until::Notified, [Memory::lend(&last)]).accepted(BYTES);
        kernel.join().unwrap();
        assert!(taken.is_back() && !last.is_back());
        last.read();
        assert_eq!(ledger.notify(1, 1, false).sends, 1, "the failed call took no id");
        is_empty(&ledger);
    });
}

/// As io_uring has it: flushed and released by another thread than the sender's, perhaps before he is back.
#[test]
fn a_queued_send_is_never_released_beyond_what_is_flushed() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        let pending = ledger.open(Until::Completed, [Memory::lend(&memory)]);
        let number = pending.number();
        let kernel = {
            let (ledger, memory) = (ledger.clone(), memory.clone());
            thread::spawn(move || {
                memory.read();
                ledger.flush(BYTES as u64);
                ledger.complete(number, false);
            })
        };
        let onlooker = {
            let ledger = ledger.clone();
            // The order of `Connection::position`.
            thread::spawn(move || {
                let released = ledger.released();
                assert!(released <= ledger.flushed());
                assert!(released <= ledger.released(), "it never goes back");
            })
        };
        pending.queued(BYTES);
        kernel.join().unwrap();
        onlooker.join().unwrap();
        assert_eq!((ledger.released(), memory.is_back()), (BYTES as u64, true));
        is_empty(&ledger);
    });
}

/// The driver and a sender that reads the error queue himself.
#[test]
fn two_who_hear_of_releases_at_the_same_time_miss_no_waiter() {
    check(|| {
        let ledger = Arc::new(Ledger::default());
        let memories = [Memory::new(), Memory::new()];
        for memory in &memories {
            ledger.open(Until::Notified, [Memory::lend(memory)]).accepted(BYTES);
        }
        let waiter = Waiter::new(&ledger, 2 * BYTES);
        let driver = {
            let (ledger, memory) = (ledger.clone(), memories[1].clone());
            thread::spawn(move || {
                memory.read();
                ledger.notify(1, 1, true);
            })
        };
        let waiting = waiter.elsewhere();
        memories[0].read();
        ledger.notify(0, 0, true);
        // Copied ones are never fewer than the notified sends that were copied: all are here.
        let (notified, copied) = ledger.notified();
        assert!(copied >= notified, "{copied} of {notified}");
        let first = waiting.join().unwrap();
        driver.join().unwrap();
        assert_eq!(waiter.outcome(first), Ok(()));
        assert_eq!(ledger.notified(), (2, 2));
        is_empty(&ledger);
    });
}

/// The peer has a part, and then the connection ends: each byte is released or given up, and the waiter is told which.
#[test]
fn what_the_peer_has_and_what_is_given_up_add_up() {
    check(|| {
        let ledger = Arc::new(Ledger::default());
        region::DISTRUSTED.set(0);
        for memory in [Memory::new(), Memory::new()] {
            ledger.open(Until::Reached, [Memory::lend(&memory)]).accepted(BYTES);
        }
        let waiter = Waiter::new(&ledger, BYTES);
        let reset = {
            let ledger = ledger.clone();
            thread::spawn(move || ledger.abandon())
        };
        let waiting = waiter.elsewhere();
        let reached = ledger.reach(BYTES as u64);
        let first = waiting.join().unwrap();
        let abandoned = reset.join().unwrap();
        assert_eq!((reached + abandoned, region::DISTRUSTED.get()), (2 * BYTES as u64, abandoned));
        assert_eq!(ledger.released(), reached);
        match waiter.outcome(first) {
            Ok(()) => assert_eq!(reached, BYTES as u64),
            Err(error) => assert_eq!((error.quarantined, reached), (abandoned, 0)),
        }
        is_empty(&ledger);
    });
}

/// The deadline passes while the waiter comes, and the kernel lets go after all.
#[test]
fn whoever_waits_hears_of_the_quarantine_or_of_the_release() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        ledger.open(Until::Notified, [Memory::lend(&memory)]).accepted(BYTES);
        let waiter = Waiter::new(&ledger, BYTES);
        let waiting = waiter.elsewhere();
        let kernel = {
            let (ledger, memory) = (ledger.clone(), memory.clone());
            thread::spawn(move || {
                memory.read();
                ledger.notify(0, 0, false);
            })
        };
        ledger.quarantine();
        let first = waiting.join().unwrap();
        kernel.join().unwrap();
        // A part of it is true: it was in quarantine once.
        waiter.outcome(first).ok();
        assert_eq!(waiter.poll(), Poll::Ready(Ok(())));
        assert_eq!(statistics(&ledger).quarantined_bytes, 0);
        is_empty(&ledger);
    });
}

/// Negative control: memory that goes into custody after the call may miss its notification.
#[test]
#[should_panic(expected = "a notification of nothing")]
fn control_custody_after_the_call_is_too_late() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        let kernel = {
            let ledger = ledger.clone();
            thread::spawn(move || ledger.notify(0, 0, false).sends)
        };
        ledger.open(Until::Notified, [Memory::lend(&memory)]).accepted(BYTES);
        assert_eq!(kernel.join().unwrap(), 1, "a notification of nothing");
    });
}

/// Negative control: loom sees memory that is written before the kernel has let go.
#[test]
#[should_panic(expected = "Causality violation")]
fn control_memory_that_is_given_back_at_accept_is_a_race() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        let lease = Memory::lend(&memory);
        let kernel = {
            let memory = memory.clone();
            thread::spawn(move || memory.read())
        };
        ledger.passed(lease.len());
        drop(lease);
        kernel.join().unwrap();
    });
}

/// Negative control: whoever looks and then asks to be woken, in two steps, is not woken.
#[test]
#[should_panic(expected = "he sleeps for ever")]
fn control_a_look_before_the_wish_to_be_woken_is_not_enough() {
    check(|| {
        let (ledger, memory) = (Arc::new(Ledger::default()), Memory::new());
        ledger.open(Until::Notified, [Memory::lend(&memory)]).accepted(BYTES);
        let asleep = Arc::new(loom::sync::Mutex::new(false));
        let kernel = {
            let (ledger, asleep) = (ledger.clone(), asleep.clone());
            thread::spawn(move || {
                ledger.notify(0, 0, false);
                *asleep.lock().unwrap() = false;
            })
        };
        if ledger.released() < BYTES as u64 {
            *asleep.lock().unwrap() = true;
        }
        kernel.join().unwrap();
        assert!(!*asleep.lock().unwrap(), "he sleeps for ever");
    });
}
