//! Who watches the sockets of a runtime and drops custody when the kernel lets go.
//!
//! A completion of `MSG_ZEROCOPY` raises `EPOLLERR`, which tokio takes for "write closed" and never forgets, so that a
//! full socket would spin. A socket that completions are awaited of is therefore in a private *inner epoll* as well, which alone
//! then says when there is room, and only that epoll is registered with tokio. Until then room is what tokio says, which spares a
//! turn of the inner epoll each time.
//!
//! [`Watch`] is the inner epoll and its sockets. While its runtime lives, the [`task`] drives it; when the runtime ends,
//! the process-wide [`reaper`] thread takes over what is still in custody.

mod open;
mod progress;
mod reaper;
mod socket;
mod task;
#[cfg(zerosink_uring)]
mod uring;
mod watch;

pub(crate) use socket::WatchedSocket as Socket;
pub(crate) use watch::Watch;

use self::{socket::WatchedSocket, task::current};
