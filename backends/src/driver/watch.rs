//! The inner epoll of one runtime, and the sockets in it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};
use zerosink_core::{Reactor as _, custody::Ledger, policy::Family};

use super::WatchedSocket;
use crate::handle::Handle;

const TIMER: u64 = 0;
/// Events of one `epoll_wait`.
const BATCH: usize = 64;
/// The timer looks at every socket that waits for its peer this often, or four times per release time-out if that is oftener.
const SLOWEST_TICK: Duration = Duration::from_millis(500);
const FASTEST_TICK: Duration = Duration::from_millis(5);

/// The inner epoll, its timer, and the sockets it watches.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: AtomicBool,
    tick_nanos: AtomicU64,
    next_token: AtomicU64,
    orphaned: AtomicBool,
    /// The error number at which its driver stopped; 0 if it did not.
    failed: AtomicI32,
    /// That deadlines cannot be watched was said.
    warned: AtomicBool,
    sockets: Mutex<HashMap<u64, Arc<WatchedSocket>>>,
    #[cfg(zerosink_uring)]
    pub(super) uring: super::uring::Slot,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            armed: AtomicBool::new(false),
            tick_nanos: AtomicU64::new(SLOWEST_TICK.as_nanos() as u64),
            next_token: AtomicU64::new(TIMER + 1),
            orphaned: AtomicBool::new(false),
            failed: AtomicI32::new(0),
            warned: AtomicBool::new(false),
            sockets: Mutex::default(),
            #[cfg(zerosink_uring)]
            uring: super::uring::Slot::default(),
        })
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, Arc<WatchedSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket with this token, if it is watched.
    #[cfg(zerosink_uring)]
    pub(super) fn socket(&self, token: u64) -> Option<Arc<WatchedSocket>> {
        self.sockets().get(&token).cloned()
    }

    /// Takes a socket in, whose deadlines are watched from now on.
    pub(crate) fn register(
        self: &Arc<Self>,
        handle: Handle,
        family: Family,
        timeout: Duration,
        ledger: Arc<Ledger>,
    ) -> Arc<WatchedSocket> {
        let token = self.next_token.fetch_add(1, SeqCst);
        let socket = Arc::new(WatchedSocket::new(handle, family, token, timeout, Arc::clone(self), ledger));
        let tick = (timeout / 4).clamp(FASTEST_TICK, SLOWEST_TICK);
        self.tick_nanos.fetch_min(tick.as_nanos() as u64, SeqCst);
        self.sockets().insert(token, Arc::clone(&socket));
        // If it has ended meanwhile, who told the others may not have seen this one.
        if self.is_orphaned() {
            socket.orphan();
        }
        socket
    }

    /// Watches its events from now on, beginning with what has happened already.
    pub(super) fn add(&self, socket: &WatchedSocket) -> io::Result<()> {
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(socket.token()), flags)?)
    }

    /// Stops to watch a socket and lets go of it: it is closed when nobody else holds it.
    pub(super) fn forget(&self, socket: &WatchedSocket) {
        let removed = self.sockets().remove(&socket.token());
        if removed.is_some()
            && socket.is_inside()
            && let Err(error) = epoll::delete(&self.epoll, socket)
        {
            tracing::warn!(%error, "socket could not be taken out of the inner epoll");
        }
    }

    /// Starts the timer unless it runs. It stops by itself when nothing waits for a peer.
    pub(super) fn arm(&self) {
        if !self.armed.load(SeqCst) && !self.armed.swap(true, SeqCst) {
            self.start_timer();
        }
    }

    fn start_timer(&self) {
        self.set_timer(Duration::from_nanos(self.tick_nanos.load(SeqCst)));
    }

    fn set_timer(&self, period: Duration) {
        let period = Timespec { tv_sec: period.as_secs() as _, tv_nsec: period.subsec_nanos() as _ };
        let spec = Itimerspec { it_interval: period, it_value: period };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            // The next send tries again.
            self.armed.store(false, SeqCst);
            if !self.warned.swap(true, SeqCst) {
                tracing::warn!(%error, "release deadlines cannot be watched");
            }
        }
    }

    /// Takes in at most one batch of events, without waiting. True if there may be more: a batch that is not full was
    /// the last, and what comes later raises a new edge.
    pub(super) fn turn(&self) -> io::Result<bool> {
        let mut events: [std::mem::MaybeUninit<epoll::Event>; BATCH] =
            [const { std::mem::MaybeUninit::uninit() }; BATCH];
        let (events, _) = match epoll::wait(&self.epoll, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for event in &*events {
            // The struct is packed on some targets: take copies.
            let (token, flags) = (event.data.u64(), event.flags);
            if token == TIMER {
                self.tick();
                continue;
            }
            #[cfg(zerosink_uring)]
            if token == super::uring::TOKEN {
                self.turn_uring(true);
                continue;
            }
            let socket = self.sockets().get(&token).cloned();
            if let Some(socket) = socket {
                socket.on_event(flags);
                if socket.is_done() {
                    self.forget(&socket);
                }
            }
        }
        Ok(events.len() == BATCH)
    }

    fn tick(&self) {
        let mut expirations = [0; 8];
        rustix::io::read(&self.timer, &mut expirations).ok();
        #[cfg(zerosink_uring)]
        {
            self.turn_uring(false);
            self.close_idle_uring();
        }
        self.armed.store(false, SeqCst);
        let waiting = self.waiting();
        if waiting.is_empty() {
            self.set_timer(Duration::ZERO);
            // A send may have armed it between the look and the stop.
            if self.armed.load(SeqCst) || !self.waiting().is_empty() {
                self.armed.store(true, SeqCst);
                self.start_timer();
            }
            return;
        }
        self.armed.store(true, SeqCst);
        // A socket with a shorter time-out may have come since the timer was started.
        self.start_timer();
        self.check_deadlines(waiting);
    }

    fn waiting(&self) -> Vec<Arc<WatchedSocket>> {
        self.sockets().values().filter(|socket| socket.waits_for_peer()).cloned().collect()
    }

    /// True if the kernel still holds memory of any socket here.
    pub(super) fn holds_custody(&self) -> bool {
        self.sockets().values().any(|socket| socket.holds_custody())
    }

    /// The driver stops for an error.
    pub(super) fn fail(&self, error: &io::Error) {
        self.failed.store(error.raw_os_error().unwrap_or(libc::EIO), SeqCst);
    }

    /// The error for which the driver stopped, if it did.
    pub(super) fn failure(&self) -> Option<io::Error> {
        match self.failed.load(SeqCst) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Looks at every socket that waits for its peer, as the timer has it done.
    pub(super) fn sweep(&self) {
        self.check_deadlines(self.waiting());
    }

    fn check_deadlines(&self, waiting: Vec<Arc<WatchedSocket>>) {
        let now = Instant::now();
        for socket in waiting {
            socket.check_deadline(now);
            if socket.is_done() {
                self.forget(&socket);
            }
        }
    }

    /// True once the runtime that drove this has ended.
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.load(SeqCst)
    }

    /// The runtime has ended: writers are told, and sockets without a sink and without custody are closed.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, SeqCst);
        let sockets: Vec<_> = self.sockets().values().cloned().collect();
        for socket in sockets {
            socket.orphan();
            socket.reap();
            if socket.is_done() {
                self.forget(&socket);
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
