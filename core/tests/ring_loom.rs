//! The lock-free half of a ring's lookups under loom: `RUSTFLAGS="--cfg loom" cargo test --release --test ring_loom`.
//!
//! `index.rs` and `cell.rs` are included with loom's primitives in place of the standard library's.
#![cfg(loom)]
#![expect(unsafe_code, reason = "calls what only a grant calls elsewhere")]

mod sync {
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    };
}

#[expect(dead_code, reason = "only the slots are used here")]
#[path = "../src/ring/cell.rs"]
mod cell;
#[path = "../src/ring/index.rs"]
mod index;

use cell::Slots;
use index::Index;
use loom::{
    sync::{Arc, Mutex, atomic::AtomicU32 as Count, atomic::Ordering},
    thread,
};

struct Model {
    index: Index,
    slots: Slots<u64>,
    /// The ring's lock, which every writer of the index holds.
    lock: Mutex<()>,
}

impl Model {
    fn new() -> Self {
        Self { index: Index::new(128).expect("memory"), slots: Slots::new(), lock: Mutex::new(()) }
    }

    fn lease(&self, at: u32, node: u32, value: u64) {
        {
            let _locked = self.lock.lock().unwrap();
            self.slots.ensure(node).close();
            self.index.set(at, node);
        }
        let slot = self.slots.get(node).expect("made");
        // SAFETY: the model gives a node to one thread at a time.
        unsafe { slot.publish(&value) };
    }

    fn release(&self, at: u32, node: u32) {
        self.slots.get(node).expect("made").close();
        let _locked = self.lock.lock().unwrap();
        self.index.clear(at);
    }

    fn find(&self, at: u32) -> Option<u64> {
        let node = self.index.find(at)?;
        // SAFETY: callers hold the lease.
        unsafe { self.slots.get(node)?.read(|value| *value) }
    }
}

#[test]
fn a_held_lease_is_found_while_its_neighbours_come_and_go() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        model.lease(60, 1, 11);
        let other = model.clone();
        let neighbour = thread::spawn(move || {
            other.lease(3, 2, 22);
            other.lease(70, 3, 33);
            other.release(3, 2);
            other.release(70, 3);
        });
        // In the first word, and in the second behind the summary.
        assert_eq!(model.find(61), Some(11));
        assert_eq!(model.find(69), Some(11));
        neighbour.join().unwrap();
    });
}

#[test]
fn the_last_of_two_holders_may_reuse_the_slot() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        model.lease(5, 1, 11);
        let count = Arc::new(Count::new(2));
        let hold = |model: Arc<Model>, count: Arc<Count>| {
            assert_eq!(model.find(6), Some(11));
            // As Bytes does it: Release on the way down, Acquire for the last one.
            if count.fetch_sub(1, Ordering::Release) == 1 {
                count.load(Ordering::Acquire);
                model.release(5, 1);
                model.lease(4, 1, 99);
                assert_eq!(model.find(6), Some(99));
            }
        };
        let (other_model, other_count) = (model.clone(), count.clone());
        let other = thread::spawn(move || hold(other_model, other_count));
        hold(model, count);
        other.join().unwrap();
    });
}
