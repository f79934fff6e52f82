//! One socket, shared by the mechanisms that take turns on it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    Mechanism, Path, Reactor, Refusal, ReleaseError, SinkConfig, SinkStats,
    custody::{Ledger, PendingSend},
    policy::Family,
    sink::Position,
};

/// One socket: write readiness, custody by stream offset, path and counters.
///
/// Backends attach to it and take turns. When the last sink drops it, socket and custody go on with the driver until
/// everything is released.
#[derive(Debug)]
pub struct Connection {
    reactor: Arc<dyn Reactor>,
    ledger: Arc<Ledger>,
    family: Family,
    max_pinned: u64,
    path: AtomicU8,
    path_is_fixed: bool,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    zero_copy: AtomicU64,
    sends_zero_copy: AtomicU64,
    sends_copied: AtomicU64,
    would_block: AtomicU64,
    no_buffers: AtomicU64,
    copied: [AtomicU64; Refusal::ALL.len()],
    /// 0: none; otherwise 1 + the index of the refusal.
    refused: [AtomicU8; Mechanism::ALL.len()],
}

/// Only the sender writes these, and sends take turns: a plain load and store, which costs less than an atomic addition.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

impl Connection {
    /// Joins a socket with its custody. Called by drivers.
    #[must_use]
    pub fn new(reactor: Arc<dyn Reactor>, ledger: Arc<Ledger>, family: Family, config: &SinkConfig) -> Self {
        Self {
            reactor,
            ledger,
            family,
            max_pinned: config.max_pinned_bytes,
            path: AtomicU8::new(config.path.unwrap_or_default() as u8),
            path_is_fixed: config.path.is_some(),
            counters: Counters::default(),
        }
    }

    /// The kind of socket.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The socket and the events on it.
    #[must_use]
    pub fn reactor(&self) -> &dyn Reactor {
        &*self.reactor
    }

