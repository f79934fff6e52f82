//! One watched socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use rustix::event::epoll::EventFlags;
use zerosink_core::{Reactor, custody::Ledger, policy::Family};

use super::{
    Watch,
    progress::{Progress, Seen},
    reaper,
};
use crate::{
    handle::Handle,
    sys::{self, errqueue::Message},
};

/// The kernel has so long to let go of a revoked connection's memory.
const GRACE: Duration = Duration::from_millis(500);

/// One socket, as the driver of a runtime has it.
#[derive(Debug)]
#[repr(C)] // What every send touches comes first, then what every wait for room does.
pub(crate) struct WatchedSocket {
    handle: Handle,
    /// Counts events after which a write may succeed.
    events: AtomicU64,
    /// Nothing can be sent any more; [`describe_failure`](Self::describe_failure) says why.
    over: AtomicBool,
    /// It is in the inner epoll, as it must be before a completion can come.
    inside: AtomicBool,
    /// A writer waits for room. The timer notes since when.
    waits: AtomicBool,
    lingering: AtomicBool,
    /// The sending direction is closed.
    closed: AtomicBool,
    revoked: AtomicBool,
    given_up: AtomicBool,
    /// A send by io_uring waits for room.
    #[cfg(zerosink_uring)]
    wants_room: AtomicBool,
    watch: Arc<Watch>,
    writer: AtomicWaker,
    ledger: Arc<Ledger>,
    token: u64,
    timeout: Duration,
    progress: Mutex<Progress>,
    /// The error number of a send that was accepted and will never be in the socket; 0 if there is none.
    failed: AtomicI32,
    family: Family,
}

