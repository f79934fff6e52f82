//! Registering a descriptor with tokio.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::driver::Watch;

/// Keeps the owner of a descriptor alive while tokio watches it.
#[derive(Debug)]
pub(crate) struct Shared(pub(crate) Arc<Watch>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers an inner epoll with the current runtime.
pub(crate) fn readable(watch: &Arc<Watch>) -> io::Result<AsyncFd<Shared>> {
    // SAFETY: `Shared` keeps the owner alive as long as the registration, and a `Watch` neither closes nor changes its
    // descriptor before it is dropped (it owns it in a field that is never written).
    let registered = unsafe { AsyncFd::register_with_interest(Shared(Arc::clone(watch)), Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
