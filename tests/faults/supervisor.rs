//! System calls that fail on order.
//!
//! A seccomp filter hands chosen calls of one thread, and of those that it starts, to a supervisor (`seccomp_unotify(2)`), who lets
//! them go on, has them fail, or makes them himself for less. He is a thread of the same process: the caller's memory and
//! descriptors are his, too. So the library under test is the one that is shipped, down to its system calls.
#![expect(unsafe_code, reason = "seccomp")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::door::Door;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It fails, and does nothing.
    Fails(i32),
    /// It is made for less than was asked for.
    Short,
    /// It succeeds, and does nothing: 0.
    Nothing,
}

/// To which calls through a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// To this one, counted from 0.
    Only(usize),
    /// To this one and all later ones.
    From(usize),
}

impl Calls {
    const fn contain(self, index: usize) -> bool {
        match self {
            Self::Only(only) => index == only,
            Self::From(first) => index >= first,
        }
    }
}

/// What is to happen at one door, and how often calls came to each since that was said.
#[derive(Debug, Default)]
pub(crate) struct Script {
    order: Mutex<Option<(Door, Calls, Answer)>>,
    calls: [AtomicUsize; Door::ALL.len()],
    answered: AtomicUsize,
}

impl Script {
    /// From now on; `None` lets everything go on.
    pub(crate) fn order(&self, order: Option<(Door, Calls, Answer)>) {
        let mut current = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        *current = order;
        self.calls.iter().chain([&self.answered]).for_each(|count| count.store(0, SeqCst));
    }

    /// Lets everything go on, but keeps the counts.
    pub(crate) fn end(&self) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Calls that came to a door.
    pub(crate) fn calls(&self, door: Door) -> usize {
        self.calls[door as usize].load(SeqCst)
    }

    /// Calls that got the answer that was ordered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(SeqCst)
    }

    /// Allocates nothing, as [`Door::short`].
    fn answer(&self, call: &libc::seccomp_data) -> Option<Result<i64, i32>> {
        let door = Door::of(call.nr, &call.args)?;
        let index = self.calls[door as usize].fetch_add(1, SeqCst);
        let (at, calls, answer) = (*self.order.lock().unwrap_or_else(PoisonError::into_inner))?;
        if at != door || !calls.contain(index) {
            return None;
        }
        self.answered.fetch_add(1, SeqCst);
        Some(match answer {
            Answer::Fails(errno) => Err(errno),
            Answer::Short => door.short(&call.args),
            Answer::Nothing => Ok(0),
        })
    }

    /// Until nobody is left who could call.
    fn serve(&self, listener: &OwnedFd) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if fds[0].revents().contains(PollFlags::HUP) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // SAFETY: the struct is plain data for which all zeroes is valid, and the kernel insists on them.
            let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the request fills the struct, whose size it has in its number.
            let received =
                unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
            if received != 0 {
                // The caller was killed before anybody looked.
                continue;
            }
            let (val, error, flags) = match self.answer(&notification.data) {
                None => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
                Some(Ok(result)) => (result, 0, 0),
                Some(Err(errno)) => (0, -errno, 0),
            };
            let response = libc::seccomp_notif_resp { id: notification.id, val, error, flags };
            // It fails only if the caller was killed meanwhile.
            // SAFETY: the request reads the struct, whose size it has in its number.
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
        }
    }
}

/// Runs `body` on a thread of its own whose calls go through the script, as do those of threads that it starts. Returns when all of
/// these have ended.
///
/// # Errors
///
/// If this kernel has no such filters (Linux 5.19).
pub(crate) fn supervised<T: Send>(script: &Script, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    // With a place for what is sent: to allocate one might be a call that waits for the supervisor, who waits for this.
    let (installed, listener) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let filter = listen();
            let failed = filter.is_err();
            // The supervisor is at the other end.
            installed.send(filter).ok();
            drop(installed);
            (!failed).then(body)
        });
        let listener = listener.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
        script.serve(&listener)?;
        match thread.join() {
            Ok(value) => value.ok_or_else(|| io::Error::other("no filter")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// From now on, and for good, calls of this thread through any of the doors wait for the answer of whoever has this descriptor.
fn listen() -> io::Result<OwnedFd> {
    let line = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut numbers: Vec<_> = Door::ALL.iter().map(|door| door.number()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // The call's number is the first word of `struct seccomp_data`.
    let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (index, number) in numbers.iter().enumerate() {
        // To the last line.
        let lines = (numbers.len() - index) as u8;
        program.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *number as u32, lines, 0));
    }
    program.push(line(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(line(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Killable: a call that was answered is not interrupted by a signal and made again, which would have it done twice.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the call reads `program`, which outlives it.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as libc::c_int) })
}
