//! The driver task of one tokio runtime.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{io::unix::AsyncFd, runtime::Id};

use super::{Watch, reaper};
use crate::{
    runtime,
    sys::readable::{Shared, readable},
};

static DRIVERS: Mutex<Option<HashMap<Id, Arc<Watch>>>> = Mutex::new(None);

/// The watch of the current runtime; starts its driver task if there is none.
pub(crate) fn current() -> io::Result<Arc<Watch>> {
    let runtime = runtime::current()?;
    let mut drivers = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = drivers.get_or_insert_default();
    if let Some(watch) = known.get(&runtime.id()) {
        return Ok(Arc::clone(watch));
    }
    let watch = Arc::new(Watch::new()?);
    // Registered here, not in the task, so that whoever makes the sink learns of a failure.
    let epoll = runtime::register(|| readable(&watch))?;
    known.insert(runtime.id(), Arc::clone(&watch));
    let driver = Driver { epoll: Some(epoll), runtime: runtime.id() };
    // A runtime that is ending drops the task right here, and the driver's Drop takes this lock.
    drop(drivers);
    runtime.spawn(driver.run());
    Ok(watch)
}

struct Driver {
    /// `None` only while dropping.
    epoll: Option<AsyncFd<Shared>>,
    runtime: Id,
}

impl Driver {
    async fn run(self) {
        if let Err(error) = self.turns().await {
            tracing::error!(%error, "driver stopped; its sockets go to the reaper");
            if let Some(epoll) = &self.epoll {
                epoll.get_ref().0.fail(&error);
            }
        }
    }

    async fn turns(&self) -> io::Result<()> {
        let Some(epoll) = &self.epoll else { return Ok(()) };
        loop {
            let mut ready = epoll.readable().await?;
            // A bounded number of turns, so that a flood of completions cannot starve the other tasks.
            let mut turns = 0;
            while epoll.get_ref().0.turn()? && turns < 16 {
                turns += 1;
            }
            if turns < 16 {
                ready.clear_ready();
            } else {
                drop(ready);
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Drop for Driver {
    /// The runtime ends, or the driver failed: what is in custody goes to the reaper.
    fn drop(&mut self) {
        let Some(epoll) = self.epoll.take() else { return };
        let watch = epoll.into_inner().0;
        let mut drivers = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(drivers) = drivers.as_mut()
            && drivers.get(&self.runtime).is_some_and(|current| Arc::ptr_eq(current, &watch))
        {
            drivers.remove(&self.runtime);
        }
        drop(drivers);
        watch.orphan();
        if watch.holds_custody() {
            reaper::adopt(&watch);
        }
    }
}