impl WatchedSocket {
    pub(super) fn new(
        handle: Handle,
        family: Family,
        token: u64,
        timeout: Duration,
        watch: Arc<Watch>,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            handle,
            family,
            token,
            timeout,
            watch,
            ledger,
            inside: AtomicBool::new(false),
            events: AtomicU64::new(0),
            over: AtomicBool::new(false),
            writer: AtomicWaker::new(),
            waits: AtomicBool::new(false),
            progress: Mutex::new(Progress::new()),
            lingering: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            #[cfg(zerosink_uring)]
            wants_room: AtomicBool::new(false),
            failed: AtomicI32::new(0),
        }
    }

    pub(super) const fn token(&self) -> u64 {
        self.token
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn is_inside(&self) -> bool {
        self.inside.load(SeqCst)
    }

    /// Goes into the inner epoll, for good. One task sends, so only one does this.
    fn enter(&self) -> io::Result<()> {
        if !self.is_inside() {
            self.watch.add(self)?;
            self.inside.store(true, SeqCst);
        }
        Ok(())
    }

    /// Ready if tokio has seen an event since it was last asked; pending too if only the inner epoll can tell.
    fn poll_room_by_tokio(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_inside() {
            return Poll::Pending;
        }
        match self.handle.poll_write_ready(cx) {
            Poll::Pending => return Poll::Pending,
            // Once for the event, and what tokio cannot forget is an error or a completion, which is no room: that would be the spin.
            Poll::Ready(Ok(())) if self.handle.forget_room() && !self.handle.forget_room() => {}
            // Or the runtime that it is registered with has ended, which need not be the one that drives it.
            Poll::Ready(_) => {
                self.enter()?;
                return Poll::Pending;
            }
        }
        self.events.fetch_add(1, SeqCst);
        Poll::Ready(Ok(()))
    }

    pub(super) fn holds_custody(&self) -> bool {
        !self.ledger.is_empty()
    }

    /// True if something waits for the peer: memory in custody, or a writer on a full socket.
    pub(super) fn waits_for_peer(&self) -> bool {
        self.holds_custody() || self.waits.load(SeqCst)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the sink is gone and the kernel has let go: the socket can be closed.
    pub(super) fn is_done(&self) -> bool {
        self.lingering.load(SeqCst) && self.ledger.is_empty()
    }

    /// Takes in what epoll reported.
    pub(super) fn on_event(&self, flags: EventFlags) {
        if flags.contains(EventFlags::ERR) {
            self.reap();
        }
        let hung_up = flags.contains(EventFlags::HUP);
        // A TCP peer's progress raises time-stamps; an AF_UNIX reader's only makes room. A FIN counts as a byte that is not
        // acknowledged, and has no time-stamp: when the peer has it, the state changes, which comes as OUT.
        let moved = self.family == Family::Unix || self.closed.load(SeqCst);
        if hung_up || (moved && flags.contains(EventFlags::OUT)) {
            self.look(true);
        }
        if hung_up {
            self.abandon_if_over();
        }
        // A bare ERR is a completion on a full socket: waking the writer for it would be the spin.
        if flags.contains(EventFlags::OUT) || hung_up {
            #[cfg(zerosink_uring)]
            self.resume_uring();
            self.wake_writer();
        }
    }

    /// Asks how far the peer is, and releases what it has. Nothing to do unless memory waits for that.
    fn look(&self, by_event: bool) {
        if self.ledger.reaching() == 0 {
            return;
        }
        if let Some(reached) = self.reached() {
            self.ledger.count_look(by_event);
            let bytes = self.ledger.reach(reached);
            tracing::trace!(reached, bytes, by_event, "looked how far the peer is");
        }
    }

    /// The stream offset below which the peer has everything, never too high; `None` if that cannot be known.
    fn reached(&self) -> Option<u64> {
        // Aborting a connection resets the kernel's counters: they are read before that or not at all.
        let _progress = self.progress();
        if self.revoked.load(SeqCst) {
            return None;
        }
        // In this order: what is sent between the two lines only makes the answer smaller.
        let flushed = self.ledger.flushed();
        let unreached = sys::socket::unreached(self.handle.as_fd()).ok()?;
        Some(flushed.saturating_sub(unreached))
    }

    /// After a reset the peer will never say that it has the rest, and the kernel's counters stay where they are.
    fn abandon_if_over(&self) {
        if self.family == Family::Tcp && self.ledger.reaching() > 0 && sys::socket::is_over(self.handle.as_fd()) {
            self.abandon("the connection was reset");
        }
    }

    /// The peer will never say that it has the rest.
    fn abandon(&self, why: &'static str) {
        let bytes = self.ledger.abandon();
        if bytes > 0 {
            tracing::warn!(why, bytes, "release cannot be proven: memory is replaced or put into quarantine");
        }
    }

    pub(super) fn wake_writer(&self) {
        self.waits.store(false, SeqCst);
        self.events.fetch_add(1, SeqCst);
        self.writer.wake();
    }

    /// An edge is reported once. If the call that it led to failed, or none will come because the kernel had no memory and not the
    /// socket no room, this is where it goes on.
    fn catch_up(&self, waits: bool) {
        if self.holds_custody() {
            self.reap();
        }
        if waits && sys::socket::has_room(self.handle.as_fd()) {
            self.wake_writer();
        }
    }

    /// Revokes the connection if nothing moved for the whole time-out. Called by the timer, while something waits for the
    /// peer.
    pub(super) fn check_deadline(&self, now: Instant) {
        let waits = self.waits.load(SeqCst);
        self.catch_up(waits);
        let oldest = self.ledger.oldest();
        if self.revoked.load(SeqCst) {
            if oldest.is_some() {
                self.give_up(now);
            }
            return;
        }
        if oldest.is_none() && !waits {
            return;
        }
        self.look(false);
        // A send that was under way when the reset was reported.
        self.abandon_if_over();
        let released = self.ledger.released();
        let reached = match self.family {
            // A queued send enters the socket bit by bit, and is flushed only when all of it is there.
            Family::Tcp => sys::socket::acknowledged(self.handle.as_fd()),
            _ => self.reached().unwrap_or(0),
        };
        let seen = Seen { released, reached, oldest, waits };
        if self.progress().has_ended(seen, now, self.timeout) {
            self.revoke();
        }
    }

    /// Aborts the connection with the fd still open, so that the kernel lets go and says so.
    fn revoke(&self) {
        {
            let mut progress = self.progress();
            self.revoked.store(true, SeqCst);
            self.over.store(true, SeqCst);
            progress.revoked();
        }
        let aborted = match self.family {
            // The peer may still read what is queued: its memory is replaced or quarantined, so it reads the right bytes.
            Family::Unix => rustix::net::shutdown(self.handle.as_fd(), rustix::net::Shutdown::Both).map_err(Into::into),
            _ => sys::socket::abort(self.handle.as_fd()),
        };
        self.reap();
        // Aborting proves nothing about spliced pages: what waits in a queueing discipline or device still leaves.
        self.abandon("the connection was revoked");
        tracing::warn!(
            no_progress_seconds = self.timeout.as_secs_f64(),
            pinned_bytes = self.ledger.pinned(),
            error = aborted.err().map(tracing::field::display),
            "connection revoked"
        );
        #[cfg(zerosink_uring)]
        self.resume_uring();
        self.wake_writer();
    }

    /// What the kernel does not let go of soon after a revoke is in quarantine until it does. Completions of io_uring are delivered
    /// by the thread that submitted, which may have to wait for a processor.
    fn give_up(&self, now: Instant) {
        // A send that was under way during the revoke.
        self.abandon("the connection was revoked");
        let revoked = self.progress().since();
        if now.saturating_duration_since(revoked) < GRACE {
            return;
        }
        if !self.ledger.is_empty() && !self.given_up.swap(true, SeqCst) {
            let bytes = self.ledger.quarantine();
            tracing::warn!(quarantined_bytes = bytes, "the kernel holds memory of a revoked connection");
        }
    }

    /// The runtime has ended, and nobody watches any more.
    pub(super) fn orphan(&self) {
        self.over.store(true, SeqCst);
        self.wake_writer();
    }

    /// Why nothing can be sent any more.
    #[cold]
    fn describe_failure(&self) -> io::Error {
        if self.revoked.load(SeqCst) {
            let why = format!(
                "the peer made no progress for {:?} while a write or memory in custody waited for it, so the connection was revoked",
                self.timeout
            );
            return io::Error::new(io::ErrorKind::TimedOut, why);
        }
        match self.failed.load(SeqCst) {
            0 => {}
            errno => return io::Error::from_raw_os_error(errno),
        }
        let why = match self.watch.failure() {
            Some(error) => format!("the driver of this sink has failed ({error}): make the connection anew"),
            None => "the tokio runtime that this sink was made in has ended: make the sink in the runtime that sends"
                .to_owned(),
        };
        io::Error::new(io::ErrorKind::NotConnected, why)
    }

    /// Everything accepted is in the socket now: what had to wait for that.
    pub(crate) fn after_flush(&self) {
        let all_flushed = || self.ledger.flushed() == self.ledger.accepted();
        if self.lingering.load(SeqCst) && !self.closed.load(SeqCst) && all_flushed() {
            // The peer reads end of file after it. An error means it is closed already.
            drop(self.shutdown());
        }
        self.wake_writer();
    }

    /// A send that was accepted failed: its bytes are missing in the stream, so nothing more can be sent.
    #[cfg(zerosink_uring)]
    pub(crate) fn fail(&self, errno: i32) {
        self.failed.store(errno, SeqCst);
        self.over.store(true, SeqCst);
        tracing::debug!(error = %io::Error::from_raw_os_error(errno), "a queued send failed");
    }

    /// Memory was released by somebody else than the driver: lets go of the socket if it was the last.
    pub(crate) fn after_release(&self) {
        if self.is_done() {
            self.watch.forget(self);
        }
    }

    /// The next event that may mean room is also for a send by io_uring.
    #[cfg(zerosink_uring)]
    pub(crate) fn want_room(&self, wanted: bool) {
        self.wants_room.store(wanted, SeqCst);
    }

    #[cfg(zerosink_uring)]
    pub(super) fn takes_wish_for_room(&self) -> bool {
        // Read first, for it is nearly always false.
        self.wants_room.load(SeqCst) && self.wants_room.swap(false, SeqCst)
    }

    #[cfg(zerosink_uring)]
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    #[cfg(zerosink_uring)]
    pub(super) const fn watcher(&self) -> &Arc<Watch> {
        &self.watch
    }
}

impl Reactor for WatchedSocket {
    fn write_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        if self.over.load(SeqCst) {
            return Err(self.describe_failure());
        }
        sys::socket::send(self.handle.as_fd(), slices, more)
    }

    fn mark(&self) -> u64 {
        self.events.load(SeqCst)
    }

    fn poll_writable(&self, cx: &mut Context<'_>, mark: u64) -> Poll<io::Result<()>> {
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        if self.events.load(SeqCst) != mark {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(result) = self.poll_room_by_tokio(cx) {
            self.waits.store(false, SeqCst);
            return Poll::Ready(result);
        }
        self.writer.register(cx.waker());
        self.waits.store(true, SeqCst);
        // An event, or the end of the runtime, between the look and the registration woke nobody.
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        if self.events.load(SeqCst) != mark {
            self.waits.store(false, SeqCst);
            return Poll::Ready(Ok(()));
        }
        // The deadline counts for a writer too: a peer that takes nothing keeps whatever waits behind the socket.
        self.watch.arm();
        Poll::Pending
    }

    fn reap(&self) {
        // AF_UNIX ignores MSG_ERRQUEUE: the call would read, and lose, what the peer sent. How far the peer is can be asked.
        if self.family != Family::Tcp {
            return self.look(false);
        }
        let mut acknowledged = false;
        let drained = sys::errqueue::drain(self.handle.as_fd(), |message| match message {
            Message::Notified(n) => {
                let completion = self.ledger.notify(n.first, n.last, n.copied);
                tracing::trace!(n.first, n.last, n.copied, completion.pinned, "released");
            }
            Message::Acknowledged => acknowledged = true,
        });
        if acknowledged {
            self.look(true);
        }
        if let Err(error) = drained {
            tracing::warn!(%error, "error queue could not be read");
        }
    }

    fn failure(&self) -> Option<io::Error> {
        self.over.load(SeqCst).then(|| self.describe_failure())
    }

    fn prepare(&self) -> io::Result<()> {
        self.enter()
    }

    fn watch(&self) {
        self.watch.arm();
        // The runtime may have ended during the send call.
        if self.watch.is_orphaned() {
            reaper::adopt(&self.watch);
        }
    }

    fn advanced(&self) {
        self.after_flush();
        self.after_release();
    }

    fn shutdown(&self) -> io::Result<()> {
        self.closed.store(true, SeqCst);
        Ok(rustix::net::shutdown(self.handle.as_fd(), rustix::net::Shutdown::Write)?)
    }

    fn linger(&self) {
        if self.is_inside() {
            self.reap();
        }
        self.lingering.store(true, SeqCst);
        // What was accepted still goes out, then the peer reads end of file.
        self.after_flush();
        if self.is_done() {
            self.watch.forget(self);
        } else {
            tracing::debug!(pinned_bytes = self.ledger.pinned(), family = ?self.family, "sink lingers");
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsFd for WatchedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
