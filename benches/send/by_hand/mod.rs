//! The same system calls as zerosink's, and nothing else.

mod sendmsg;
mod splice;
mod uring;

use std::{io, os::fd::BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{contender::Times, ends::Socket, store::Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `send` and `poll`.
    Copy,
    /// `sendmsg(MSG_ZEROCOPY)`, `poll` and `recvmsg(MSG_ERRQUEUE)`.
    Zerocopy,
    /// `io_uring_enter` and `poll`.
    IoUring,
    /// `vmsplice`, `splice` and `poll`.
    Splice,
    /// `sendfile` and `poll`.
    Sendfile,
    /// `vmsplice(SPLICE_F_GIFT)`, `splice`, `poll`, and then `madvise(MADV_DONTNEED)` and `madvise(MADV_POPULATE_WRITE)`, as
    /// is the default for base pages.
    Gift,
}

/// Sends so many bytes and closes the sending direction. Returns when it began, and when everything was released.
pub(crate) fn run(how: How, socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    match how {
        How::Copy => sendmsg::run(socket, false, store, total),
        How::Zerocopy => sendmsg::run(socket, true, store, total),
        How::IoUring => uring::run(socket, store, total),
        How::Splice => splice::run(socket, store, total),
        How::Sendfile => splice::run_sendfile(socket, store, total),
        How::Gift => splice::run_gift(socket, store.chunk(), total),
    }
}

/// Waits until the socket has room.
fn wait_for_room(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    poll(&mut fds, None)?;
    Ok(())
}
