//! Who watches the sockets of a runtime and drops custody when the kernel lets go.
//!
//! A completion of `MSG_ZEROCOPY` raises `EPOLLERR`, which tokio takes for "write closed" and never forgets, so that a
//! full socket would spin. The sockets are therefore in a private *inner epoll*, and only that is registered with tokio.
//!
//! [`Watch`] is the inner epoll and its sockets. While its runtime lives, the [`task`] drives it; when the runtime ends,
//! the process-wide [`reaper`] thread takes over what is still in custody.

mod open;
mod reader;
mod reaper;
mod socket;
mod task;
#[cfg(zerosink_uring)]
mod uring;
mod watch;

pub(crate) use reader::Reader;
pub(crate) use socket::WatchedSocket as Socket;
pub(crate) use watch::Watch;

use self::{
    socket::{Handle, WatchedSocket},
    task::current,
};
