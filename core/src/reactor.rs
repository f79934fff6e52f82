//! What a connection needs from whoever owns its socket and watches it.

use std::{
    any::Any,
    fmt, io,
    task::{Context, Poll},
};

/// One socket and the events on it. The driver of a runtime implements this; backends use it through
/// [`crate::Connection`].
///
/// A backend that needs more of its own driver (`zerosink-backends`: the io_uring of the runtime) asks by
/// `<dyn Any>::downcast_ref`, and refuses to attach to another's.
pub trait Reactor: Any + Send + Sync + fmt::Debug {
    /// Sends by copying. With `more`, the kernel may wait for the next send before it fills a packet (`MSG_MORE`).
    ///
    /// # Errors
    ///
    /// As `send(2)`; [`io::ErrorKind::WouldBlock`] if the socket is full; [`failure`](Self::failure) if there is one. Never raises
    /// `SIGPIPE`.
    fn write_vectored(&self, slices: &[io::IoSlice<'_>], more: bool) -> io::Result<usize>;

    /// A mark in the sequence of events. Take it before a system call that may answer `EAGAIN`.
    fn mark(&self) -> u64;

    /// Ready if the socket may have become writable since `mark`; otherwise the task is woken when it does.
    fn poll_writable(&self, cx: &mut Context<'_>, mark: u64) -> Poll<io::Result<()>>;

    /// Reads the release notifications that are there, at once and without waiting.
    fn reap(&self);

    /// Why the socket can no longer be sent on, if its owner has given it up: revoked, or the runtime has ended.
    fn failure(&self) -> Option<io::Error> {
        None
    }

    /// Memory is about to go into custody, or completions to be asked for: none is missed that comes from now on.
    ///
    /// # Errors
    ///
    /// If events cannot be watched (`epoll_ctl(2)`). Then nothing may go into custody.
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    /// Memory went into custody: from now on releases have to be watched for.
    fn watch(&self);

    /// A [queued](crate::Connection::queue) send came further: bytes of it are in the socket now, or its memory is released.
    /// Wakes the writer; a socket without a sink closes its sending direction when it has everything, and itself when
    /// everything is released.
    fn advanced(&self);

    /// Closes the sending direction: the peer reads end of file after what is in the socket.
    ///
    /// # Errors
    ///
    /// As `shutdown(2)`.
    fn shutdown(&self) -> io::Result<()>;

    /// The last sink is gone. The socket is kept until all custody is released, then closed.
    fn linger(&self);

    /// The socket, for system calls of a backend. Never close it, never read its error queue.
    #[cfg(unix)]
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_>;
}
