//! Registering a descriptor with tokio.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::driver::{Socket, Watch};

/// What has one descriptor for its whole life.
pub(crate) trait OneFd: AsFd {}
impl OneFd for Socket {}
impl OneFd for Watch {}

/// Keeps the owner of a descriptor alive while tokio watches it.
#[derive(Debug)]
pub(crate) struct Shared<T>(pub(crate) Arc<T>);

impl<T: OneFd> AsRawFd for Shared<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers the descriptor with the current runtime, for reading.
pub(crate) fn readable<T: OneFd>(owner: &Arc<T>) -> io::Result<AsyncFd<Shared<T>>> {
    // SAFETY: `Shared` keeps the owner alive as long as the registration, and a `OneFd` neither closes nor changes its
    // descriptor before it is dropped (both implementations own it in a field that is never written).
    let registered = unsafe { AsyncFd::register_with_interest(Shared(Arc::clone(owner)), Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
