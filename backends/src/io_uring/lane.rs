//! What the sink of a connection and its sends share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use zerosink_core::Refusal;

use super::Uring;
use crate::driver::Socket;

/// One connection's way through the io_uring of its runtime. Sends hold it until they are released, and so the socket and
/// the io_uring stay open as long.
pub(super) struct Lane {
    pub(super) socket: Arc<Socket>,
    pub(super) uring: Arc<Uring>,
    /// A send has no result yet. Set by the sender, cleared by whoever takes the result: two sends at a time would overtake
    /// each other.
    busy: AtomicBool,
    /// Bytes that were copied although they were queued for zero-copy, and the last reason.
    fallback: AtomicU64,
    reason: AtomicU8,
}

impl Lane {
    pub(super) const fn new(socket: Arc<Socket>, uring: Arc<Uring>) -> Self {
        Self { socket, uring, busy: AtomicBool::new(false), fallback: AtomicU64::new(0), reason: AtomicU8::new(0) }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Acquire)
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Release);
    }

    pub(super) fn count_fallback(&self, bytes: usize, reason: Refusal) {
        self.reason.store(reason.index() as u8, Relaxed);
        self.fallback.fetch_add(bytes as u64, Release);
    }

    /// Bytes that were copied after all, since the last time, and why.
    pub(super) fn take_fallback(&self) -> Option<(usize, Refusal)> {
        // Read first, for it is nearly always 0.
        if self.fallback.load(Relaxed) == 0 {
            return None;
        }
        let bytes = self.fallback.swap(0, Acquire);
        Some((bytes as usize, Refusal::ALL[usize::from(self.reason.load(Relaxed))]))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.socket.leave_uring();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("busy", &self.is_busy()).finish_non_exhaustive()
    }
}
