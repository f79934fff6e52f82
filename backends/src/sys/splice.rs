//! `pipe(2)`, `vmsplice(2)`, `splice(2)`, `sendfile(2)`, and what keeps them from raising SIGPIPE.

use std::{
    io::{self, IoSlice},
    marker::PhantomData,
    mem::{self, MaybeUninit},
    os::fd::{BorrowedFd, OwnedFd},
    ptr,
};

use rustix::pipe::{self, IoSliceRaw, PipeFlags, SpliceFlags};
use smallvec::SmallVec;

/// A pipe whose ends do not block.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
}

/// `fcntl(F_SETPIPE_SZ)`. EPERM beyond `fs.pipe-max-size` or `fs.pipe-user-pages-soft`.
pub(crate) fn set_pipe_bytes(pipe: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    Ok(pipe::fcntl_setpipe_size(pipe, bytes).map(drop)?)
}

/// `vmsplice(2)`: the pipe refers to the pages of `slices` from now on. Returns how many bytes found room.
///
/// (Not `unsafe`, as with `MSG_ZEROCOPY`: that a page is written while the kernel refers to it is a wrong byte on the wire,
/// which custody, replacement or immutability prevent, but no undefined behaviour of this process.)
pub(crate) fn vmsplice(pipe: BorrowedFd<'_>, slices: &[IoSlice<'_>], gift: bool) -> io::Result<usize> {
    let gift = if gift { SpliceFlags::GIFT } else { SpliceFlags::empty() };
    let raw: SmallVec<[IoSliceRaw<'_>; 8]> = slices.iter().map(|slice| IoSliceRaw::from_slice(slice)).collect();
    // SAFETY: the write end of a pipe: the kernel only reads the memory, and takes its own references to the pages, so they
    // stay allocated however long the pipe holds them.
    Ok(unsafe { pipe::vmsplice(pipe, &raw, gift | SpliceFlags::NONBLOCK) }?)
}

/// `splice(2)` from a pipe. The socket must not block by its own flags: for it `SPLICE_F_NONBLOCK` means nothing.
pub(crate) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize, more: bool) -> io::Result<usize> {
    let more = if more { SpliceFlags::MORE } else { SpliceFlags::empty() };
    Ok(pipe::splice(from, None, to, None, bytes, SpliceFlags::MOVE | SpliceFlags::NONBLOCK | more)?)
}

/// `sendfile(2)`: page cache, from `offset` on, into a socket that does not block.
pub(crate) fn sendfile(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = offset;
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), bytes)?)
}

/// While it lives, no SIGPIPE of this thread is delivered. `splice` and `sendfile` raise it on a closed socket and know no
/// `MSG_NOSIGNAL`.
///
/// Where SIGPIPE is ignored already, as the Rust runtime has it, that is one look. Elsewhere the signal is blocked for this
/// thread, and taken away if it was raised meanwhile (`pthread_sigmask(3)`, `sigtimedwait(2)`).
#[derive(Debug)]
pub(crate) struct NoSigpipe {
    /// The mask to go back to.
    blocked: Option<libc::sigset_t>,
    /// Masks are a thread's own: this is not `Send`.
    thread: PhantomData<*const ()>,
}

impl NoSigpipe {
    pub(crate) fn new() -> Self {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: without a new action the call only writes the present one.
        let asked = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
        // SAFETY: the call succeeded, so it has written the whole struct.
        if asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN {
            return Self::of(None);
        }
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the call writes the set.
        let known = unsafe { libc::sigpending(pending.as_mut_ptr()) } == 0;
        // SAFETY: written by the call before, if it succeeded.
        if known && unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) } == 1 {
            // Somebody else's, and therefore blocked already: it is not ours to take away.
            return Self::of(None);
        }
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are valid for the call, which concerns this thread only.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), before.as_mut_ptr()) } == 0;
        // SAFETY: written by the call, if it succeeded.
        Self::of(blocked.then(|| unsafe { before.assume_init() }))
    }

    const fn of(blocked: Option<libc::sigset_t>) -> Self {
        Self { blocked, thread: PhantomData }
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        let Some(before) = self.blocked else { return };
        // SAFETY: timespec is plain data for which all zeroes is valid.
        let now: libc::timespec = unsafe { mem::zeroed() };
        // SAFETY: the set and the time are valid; nothing is to be written.
        unsafe { libc::sigtimedwait(&sigpipe(), ptr::null_mut(), &raw const now) };
        // SAFETY: `before` is what `pthread_sigmask` gave on this thread, which the guard does not leave (it is not Send).
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    }
}

fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised, and the number is a signal's.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
