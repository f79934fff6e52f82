//! The process-wide thread that keeps custody after a runtime has ended. It starts on demand and ends when idle.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::Watch;

static ADOPTED: Mutex<Option<Orphanage>> = Mutex::new(None);

/// What the running thread looks after. Present exactly while the thread runs.
struct Orphanage {
    /// Wakes the thread for new arrivals.
    doorbell: Arc<OwnedFd>,
    arrivals: Vec<Arc<Watch>>,
}

/// Takes over a watch whose runtime has ended.
pub(super) fn adopt(watch: &Arc<Watch>) {
    let mut adopted = ADOPTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orphanage) = adopted.as_mut() {
        orphanage.arrivals.push(Arc::clone(watch));
        // It can only fail when the counter is full: then the thread is awake anyway.
        rustix::io::write(&*orphanage.doorbell, &1u64.to_ne_bytes()).ok();
        return;
    }
    let started = start(watch);
    match started {
        Ok(orphanage) => *adopted = Some(orphanage),
        Err(error) => {
            // The watch keeps its sockets and their custody for ever: leaked, never reused too early.
            tracing::error!(%error, "no reaper thread: memory in custody will not be released");
            drop(adopted);
            LEAKED.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(watch));
        }
    }
}

/// Watches that nobody can drive.
static LEAKED: Mutex<Vec<Arc<Watch>>> = Mutex::new(Vec::new());

fn start(watch: &Arc<Watch>) -> io::Result<Orphanage> {
    let doorbell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&outer, &doorbell, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN)?;
    let bell = Arc::clone(&doorbell);
    std::thread::Builder::new().name("zerosink-reaper".into()).spawn(move || run(&outer, &bell))?;
    Ok(Orphanage { doorbell, arrivals: vec![Arc::clone(watch)] })
}

fn run(outer: &OwnedFd, doorbell: &OwnedFd) {
    let mut watches: Vec<Arc<Watch>> = Vec::new();
    loop {
        let mut adopted = ADOPTED.lock().unwrap_or_else(PoisonError::into_inner);
        for watch in adopted.iter_mut().flat_map(|orphanage| orphanage.arrivals.drain(..)) {
            if watches.iter().any(|known| Arc::ptr_eq(known, &watch)) {
                continue;
            }
            match epoll::add(outer, &*watch, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
                Ok(()) => watches.push(watch),
                Err(error) => {
                    tracing::error!(%error, "memory in custody will not be released");
                    LEAKED.lock().unwrap_or_else(PoisonError::into_inner).push(watch);
                }
            }
        }
        watches.retain(|watch| {
            watch.holds_custody() || {
                epoll::delete(outer, &**watch).ok();
                false
            }
        });
        if watches.is_empty() {
            // Under the lock, so that the next arrival starts a new thread.
            *adopted = None;
            return;
        }
        drop(adopted);

        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 8];
        epoll::wait(outer, &mut events, None).ok();
        rustix::io::read(doorbell, &mut [0; 8]).ok();
        for watch in &watches {
            watch.arm();
            while watch.turn().is_ok_and(|more| more) {}
        }
    }
}
