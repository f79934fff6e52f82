//! One socket, shared by the mechanisms that take turns on it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    Mechanism, Path, Proof, Reactor, Refusal, ReleaseError, SinkConfig, SinkStats, Trust,
    custody::{Completion, Ledger, Until},
    policy::Family,
    sink::Position,
};

/// One socket: write readiness, custody by stream offset, path and counters.
///
/// Backends attach to it and take turns. When the last sink drops it, socket and custody go on with the driver until
/// everything is released.
#[derive(Debug)]
#[repr(C)] // What every send touches comes first: few cache lines are fetched when the reader had the processor meanwhile.
pub struct Connection {
    reactor: Arc<dyn Reactor>,
    ledger: Arc<Ledger>,
    /// The mark before the last send.
    mark: AtomicU64,
    /// A call after that mark found the socket full.
    full: AtomicBool,
    path_is_fixed: bool,
    path: AtomicU8,
    family: Family,
    trust: Trust,
    counters: Counters,
    max_pinned: u64,
}

/// What is known about a [queued](Connection::queue) send when the call that queued it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// [`Connection::complete`] will say when its memory is released, or has said it.
    Held,
    /// Its memory is released already, all of it was sent, and [`Connection::complete`] is not called for it.
    Released {
        /// As in [`Connection::complete`].
        copied: Option<bool>,
    },
}

#[derive(Debug, Default)]
#[repr(C)] // As above.
struct Counters {
    sends_copied: AtomicU64,
    /// Bytes copied, by reason.
    copied: [AtomicU64; Refusal::ALL.len()],
    would_block: AtomicU64,
    /// Bytes accepted, by mechanism; those that were copied are counted by reason only.
    sent: [AtomicU64; Mechanism::ALL.len()],
    sends_zero_copy: AtomicU64,
    no_buffers: AtomicU64,
    setbacks: AtomicU64,
    last_setback: AtomicU8,
    /// 0: none; otherwise 1 + the index of the refusal.
    refused: [AtomicU8; Mechanism::ALL.len()],
}

