//! The process-wide thread that keeps custody after a runtime has ended. It starts on demand and ends when idle.
//!
//! It may be needed just when nothing is left: it makes one descriptor, and does without that.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Watch;

/// So often it looks at what cannot wake it.
const LOOKS_EVERY: Duration = Duration::from_millis(50);

static ORPHANAGE: Mutex<Orphanage> = Mutex::new(Orphanage { arrivals: Vec::new(), open: None });

/// What is to be looked after.
struct Orphanage {
    arrivals: Vec<Arc<Watch>>,
    /// Present exactly while the thread runs.
    open: Option<Doorbell>,
}

/// Wakes the thread for new arrivals. Without a descriptor for it, the thread looks for them from time to time.
type Doorbell = Option<Arc<OwnedFd>>;

fn lock() -> MutexGuard<'static, Orphanage> {
    ORPHANAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over a watch whose runtime has ended.
pub(super) fn adopt(watch: &Arc<Watch>) {
    let mut orphanage = lock();
    orphanage.arrivals.push(Arc::clone(watch));
    match &orphanage.open {
        Some(Some(doorbell)) => {
            // It can only fail when the counter is full: then the thread is awake anyway.
            rustix::io::write(doorbell, &1u64.to_ne_bytes()).ok();
        }
        Some(None) => {}
        None => {
            let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
            let doorbell = doorbell.inspect_err(|error| tracing::debug!(%error, "reaper without a doorbell")).ok();
            let bell = doorbell.clone();
            match std::thread::Builder::new().name("zerosink-reaper".into()).spawn(move || run(bell.as_deref())) {
                Ok(_detached) => orphanage.open = Some(doorbell),
                // The watch waits here with its sockets and their custody, for the next that comes: never released too early.
                Err(error) => tracing::error!(%error, "no reaper thread: memory in custody is not released for now"),
            }
        }
    }
}

/// A watch, and whether its epoll is of use.
struct Ward {
    watch: Arc<Watch>,
    wakes: bool,
}

fn run(doorbell: Option<&OwnedFd>) {
    let mut wards: Vec<Ward> = Vec::new();
    loop {
        let mut orphanage = lock();
        for watch in orphanage.arrivals.drain(..) {
            if !wards.iter().any(|ward| Arc::ptr_eq(&ward.watch, &watch)) {
                wards.push(Ward { watch, wakes: true });
            }
        }
        wards.retain(|ward| ward.watch.holds_custody());
        if wards.is_empty() {
            // Under the lock, so that the next arrival starts a new thread.
            orphanage.open = None;
            return;
        }
        drop(orphanage);

        for ward in &wards {
            // Before the look at the events, one of which is the timer's.
            ward.watch.arm();
        }
        wait(doorbell, &wards);
        for ward in &mut wards {
            let mut more = ward.wakes;
            while more {
                match ward.watch.turn() {
                    Ok(full) => more = full,
                    Err(error) => {
                        tracing::warn!(%error, "no events: the reaper looks by itself");
                        (ward.wakes, more) = (false, false);
                    }
                }
            }
            if !ward.wakes {
                ward.watch.sweep();
            }
        }
    }
}

/// Until something happens, or it is time to look.
fn wait(doorbell: Option<&OwnedFd>, wards: &[Ward]) {
    let waking = wards.iter().filter(|ward| ward.wakes).map(|ward| ward.watch.as_fd());
    let mut fds: Vec<_> =
        waking.chain(doorbell.map(|fd| fd.as_fd())).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let all = doorbell.is_some() && wards.iter().all(|ward| ward.wakes);
    let soon = Timespec { tv_sec: 0, tv_nsec: LOOKS_EVERY.as_nanos() as _ };
    if poll(&mut fds, if all { None } else { Some(&soon) }).is_err_and(|error| error != rustix::io::Errno::INTR) {
        // No memory for it: the same, without being woken.
        std::thread::sleep(LOOKS_EVERY);
    }
    if let Some(doorbell) = doorbell {
        rustix::io::read(doorbell, &mut [0; 8]).ok();
    }
}
