//! A ring's desk under loom: `RUSTFLAGS="--cfg loom" cargo test --release -p zerosink-core --test ring_loom`.
//!
//! `desk.rs` and what it uses are included with loom's primitives in place of the standard library's. Each test says
//! which interleavings it is about; loom tries them all, up to three preemptions, and reports races on every
//! [`UnsafeCell`].
#![cfg(loom)]
#![expect(unsafe_code, reason = "calls what only a grant calls elsewhere")]

mod sync {
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering},
        },
    };
}

#[path = "../src/ring/desk.rs"]
mod desk;
#[path = "../src/ring/index.rs"]
mod index;
#[path = "../src/ring/returns.rs"]
mod returns;
#[path = "../src/ring/slots.rs"]
mod slots;
#[path = "../src/ring/space.rs"]
mod space;
#[path = "../src/ring/waiters.rs"]
mod waiters;

use std::task::{Wake, Waker};

use desk::{Desk, Refused};
use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use returns::{Fate, Note};
use slots::Slot;

/// A ring without memory but one cell for each granule, in which loom sees two who have the same one.
struct Model {
    desk: Desk<u64, Arc<Model>>,
    granules: Vec<UnsafeCell<u64>>,
}

/// A segment in use: its slot's number, its first granule, and how many it has.
#[derive(Clone, Copy)]
struct Segment {
    number: u32,
    start: u32,
    len: u32,
}

impl Drop for Model {
    fn drop(&mut self) {
        // Loom complains if somebody is still at it, or was without a happens-before.
        self.granules.iter().for_each(|cell| cell.with_mut(|_| ()));
    }
}

impl Model {
    fn new(granules: u32) -> Arc<Self> {
        let model = Self {
            desk: Desk::new(granules, false).expect("memory"),
            granules: (0..granules).map(|_| UnsafeCell::new(0)).collect(),
        };
        let model = Arc::new(model);
        model.desk.open(model.clone());
        model
    }

    fn check(f: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(5);
        builder.check(f);
    }

    /// Uses the segment's granules, as whoever has it alone may.
    fn write(&self, segment: Segment) {
        for granule in segment.start..segment.start + segment.len {
            // SAFETY: it is what loom checks.
            self.granules[granule as usize].with_mut(|cell| unsafe { *cell += 1 });
        }
    }

    fn had(&self, (slot, start): (&Slot<u64>, u32), len: u32) -> Segment {
        let segment = Segment { number: slot.number(), start, len };
        self.write(segment);
        segment
    }

    fn take(&self, len: u32) -> Option<Segment> {
        self.desk.take(len).map(|taken| self.had(taken, len))
    }

    fn slot(&self, segment: Segment) -> &Slot<u64> {
        let slot = self.desk.index().find(segment.start).expect("in use");
        // SAFETY: slots live as long as the model.
        unsafe { &*slot }
    }

    fn lease(&self, len: u32, value: u64) -> Segment {
        let segment = self.take(len).expect("free");
        // SAFETY: the segment was taken just now.
        unsafe { self.slot(segment).publish(&value) };
        segment
    }

    fn find(&self, granule: u32) -> Option<u64> {
        let slot = self.desk.index().find(granule)?;
        // SAFETY: slots live as long as the model.
        let slot = unsafe { &*slot };
        // SAFETY: callers hold the lease.
        unsafe { slot.read() }.copied()
    }

    /// What dropping a lease does.
    fn give_back(model: *const Self, segment: Segment) {
        Self::give_back_as(model, segment, Fate::Free);
    }

    /// The desk's own count keeps the model alive until the note is left.
    fn give_back_as(model: *const Self, segment: Segment, fate: Fate) {
        // SAFETY: the segment is in use, so the desk has its count of the model.
        let this = unsafe { &*model };
        this.write(segment);
        let slot = this.slot(segment);
        if !this.desk.returns().leave(Note::new(segment.number, fate), slot.link(fate)) {
            // SAFETY: as above; the pointer came from an Arc.
            unsafe { Arc::increment_strong_count(model) };
            // SAFETY: the count from the line above.
            let model = unsafe { Arc::from_raw(model) };
            drop(model.desk.carry_out(segment.number, fate));
            if fate == Fate::Stale {
                model.desk.renew_for_waiters(1, model.replacing());
            }
        }
    }

