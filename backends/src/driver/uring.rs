//! The io_uring of a runtime in its inner epoll.

use std::{
    any::Any,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::event::epoll;
use zerosink_core::Reactor;

use super::{Watch, WatchedSocket};
use crate::{
    io_uring::{Size, Uring},
    sys::uring::{How, Queues},
};

/// What epoll says when there are completions.
pub(super) const TOKEN: u64 = u64::MAX;

/// Room for the io_uring of a runtime. Sinks and sends that need it hold it, too.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Arc<Uring>>>);

impl Slot {
    fn get(&self) -> Option<Arc<Uring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watch {
    /// The io_uring of this runtime; opens it if there is none.
    fn uring(self: &Arc<Self>, size: Size, how: How) -> io::Result<Arc<Uring>> {
        let mut slot = self.uring.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uring) = &*slot {
            return Ok(Arc::clone(uring));
        }
        let uring = match Uring::open(self, size, how) {
            // The queues count as locked memory.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Uring::open(self, Size::SMALL, how)?,
            uring => uring?,
        };
        tracing::debug!("io_uring opened");
        *slot = Some(Arc::clone(&uring));
        Ok(uring)
    }

    /// Will watch for completions when it is asked to.
    pub(crate) fn add_uring(&self, queues: &Queues) -> io::Result<()> {
        Ok(epoll::add(self, queues, epoll::EventData::new_u64(TOKEN), epoll::EventFlags::ONESHOT)?)
    }

    /// Turns the io_uring once when there are completions, or if there are some already.
    pub(crate) fn expect_completions(&self, queues: &Queues) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        Ok(epoll::modify(self, queues, epoll::EventData::new_u64(TOKEN), flags)?)
    }

    /// Stops to watch for completions.
    pub(crate) fn remove_uring(&self, queues: &Queues) {
        if let Err(error) = epoll::delete(self, queues) {
            tracing::warn!(%error, "io_uring could not be taken out of the inner epoll");
        }
    }

    /// Takes in what has completed. `by_event` if epoll has said so, which it does once.
    pub(super) fn turn_uring(&self, by_event: bool) {
        if let Some(uring) = self.uring.get() {
            if by_event {
                uring.turn_by_event();
            } else {
                uring.turn();
            }
        }
    }

    /// Closes the io_uring if nobody has use for it. Called by the timer, so that short connections that follow each other
    /// closely share one.
    pub(super) fn close_idle_uring(&self) {
        let mut slot = self.uring.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = slot.take_if(|uring| Arc::strong_count(uring) == 1);
        drop(slot);
        if idle.is_some() {
            tracing::debug!("idle io_uring closed");
        }
    }
}

impl WatchedSocket {
    /// The watched socket behind a connection, if the connection is of this driver.
    pub(crate) fn of(reactor: &dyn Reactor) -> Option<Arc<Self>> {
        let socket = (reactor as &dyn Any).downcast_ref::<Self>()?;
        socket.watcher().socket(socket.token())
    }

    /// The io_uring of the runtime that watches this socket; opens it if there is none.
    pub(crate) fn uring(&self, size: Size, how: How) -> io::Result<Arc<Uring>> {
        self.watcher().uring(size, how)
    }

    /// There is room, or it is over: a send that waits for that goes on.
    pub(super) fn resume_uring(&self) {
        if self.takes_wish_for_room()
            && let Some(uring) = self.watcher().uring.get()
        {
            uring.resume(self);
        }
    }

    /// A sink or a send has no more use for the io_uring: the timer will see whether anybody has.
    pub(crate) fn leave_uring(&self) {
        self.watcher().arm();
    }
}
