//! The same system calls as zerosink's and its runtime's, and nothing else: no custody, no choice, no tasks.

mod room;
mod sendmsg;
mod splice;
mod uring;

use std::io;

use crate::{contender::Times, ends::Socket, store::Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `send` and `epoll_wait`.
    Copy,
    /// `sendmsg(MSG_ZEROCOPY)`, `epoll_wait` and `recvmsg(MSG_ERRQUEUE)`.
    Zerocopy,
    /// `io_uring_enter`, `epoll_ctl` and `epoll_wait`.
    IoUring,
    /// A look at what SIGPIPE does (`sigaction`), `vmsplice`, `splice` and `epoll_wait`.
    Splice,
    /// A look at what SIGPIPE does, `sendfile` and `epoll_wait`.
    Sendfile,
    /// As `Splice` with `SPLICE_F_GIFT`, and then `madvise(MADV_DONTNEED)` and `madvise(MADV_POPULATE_WRITE)`, as
    /// is the default for base pages.
    Gift,
}

/// Sends so many bytes and closes the sending direction. Returns when it began, and when everything was released.
pub(crate) fn run(how: How, socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    match how {
        How::Copy => sendmsg::run(socket, store, total),
        How::Zerocopy => sendmsg::run_zerocopy(socket, store, total),
        How::IoUring => uring::run(socket, store, total),
        How::Splice => splice::run(socket, store, total),
        How::Sendfile => splice::run_sendfile(socket, store, total),
        How::Gift => splice::run_gift(socket, store.chunk(), total),
    }
}
