//! The primitives that loom replaces: `tests/ledger_loom.rs` includes `ledger.rs` with its own `sync`.

pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
