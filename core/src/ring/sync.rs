//! The primitives that loom replaces: `tests/ring_loom.rs` includes `index.rs` and `cell.rs` with its own `sync`.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// [`std::cell::UnsafeCell`] with loom's way of asking.
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline]
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