/// Only the sender writes these, and sends take turns: a plain load and store, which costs less than an atomic addition.
#[inline(always)]
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
            trust: config.trust,
            max_pinned: config.max_pinned_bytes,
            path: AtomicU8::new(config.path.unwrap_or_default() as u8),
            path_is_fixed: config.path.is_some(),
            mark: AtomicU64::new(0),
            full: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// The kind of socket.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The user's word about the peer.
    #[must_use]
    pub const fn trust(&self) -> Trust {
        self.trust
    }

    /// Custody and stream offsets, for backends whose sends go on after the call.
    #[must_use]
    pub const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The socket and the events on it.
    #[must_use]
    #[inline]
    pub fn reactor(&self) -> &dyn Reactor {
        &*self.reactor
    }

    /// The socket, for system calls of a backend. Never close it, never read its error queue.
    #[cfg(unix)]
    #[must_use]
    #[inline]
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.reactor.as_fd()
    }

    /// Where the packets go, as far as is known.
    #[must_use]
    #[inline]
    pub fn path(&self) -> Path {
        Path::from_index(self.path.load(Relaxed))
    }

    /// What was observed about the path. A path that the user stated stays.
    pub fn observe_path(&self, path: Path) {
        if !self.path_is_fixed && Path::from_index(self.path.swap(path as u8, Relaxed)) != path {
            tracing::debug!(%path, "path changed");
        }
    }

    /// Whether a send may begin, as far as the socket's owner has a say.
    #[inline]
    fn may_begin(&self) -> io::Result<()> {
        self.reactor.failure().map_or_else(|| self.is_its_turn(), Err)
    }

    /// One that was queued and is not in the socket yet would be overtaken: then `WouldBlock`, and the writer is woken when it is.
    #[inline]
    fn is_its_turn(&self) -> io::Result<()> {
        if self.ledger.flushed() < self.ledger.accepted() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    /// Sends by copying, and accounts for it under `reason`. One send per connection may be under way at a time.
    ///
    /// # Errors
    ///
    /// As `send(2)`; `WouldBlock` if the socket is full, or a [queued](Self::queue) send is not in it yet.
    #[inline(always)]
    pub fn send_copy(&self, slices: &[io::IoSlice<'_>], more: bool, reason: Refusal) -> io::Result<usize> {
        self.is_its_turn()?;
        let result = self.reactor.write_vectored(slices, more);
        match &result {
            Ok(bytes) => {
                self.ledger.passed(*bytes);
                add(&self.counters.sends_copied, 1);
                add(&self.counters.copied[reason.index()], *bytes as u64);
                // A copy ends short where there is no more room, or at a failure that the next call reports.
                if *bytes < slices.iter().map(|slice| slice.len()).sum() {
                    self.found_full();
                }
            }
            Err(error) => self.failed(error),
        }
        result
    }

    /// Makes a send call by `mechanism` whose memory is released by `proof`. One send per connection may be under way at a
    /// time.
    ///
    /// What waits for a proof is in custody before `call` runs. [`Proof::Replaced`] and [`Proof::Immutable`] hold at once: the
    /// caller has looked at the memory's facts, and nothing is kept.
    ///
    /// # Errors
    ///
    /// What `call` answered; nothing is in custody then. Without a call: `PermissionDenied` for a peer's proof that the user
    /// did not permit, `WouldBlock` while a [queued](Self::queue) send is not in the socket yet, and what
    /// [`Reactor::prepare`] answered where memory would go into custody.
    pub fn send(
        &self,
        mechanism: Mechanism,
        proof: Proof,
        memory: impl IntoIterator<Item = Bytes>,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.may_begin()?;
        let until = match proof {
            Proof::Copied | Proof::Replaced | Proof::Immutable => None,
            Proof::Notified => Some(Until::Notified),
            Proof::Acked | Proof::Consumed if self.trust.permits(proof) => Some(Until::Reached),
            Proof::Acked | Proof::Consumed => {
                let why = format!("the user did not give his word for release by {proof}");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        };
        let pending = match until {
            Some(until) => {
                self.reactor.prepare()?;
                Some(self.ledger.open(until, memory))
            }
            None => None,
        };
        let result = call();
        match &result {
            Ok(bytes) => {
                match pending {
                    Some(pending) => {
                        pending.accepted(*bytes);
                        self.reactor.watch();
                    }
                    None => self.ledger.passed(*bytes),
                }
                self.count_zero_copy(mechanism, *bytes);
            }
            Err(error) => {
                drop(pending);
                self.failed(error);
            }
        }
        result
    }

    /// Queues a send that goes on after the call: `memory` is in custody, and `call` gets the number by which
    /// [`complete`](Self::complete) ends that, unless `call` itself can say that the memory is released. All bytes of `memory` are accepted if `call` succeeds; [`flush`](Self::flush)
    /// says when they are in the socket. No other send begins before.
    ///
    /// Whoever calls these two keeps the connection alive until then.
    ///
    /// # Errors
    ///
    /// What `call` answered; nothing is in custody then. Without a call: `WouldBlock` while another queued send is not in the
    /// socket yet, and what [`Reactor::prepare`] answered.
    pub fn queue(
        &self,
        mechanism: Mechanism,
        memory: impl IntoIterator<Item = Bytes>,
        bytes: usize,
        call: impl FnOnce(u64) -> io::Result<Queued>,
    ) -> io::Result<()> {
        self.may_begin()?;
        self.reactor.prepare()?;
        let pending = self.ledger.open(Until::Completed, memory);
        match call(pending.number()) {
            Ok(queued) => {
                match queued {
                    // The completion may have come already; custody keeps the entry until now.
                    Queued::Held => pending.queued(bytes),
                    Queued::Released { copied } => pending.released(bytes, copied),
                }
                self.count_zero_copy(mechanism, bytes);
                self.reactor.watch();
                Ok(())
            }
            Err(error) => {
                drop(pending);
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// `bytes` more of a [queued](Self::queue) send are in the socket. When all of them are, the next send may begin, and who
    /// waits for that in [`poll_writable`](Self::poll_writable) is woken.
    pub fn flush(&self, bytes: u64) {
        self.ledger.flush(bytes);
        self.reactor.advanced();
    }

    /// The memory of the [queued](Self::queue) send `number` is released: it leaves custody now. `copied` says whether the
    /// kernel copied it on delivery after all, which the path oracle counts; `None` if nobody knows.
    ///
    /// A send is released once. A second time is counted in [`SinkStats::strays`] and does nothing.
    pub fn complete(&self, number: u64, copied: Option<bool>) -> Completion {
        let completion = match copied {
            Some(copied) => self.ledger.complete(number, copied),
            None => self.ledger.complete_unreported(number),
        };
        self.reactor.advanced();
        completion
    }

    #[inline]
    fn count_zero_copy(&self, mechanism: Mechanism, bytes: usize) {
        add(&self.counters.sends_zero_copy, 1);
        add(&self.counters.sent[mechanism.index()], bytes as u64);
    }

    #[cold]
    fn failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.found_full();
        }
    }

    /// A call since the mark of [`poll_room`](Self::poll_room) found the socket full (`EAGAIN`), though the send that it was a part
    /// of took some bytes: the next send waits for room without a call. [`send`](Self::send) sees for itself that a call failed.
    #[cold]
    pub fn found_full(&self) {
        self.full.store(true, Relaxed);
        add(&self.counters.would_block, 1);
    }

    /// `bytes` of a queued send, which counted as sent by `mechanism`, were copied after all. Called by the sender.
    pub fn count_fallback(&self, mechanism: Mechanism, bytes: usize, reason: Refusal) {
        let sent = &self.counters.sent[mechanism.index()];
        sent.store(sent.load(Relaxed).saturating_sub(bytes as u64), Relaxed);
        add(&self.counters.sends_copied, 1);
        add(&self.counters.copied[reason.index()], bytes as u64);
    }

    /// The kernel did not do a zero-copy send, which is copied therefore: no memory (`ENOBUFS`), no descriptors, forbidden.
    pub fn count_setback(&self, reason: Refusal) {
        if reason == Refusal::NoBuffers {
            add(&self.counters.no_buffers, 1);
        }
        self.counters.last_setback.store(reason.index() as u8, Relaxed);
        add(&self.counters.setbacks, 1);
    }

    /// How many zero-copy sends the kernel did not do so far, and why not the last of them.
    #[must_use]
    #[inline]
    pub fn setbacks(&self) -> (u64, Refusal) {
        let last = self.counters.last_setback.load(Relaxed);
        (self.counters.setbacks.load(Relaxed), Refusal::ALL[usize::from(last)])
    }

    /// Notes why `mechanism` is not used now, `None` if it is. Changes are logged.
    pub fn note_refusal(&self, mechanism: Mechanism, refusal: Option<Refusal>) {
        let code = refusal.map_or(0, |r| r.index() as u8 + 1);
        let slot = &self.counters.refused[mechanism.index()];
        if slot.load(Relaxed) != code {
            slot.store(code, Relaxed);
            match refusal {
                Some(
                    reason @ (Refusal::CopiedOnDelivery
                    | Refusal::NoBuffers
                    | Refusal::NoDescriptors
                    | Refusal::Forbidden
                    | Refusal::NotInKernel),
                ) => {
                    tracing::info!(%mechanism, %reason, "mechanism stepped down");
                }
                Some(reason) => tracing::debug!(%mechanism, %reason, "mechanism refused"),
                None => tracing::debug!(%mechanism, "mechanism in use"),
            }
        }
    }

    /// True if `bytes` more may be pinned.
    #[must_use]
    #[inline]
    pub fn pin_room(&self, bytes: usize) -> bool {
        self.ledger.pinned().saturating_add(bytes as u64) <= self.max_pinned
    }

    /// Notified sends so far, and how many of them the kernel copied on delivery.
    #[must_use]
    #[inline]
    pub fn notified(&self) -> (u64, u64) {
        self.ledger.notified()
    }

    /// A mark for [`poll_writable`](Self::poll_writable), to be taken before a call that may find the socket full. Pending if the
    /// last send found it full and nothing has happened since: another would find the same.
    #[inline]
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let mut mark = self.reactor.mark();
        if self.full.load(Relaxed) {
            if self.mark.load(Relaxed) == mark {
                ready!(self.reactor.poll_writable(cx, mark))?;
                mark = self.reactor.mark();
            }
            self.full.store(false, Relaxed);
        }
        self.mark.store(mark, Relaxed);
        Poll::Ready(Ok(mark))
    }

    /// Ready if the socket may have become writable since `mark`.
    pub fn poll_writable(&self, cx: &mut Context<'_>, mark: u64) -> Poll<io::Result<()>> {
        self.reactor.poll_writable(cx, mark)
    }

    /// How far the stream has come.
    #[must_use]
    pub fn position(&self) -> Position {
        // In this order, so that each is at most the next.
        let released = self.ledger.released();
        let flushed = self.ledger.flushed();
        let accepted = self.ledger.accepted().max(flushed);
        Position { accepted, flushed, released: released.min(flushed) }
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
            sends_zero_copy: counters.sends_zero_copy.load(Relaxed),
            sends_copied: counters.sends_copied.load(Relaxed),
            would_block: counters.would_block.load(Relaxed),
            no_buffers: counters.no_buffers.load(Relaxed),
            ..SinkStats::default()
        };
        for (to, from) in stats.copied.iter_mut().zip(&counters.copied) {
            *to = from.load(Relaxed);
        }
        for (to, from) in stats.sent.iter_mut().zip(&counters.sent) {
            *to = from.load(Relaxed);
        }
        stats.sent[Mechanism::Copy.index()] += stats.copied.iter().sum::<u64>();
        stats.bytes_copied = stats.sent[Mechanism::Copy.index()];
        stats.bytes_zero_copy = stats.sent.iter().sum::<u64>() - stats.bytes_copied;
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
