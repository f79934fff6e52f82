//! The table of memory ranges under loom:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p zerosink-core --test region_loom`.
//!
//! `map.rs`, `outline.rs` and `cell.rs` are included with loom's primitives in place of the standard library's.
#![cfg(loom)]
#![expect(unsafe_code, reason = "calls what only a registration calls elsewhere")]

mod sync {
    pub(super) use loom::{
        cell::UnsafeCell,
        hint::spin_loop,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
        },
        thread::yield_now,
    };
}

#[path = "../src/region/cell.rs"]
mod cell;
#[path = "../src/region/map.rs"]
mod map;
#[path = "../src/region/outline.rs"]
mod outline;

use std::{array, ptr};

use cell::Cell;
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize},
    },
    thread,
};
use map::{Bucket, Map, Padded, Writer};
use outline::{Key, Outline};

fn check(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// With a single bucket all ranges are in each other's way.
fn map<const BUCKETS: usize>() -> Map<u8, BUCKETS> {
    Map {
        levels: AtomicU64::new(0),
        removals: Padded(AtomicUsize::new(0)),
        buckets: array::from_fn(|_| Bucket { age: AtomicUsize::new(0), first: AtomicPtr::new(ptr::null_mut()) }),
    }
}

static VALUES: [u8; 4] = [0, 1, 2, 3];

fn value(found: Option<*const u8>) -> Option<u8> {
    // SAFETY: only pointers to VALUES are in the maps here.
    found.map(|value| unsafe { *value })
}

#[test]
fn a_range_is_found_while_others_in_its_bucket_come_and_go() {
    check(2, || {
        let table = Arc::new((map::<1>(), Mutex::new(Writer::new())));
        let insert =
            |at: usize, value: &'static u8| table.0.insert(&mut table.1.lock().unwrap(), (at, at + 100), value);
        insert(1000, &VALUES[1]);
        insert(3000, &VALUES[2]);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let (map, writer) = &*table;
                // In front of it goes; its entry is used again, before and behind in the list.
                map.remove(&mut writer.lock().unwrap(), (3000, 3100), &VALUES[2]);
                map.insert(&mut writer.lock().unwrap(), (5000, 5100), &VALUES[3]);
            })
        };
        assert_eq!(value(table.0.find(1050, 1100)), Some(1));
        assert!(matches!(value(table.0.find(3000, 3001)), None | Some(2)));
        assert!(matches!(value(table.0.find(5000, 5001)), None | Some(3)));
        other.join().unwrap();
        assert_eq!([1000, 3000, 5000].map(|at| value(table.0.find(at, at + 1))), [Some(1), None, Some(3)]);
    });
}

#[test]
fn an_entry_that_is_used_again_is_never_taken_for_what_it_was() {
    check(2, || {
        let table = Arc::new((map::<1>(), Mutex::new(Writer::new())));
        table.0.insert(&mut table.1.lock().unwrap(), (1000, 1100), &VALUES[1]);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let (map, writer) = &*table;
                map.remove(&mut writer.lock().unwrap(), (1000, 1100), &VALUES[1]);
                map.insert(&mut writer.lock().unwrap(), (900, 2000), &VALUES[2]);
            })
        };
        // All of the first range, which the second one has, too; then something that only the second has.
        assert!(matches!(value(table.0.find(1000, 1100)), None | Some(1 | 2)));
        assert!(matches!(value(table.0.find(1050, 1150)), None | Some(2)));
        other.join().unwrap();
    });
}

#[test]
fn a_registered_range_is_found_while_wider_ones_come_and_go() {
    let narrow = Key { start: 1000, end: 1100, id: 0 };
    // In the bucket of the narrow one, and elsewhere, so that a reader may have looked there before.
    for wide in [
        Key { start: 990, end: 1110, id: 1 },
        Key { start: 0, end: 5000, id: 1 },
        Key { start: 0, end: 100_000, id: 1 },
    ] {
        check(3, move || {
            let table = Arc::new((map::<4>(), Mutex::new(Outline::new())));
            table.1.lock().unwrap().insert(&table.0, narrow, &VALUES[0]);
            let other = {
                let table = table.clone();
                thread::spawn(move || {
                    let (map, outline) = &*table;
                    outline.lock().unwrap().insert(map, wide, &VALUES[1]);
                    outline.lock().unwrap().remove(map, wide);
                })
            };
            assert!(table.0.find_any(1000, 1100).is_some());
            other.join().unwrap();
            assert_eq!(value(table.0.find_any(1000, 1100)), Some(0));
            assert_eq!(value(table.0.find_any(1000, 1101)), None);
        });
    }
}

#[test]
fn a_cell_is_read_whole_by_any_number_of_readers_beside_a_writer() {
    check(2, || {
        let shared = Arc::new((Cell::new(), Mutex::new(())));
        let set = |shared: &(Cell<[u8; 2]>, Mutex<()>), value| {
            // SAFETY: everybody names the same lock.
            unsafe { shared.0.set(&mut shared.1.lock().unwrap(), value) }
        };
        assert_eq!(set(&shared, Some([1, 1])), None);
        let readers = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || shared.0.read(&shared.1, |value| value.copied()))
        });
        assert_eq!(set(&shared, Some([2, 2])), Some([1, 1]));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), Some([1, 1] | [2, 2])));
        }
    });
}
