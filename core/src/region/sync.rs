//! The primitives that loom replaces: `tests/region_loom.rs` includes `map.rs` and `cell.rs` with its own `sync`.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

pub(super) use crate::ring::UnsafeCell;