    /// The socket, for system calls of a backend. Never close it, never read its error queue.
    #[cfg(unix)]
    #[must_use]
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.reactor.as_fd()
    }

    /// Where the packets go, as far as is known.
    #[must_use]
    pub fn path(&self) -> Path {
        Path::from_index(self.path.load(Relaxed))
    }

    /// What was observed about the path. A path that the user stated stays.
    pub fn observe_path(&self, path: Path) {
        if !self.path_is_fixed && Path::from_index(self.path.swap(path as u8, Relaxed)) != path {
            tracing::debug!(%path, "path changed");
        }
    }

    /// Sends by copying, and accounts for it under `reason`. One send per connection may be under way at a time.
    ///
    /// # Errors
    ///
    /// As `send(2)`; `WouldBlock` if the socket is full.
    pub fn send_copy(&self, slices: &[io::IoSlice<'_>], more: bool, reason: Refusal) -> io::Result<usize> {
        if let Some(error) = self.reactor.failure() {
            return Err(error);
        }
        let result = self.reactor.write_vectored(slices, more);
        match &result {
            Ok(bytes) => {
                self.ledger.copied(*bytes);
                add(&self.counters.sends_copied, 1);
                add(&self.counters.copied[reason.index()], *bytes as u64);
            }
            Err(error) => self.failed(error),
        }
        result
    }

    /// Makes a send call whose release the kernel notifies by id: `memory` is in custody before `call` runs. One send per
    /// connection may be under way at a time.
    ///
    /// # Errors
    ///
    /// What `call` answered; nothing is in custody then.
    pub fn send_notified(
        &self,
        memory: impl IntoIterator<Item = Bytes>,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        if let Some(error) = self.reactor.failure() {
            return Err(error);
        }
        let pending: PendingSend<'_> = self.ledger.open(memory);
        let result = call();
        match &result {
            Ok(bytes) => {
                pending.accepted(*bytes);
                add(&self.counters.sends_zero_copy, 1);
                add(&self.counters.zero_copy, *bytes as u64);
                self.reactor.watch();
            }
            Err(error) => {
                drop(pending);
                self.failed(error);
            }
        }
        result
    }

    fn failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.counters.would_block.fetch_add(1, Relaxed);
        }
    }

    /// A zero-copy send found no kernel memory (`ENOBUFS`).
    pub fn count_no_buffers(&self) {
        self.counters.no_buffers.fetch_add(1, Relaxed);
    }

    /// Zero-copy sends so far that found no kernel memory.
    #[must_use]
    pub fn no_buffers(&self) -> u64 {
        self.counters.no_buffers.load(Relaxed)
    }

    /// Notes why `mechanism` is not used now, `None` if it is. Changes are logged.
    pub fn note_refusal(&self, mechanism: Mechanism, refusal: Option<Refusal>) {
        let code = refusal.map_or(0, |r| r.index() as u8 + 1);
        let slot = &self.counters.refused[mechanism.index()];
        if slot.load(Relaxed) != code {
            slot.store(code, Relaxed);
            match refusal {
                Some(reason @ (Refusal::CopiedOnDelivery | Refusal::NoBuffers)) => {
                    tracing::info!(%mechanism, %reason, "mechanism stepped down");
                }
                Some(reason) => tracing::debug!(%mechanism, %reason, "mechanism refused"),
                None => tracing::debug!(%mechanism, "mechanism in use"),
            }
        }
    }

    /// True if `bytes` more may be pinned.
    #[must_use]
    pub fn pin_room(&self, bytes: usize) -> bool {
        self.ledger.pinned().saturating_add(bytes as u64) <= self.max_pinned
    }

    /// Notified sends so far, and how many of them the kernel copied on delivery.
    #[must_use]
    pub fn notified(&self) -> (u64, u64) {
        self.ledger.notified()
    }

    /// Ready if the socket may have become writable since `mark`.
    pub fn poll_writable(&self, cx: &mut Context<'_>, mark: u64) -> Poll<io::Result<()>> {
        self.reactor.poll_writable(cx, mark)
    }

    /// How far the stream has come. System calls flush as they accept.
    #[must_use]
    pub fn position(&self) -> Position {
        let accepted = self.ledger.accepted();
        Position { accepted, flushed: accepted, released: self.ledger.released().min(accepted) }
    }

    /// Ready when everything below `upto` is released.
    ///
    /// # Errors
    ///
    /// If what is waited for is in quarantine.
    pub fn poll_released(&self, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        self.ledger.poll_released(cx, upto)
    }

    /// Closes the sending direction. It is no error if the peer has closed the connection already.
    ///
    /// # Errors
    ///
    /// As `shutdown(2)`, and if the connection was revoked.
    pub fn shutdown(&self) -> io::Result<()> {
        match self.reactor.shutdown() {
            // Unless it was revoked: then accepted bytes are lost.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => self.reactor.failure().map_or(Ok(()), Err),
            result => result,
        }
    }

    /// Counters since the connection was made.
    #[must_use]
    pub fn stats(&self) -> SinkStats {
        let counters = &self.counters;
        let mut stats = SinkStats {
            bytes_zero_copy: counters.zero_copy.load(Relaxed),
            sends_zero_copy: counters.sends_zero_copy.load(Relaxed),
            sends_copied: counters.sends_copied.load(Relaxed),
            would_block: counters.would_block.load(Relaxed),
            no_buffers: counters.no_buffers.load(Relaxed),
            ..SinkStats::default()
        };
        for (to, from) in stats.copied.iter_mut().zip(&counters.copied) {
            *to = from.load(Relaxed);
        }
        stats.bytes_copied = stats.copied.iter().sum();
        for (to, from) in stats.refused.iter_mut().zip(&counters.refused) {
            *to = from.load(Relaxed).checked_sub(1).map(|index| Refusal::ALL[usize::from(index)]);
        }
        self.ledger.describe(&mut stats);
        stats
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reactor.linger();
    }
}
