//! A value that many read at once, and that is seldom set.
//!
//! A reader who is alone takes it with one atomic operation and gives it back with a store. One who is not waits at the
//! **gate**, the lock that every writer holds: there he keeps writers out, and other readers do not matter. So readers
//! never spin, and never wait for each other while nobody writes.
#![expect(unsafe_code, reason = "lends the value; every block proves that nobody writes it meanwhile")]

use std::{mem, sync::PoisonError};

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, UnsafeCell, spin_loop, yield_now};

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Cell<T> {
    /// A reader or a writer is at it who did not wait at the gate.
    taken: AtomicBool,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: readers of any thread get `&T`, and writers move a T in and out.
unsafe impl<T: Send + Sync> Sync for Cell<T> {}

/// Gives the cell back, also if a reader panics.
struct Taken<'a>(&'a AtomicBool);

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> Cell<T> {
    pub(super) fn new() -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(None) }
    }

    #[inline]
    fn take(&self) -> Option<Taken<'_>> {
        let taken = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| Taken(&self.taken))
    }

    /// Calls `f` with the value, if there is one.
    #[inline]
    pub(super) fn read<G, R>(&self, gate: &Mutex<G>, f: impl FnOnce(Option<&T>) -> R) -> R {
        let Some(_taken) = self.take() else { return self.read_behind(gate, f) };
        // SAFETY: a writer needs `taken`, which is ours until the end of this function. Other readers only read.
        f(self.value.with(|value| unsafe { &*value }.as_ref()))
    }

    #[cold]
    fn read_behind<G, R>(&self, gate: &Mutex<G>, f: impl FnOnce(Option<&T>) -> R) -> R {
        let _gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a writer holds the gate, which is ours until the end of this function. Other readers only read.
        f(self.value.with(|value| unsafe { &*value }.as_ref()))
    }

    /// Changes the value and answers the one before.
    ///
    /// # Safety
    ///
    /// `gate` guards the lock that all readers and writers of this cell name.
    pub(super) unsafe fn set<G>(&self, _gate: &mut MutexGuard<'_, G>, value: Option<T>) -> Option<T> {
        let mut tries = 0_u32;
        let _taken = loop {
            if let Some(taken) = self.take() {
                break taken;
            }
            // A reader is at it, for as long as it takes to count one handle more.
            tries += 1;
            if tries.is_multiple_of(64) { yield_now() } else { spin_loop() }
        };
        // SAFETY: readers either have `taken`, which is ours, or hold the gate, which is the caller's.
        self.value.with_mut(|slot| mem::replace(unsafe { &mut *slot }, value))
    }
}
