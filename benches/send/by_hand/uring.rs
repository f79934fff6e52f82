//! The hand-written loop over io_uring: one send at a time, a look at the completions, and waiting if the result is not there.
#![expect(unsafe_code, reason = "submissions point to memory")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::Instant,
};

use io_uring::{IoUring, cqueue, opcode, types::Fd};

use super::room::Events;
use crate::{contender::Times, ends::Socket, store::Store};

/// `IORING_SEND_ZC_REPORT_USAGE`.
const REPORT_USAGE: u16 = 1 << 3;

struct Loop {
    ring: IoUring,
    events: Events,
    /// Bytes that are in the socket.
    sent: u64,
    /// Notifications that are to come.
    pinned: u64,
}

pub(super) fn run(socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    let fd = socket.as_fd().as_raw_fd();
    let ring = IoUring::builder().setup_cqsize(4096).build(64)?;
    let mut state = Loop { ring, events: Events::new()?, sent: 0, pinned: 0 };
    state.events.add_uring(state.ring_fd())?;
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | libc::MSG_EOR;
    let start = Instant::now();
    while state.sent < total {
        let bytes = store.lend()?;
        // The kernel sends all of it (MSG_WAITALL).
        let send = opcode::SendZc::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        let entry = send.flags(flags).zc_flags(REPORT_USAGE).build();
        // SAFETY: the store outlives this function, which returns when all is released.
        unsafe { state.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        state.ring.submit()?;
        while !state.look()? {
            state.wait()?;
        }
    }
    socket.shut_down()?;
    while state.pinned > 0 {
        state.wait()?;
        state.look()?;
    }
    Ok((start, Instant::now()))
}

impl Loop {
    /// Takes the completions that are there. True if the result of the send was among them.
    fn look(&mut self) -> io::Result<bool> {
        let mut over = false;
        for entry in self.ring.completion() {
            if cqueue::notif(entry.flags()) {
                self.pinned -= 1;
                continue;
            }
            over = true;
            self.pinned += u64::from(cqueue::more(entry.flags()));
            self.sent += u64::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))?;
        }
        if self.ring.submission().cq_overflow() {
            // Many notifications at once: the kernel keeps what did not fit until it is entered.
            self.ring.submit()?;
            return Ok(over || self.look()?);
        }
        Ok(over)
    }

    fn ring_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    fn wait(&self) -> io::Result<()> {
        self.events.wait_for_completions(self.ring_fd())
    }
}