    /// Replaces pages: whoever does that is alone with them.
    fn replacing(&self) -> impl Fn(u32, u32) -> Fate {
        |start, len| {
            self.write(Segment { number: 0, start, len });
            Fate::Free
        }
    }
}

/// Gives a pointer to another thread.
struct Sent(*const Model);

// SAFETY: the model is Sync; that it lives is what the tests are about.
unsafe impl Send for Sent {}

fn give_back_elsewhere(model: &Arc<Model>, segment: Segment) -> thread::JoinHandle<()> {
    let pointer = Sent(Arc::as_ptr(model));
    thread::spawn(move || {
        let Sent(model) = { pointer };
        Model::give_back(model, segment);
    })
}

/// The last handle goes.
fn close(model: Arc<Model>) {
    drop(model.desk.close());
}

#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_held_lease_is_found_while_its_neighbours_come_and_go() {
    Model::check(|| {
        let model = Model::new(128);
        // Granules 0..60, a lease that reaches from the first word into the second, and the rest.
        let (before, held) = (model.lease(60, 22), model.lease(10, 11));
        let neighbour = give_back_elsewhere(&model, before);
        let other = {
            let model = model.clone();
            thread::spawn(move || {
                let after = model.lease(30, 33);
                Model::give_back(Arc::as_ptr(&model), after);
            })
        };
        assert_eq!(model.find(61), Some(11));
        assert_eq!(model.find(69), Some(11));
        neighbour.join().unwrap();
        other.join().unwrap();
        Model::give_back(Arc::as_ptr(&model), held);
        close(model);
    });
}

#[test]
fn the_last_of_two_holders_may_reuse_the_slot() {
    Model::check(|| {
        let model = Model::new(64);
        let lease = model.lease(8, 11);
        let count = Arc::new(AtomicUsize::new(2));
        let hold = move |model: Arc<Model>, count: Arc<AtomicUsize>| {
            assert_eq!(model.find(6), Some(11));
            // As Bytes does it: Release on the way down, Acquire for the last one.
            if count.fetch_sub(1, Ordering::Release) == 1 {
                count.load(Ordering::Acquire);
                Model::give_back(Arc::as_ptr(&model), lease);
                let next = model.lease(8, 99);
                assert_eq!(model.find(6), Some(99));
                Model::give_back(Arc::as_ptr(&model), next);
            }
        };
        let (other_model, other_count) = (model.clone(), count.clone());
        let other = thread::spawn(move || hold(other_model, other_count));
        hold(model.clone(), count);
        other.join().unwrap();
        close(model);
    });
}

#[test]
fn what_is_returned_is_handed_out_once_and_none_of_it_is_lost() {
    Model::check(|| {
        let model = Model::new(2);
        let (one, two) = (model.lease(1, 1), model.lease(1, 2));
        let returns = [give_back_elsewhere(&model, one), give_back_elsewhere(&model, two)];
        let early = model.take(1);
        for thread in returns {
            thread.join().unwrap();
        }
        let rest = model.take(if early.is_some() { 1 } else { 2 }).expect("everything else came back");
        assert!(model.take(1).is_none());
        for segment in [early, Some(rest)].into_iter().flatten() {
            Model::give_back(Arc::as_ptr(&model), segment);
        }
        assert_eq!(model.desk.totals().free, 2);
        close(model);
    });
}

#[test]
fn the_tail_of_a_commit_is_free_for_others_even_if_its_lease_is_back_first() {
    Model::check(|| {
        let model = Model::new(2);
        let whole = model.lease(2, 1);
        let other = {
            let model = model.clone();
            thread::spawn(move || {
                model.desk.keep(model.slot(whole), 1, 2);
                Model::give_back(Arc::as_ptr(&model), Segment { len: 1, ..whole });
            })
        };
        let early = model.take(1);
        other.join().unwrap();
        assert_eq!(model.desk.free(), 2 - u32::from(early.is_some()));
        if let Some(early) = early {
            Model::give_back(Arc::as_ptr(&model), early);
        }
        let whole = model.take(2).expect("in one piece");
        Model::give_back(Arc::as_ptr(&model), whole);
        close(model);
    });
}

#[test]
fn whoever_waits_is_served_whenever_space_comes_back() {
    Model::check(|| {
        let model = Model::new(1);
        let lease = model.lease(1, 1);
        let returned = give_back_elsewhere(&model, lease);
        let wakes = std::sync::Arc::new(Wakes::default());
        let outcome = model.desk.take_or_join(1, &Waker::from(wakes.clone())).expect("possible");
        let early = outcome.map(|taken| model.had(taken, 1));
        returned.join().unwrap();
        let woken = wakes.0.load(Ordering::SeqCst);
        let segment = match early {
            Ok(segment) => segment,
            Err(ticket) => {
                assert_eq!(woken, 1);
                let taken = model.desk.collect(ticket, Waker::noop()).expect("served");
                model.had(taken.expect("a segment"), 1)
            }
        };
        assert_eq!(model.desk.totals().waiters, 0);
        Model::give_back(Arc::as_ptr(&model), segment);
        close(model);
    });
}

#[test]
fn a_waiter_that_leaves_while_it_is_served_passes_it_on() {
    Model::check(|| {
        let model = Model::new(1);
        let lease = model.lease(1, 1);
        let join = || model.desk.take_or_join(1, Waker::noop()).expect("possible").map(|_| ()).expect_err("full");
        let (first, second) = (join(), join());
        let returned = give_back_elsewhere(&model, lease);
        model.desk.leave(first);
        returned.join().unwrap();
        let taken = model.desk.collect(second, Waker::noop()).expect("served").expect("a segment");
        let segment = model.had(taken, 1);
        assert!(model.take(1).is_none());
        Model::give_back(Arc::as_ptr(&model), segment);
        close(model);
    });
}

#[test]
fn nobody_overtakes_a_waiter() {
    Model::check(|| {
        let model = Model::new(2);
        let (one, two) = (model.lease(1, 1), model.lease(1, 2));
        let large = model.desk.take_or_join(2, Waker::noop()).expect("possible").map(|_| ()).expect_err("full");
        let returned = give_back_elsewhere(&model, one);
        assert!(model.take(1).is_none(), "first come, first served");
        returned.join().unwrap();
        Model::give_back(Arc::as_ptr(&model), two);
        let taken = model.desk.collect(large, Waker::noop()).expect("served").expect("a segment");
        let segment = model.had(taken, 2);
        Model::give_back(Arc::as_ptr(&model), segment);
        assert_eq!(model.desk.refusal(1), Refused::Full(2));
        close(model);
    });
}

#[test]
fn the_ring_ends_with_its_last_handle_or_segment_and_not_before() {
    Model::check(|| {
        let model = Model::new(2);
        let (one, two) = (model.lease(1, 1), model.lease(1, 2));
        let threads = [give_back_elsewhere(&model, one), give_back_elsewhere(&model, two)];
        close(model);
        // Loom finds a race in `Model::drop` if it comes too early, and reports a leak if it does not come.
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn what_is_stale_is_renewed_for_whoever_waits() {
    Model::check(|| {
        let model = Model::new(1);
        let lease = model.lease(1, 1);
        let returned = {
            let model = model.clone();
            thread::spawn(move || Model::give_back_as(Arc::as_ptr(&model), lease, Fate::Stale))
        };
        let outcome = model.desk.take_or_join(1, Waker::noop()).expect("possible").map(|_| ());
        let ticket = outcome.expect_err("nothing is free before somebody renews it");
        model.desk.renew_for_waiters(1, model.replacing());
        returned.join().unwrap();
        let taken = model.desk.collect(ticket, Waker::noop()).expect("served").expect("a segment");
        let segment = model.had(taken, 1);
        Model::give_back(Arc::as_ptr(&model), segment);
        close(model);
    });
}

#[test]
fn what_two_renew_is_handed_out_once_and_none_of_it_is_lost() {
    Model::check(|| {
        let model = Model::new(2);
        for segment in [model.lease(1, 1), model.lease(1, 2)] {
            Model::give_back_as(Arc::as_ptr(&model), segment, Fate::Stale);
        }
        let renewing = |model: &Arc<Model>| {
            let renewed = model.desk.renew(1, model.replacing());
            (renewed > 0).then(|| model.take(1)).flatten()
        };
        let other = {
            let model = model.clone();
            thread::spawn(move || renewing(&model).map(|segment| Model::give_back(Arc::as_ptr(&model), segment)))
        };
        if let Some(segment) = renewing(&model) {
            Model::give_back(Arc::as_ptr(&model), segment);
        }
        other.join().unwrap();
        assert_eq!(model.desk.free(), 2);
        let whole = model.take(2).expect("in one piece");
        Model::give_back(Arc::as_ptr(&model), whole);
        close(model);
    });
}
