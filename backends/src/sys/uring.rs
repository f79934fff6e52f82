//! An io_uring that sends on stream sockets and does nothing else.
//!
//! See `io_uring_enter(2)`, and `IORING_OP_SEND_ZC` there.

use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr,
};

use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

/// From `include/uapi/linux/io_uring.h`; not in the io-uring crate.
const IORING_SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const IORING_NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

/// Pieces of memory of one send.
pub(crate) const MOST_SLICES: usize = 64;

/// How the kernel is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `IORING_OP_SEND_ZC` or `IORING_OP_SENDMSG_ZC`; with `report_usage` (Linux 6.2) the notification says whether the
    /// kernel copied after all.
    ZeroCopy { report_usage: bool },
    /// `IORING_OP_SEND` or `IORING_OP_SENDMSG`: there is no notification.
    Copy,
}

/// The addresses of several pieces of memory, as `sendmsg(2)` wants them. They stay in one place in their box.
pub(crate) struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; MOST_SLICES],
}

// SAFETY: the pointers are read by the kernel only; for this process they are numbers.
unsafe impl Send for Message {}

impl Message {
    /// Describes the first [`MOST_SLICES`] pieces.
    pub(crate) fn new(memory: &[Bytes]) -> Box<Self> {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let header = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Self { header, slices: [nothing; MOST_SLICES] });
        let mut count = 0;
        for (slice, piece) in message.slices.iter_mut().zip(memory) {
            *slice = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            count += 1;
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = count;
        message
    }
}

/// What is to be sent.
pub(crate) enum Payload<'a> {
    One(&'a [u8]),
    /// A part of a [registered](Queues::register) buffer.
    Registered(&'a [u8], u16),
    Many(&'a Message),
}

/// Something that the kernel says about a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// So many bytes are in the socket, or an error number. A notification follows only if this says so.
    Result { result: Result<usize, i32>, notification_follows: bool },
    /// The kernel let go of the memory; `copied` if it was asked and says that it copied.
    Notification { copied: bool },
}

/// The two queues that are shared with the kernel.
pub(crate) struct Queues {
    ring: IoUring,
    #[cfg(test)]
    pub(crate) overflows: u32,
}

impl Queues {
    /// `io_uring_setup(2)`, with room for so many submissions and completions (rounded up to powers of two).
    ///
    /// `EPERM` if `kernel.io_uring_disabled` or a seccomp filter forbids it, `ENOSYS` if the kernel or such a filter does not
    /// know it, `ENOMEM` where memory for it counts as locked, `EINVAL` before Linux 5.11.
    pub(crate) fn open(submissions: u32, completions: u32) -> io::Result<Self> {
        let ring = IoUring::builder().setup_cqsize(completions).build(submissions)?;
        // Without the one, completions are lost when their queue is full; without the other, what a submission points to
        // has to stay for as long as the kernel likes. Every kernel with SEND_ZC has both.
        if ring.params().is_feature_nodrop() && ring.params().is_feature_submit_stable() {
            Ok(Self {
                ring,
                #[cfg(test)]
                overflows: 0,
            })
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOSYS))
        }
    }

    /// Whether this kernel knows every operation that is used here (`IORING_REGISTER_PROBE`): Linux 6.1.
    pub(crate) fn knows_its_operations(&self) -> io::Result<bool> {
        let mut probe = io_uring::Probe::new();
        self.ring.submitter().register_probe(&mut probe)?;
        let used = [opcode::SendZc::CODE, opcode::SendMsgZc::CODE, opcode::Send::CODE, opcode::SendMsg::CODE];
        Ok(used.into_iter().all(|operation| probe.is_supported(operation)))
    }

    /// Makes room for so many registered buffers (`IORING_REGISTER_BUFFERS2`, Linux 5.19).
    pub(crate) fn open_buffers(&self, count: u32) -> io::Result<()> {
        self.ring.submitter().register_buffers_sparse(count)
    }

    /// Pins the pages under these addresses until [`unregister`](Self::unregister), as the buffer `index`. They have to be all of some
    /// memory that the process may write. A send from there goes on reading these pages whatever becomes of the addresses.
    ///
    /// `ENOMEM` if that is more than `RLIMIT_MEMLOCK` permits.
    pub(crate) fn register(&self, index: u16, addresses: &Range<usize>) -> io::Result<()> {
        let start = ptr::with_exposed_provenance_mut(addresses.start);
        self.update(index, libc::iovec { iov_base: start, iov_len: addresses.len() })
    }

    /// Lets go of the pages of a registered buffer, when the sends from it are released.
    pub(crate) fn unregister(&self, index: u16) -> io::Result<()> {
        self.update(index, libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 })
    }

    fn update(&self, index: u16, buffer: libc::iovec) -> io::Result<()> {
        // SAFETY: registering reads and writes nothing. What uses the buffer are sends, of which the kernel reads only: as with
        // `push`, what they read is the caller's care.
        unsafe { self.ring.submitter().register_buffers_update(index.into(), &[buffer], None) }
    }

    /// Queues a send, whose completions will carry `key`. It does not wait for room in the socket but is over when all of
    /// it is in there (`MSG_WAITALL`), or at an error. False if the queue is full: submit first.
    ///
    /// The caller keeps the descriptor open and the payload, and what a [`Message`] points to, alive until the result is
    /// there; and has the memory in custody until the notification. (Not `unsafe`: a kernel that reads freed memory is a leak
    /// to the peer and a wrong byte, but no undefined behaviour of this process.)
    pub(crate) fn push(&mut self, key: u64, fd: BorrowedFd<'_>, payload: &Payload<'_>, how: How) -> bool {
        // A send that is put into one packet with the one before has its notification linked to that one's, and all of such a
        // chain come when its last packet is gone: while the socket is never empty, never. MSG_EOR begins a packet for each.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | libc::MSG_EOR;
        let fd = Fd(fd.as_raw_fd());
        let usage = match how {
            How::ZeroCopy { report_usage: true } => IORING_SEND_ZC_REPORT_USAGE,
            _ => 0,
        };
        let entry: squeue::Entry = match (payload, how) {
            (Payload::One(memory), How::ZeroCopy { .. }) => {
                opcode::SendZc::new(fd, memory.as_ptr(), length(memory)).flags(flags).zc_flags(usage).build()
            }
            (Payload::Registered(memory, index), How::ZeroCopy { .. }) => {
                let send = opcode::SendZc::new(fd, memory.as_ptr(), length(memory)).buf_index(Some(*index));
                send.flags(flags).zc_flags(usage).build()
            }
            (Payload::One(memory) | Payload::Registered(memory, _), How::Copy) => {
                opcode::Send::new(fd, memory.as_ptr(), length(memory)).flags(flags).build()
            }
            (Payload::Many(message), How::ZeroCopy { .. }) => {
                opcode::SendMsgZc::new(fd, &raw const message.header).flags(flags as u32).ioprio(usage).build()
            }
            (Payload::Many(message), How::Copy) => {
                opcode::SendMsg::new(fd, &raw const message.header).flags(flags as u32).build()
            }
        };
        let entry = entry.user_data(key);
        let mut queue = self.ring.submission();
        // SAFETY: the entry is one of five sends, of which the kernel writes nothing into this process; what it reads is
        // alive, as the caller promises.
        unsafe { queue.push(&entry) }.is_ok()
    }

    /// Hands what is queued to the kernel, without waiting for any of it. Returns how many submissions the kernel took. Also
    /// makes it move completions that did not fit into their queue.
    pub(crate) fn submit(&self) -> io::Result<usize> {
        self.ring.submit()
    }

    /// True if completions wait for room in their queue: take some, and submit.
    pub(crate) fn overflowed(&mut self) -> bool {
        let overflowed = self.ring.submission().cq_overflow();
        #[cfg(test)]
        {
            self.overflows += u32::from(overflowed);
        }
        overflowed
    }

    /// True if there is nothing in the completion queue.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.ring.completion().is_empty()
    }

    /// Takes what is in the completion queue, without a system call.
    pub(crate) fn completions(&mut self, mut found: impl FnMut(u64, Completion)) {
        for entry in self.ring.completion() {
            found(entry.user_data(), parse(&entry));
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl AsFd for Queues {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor, and closes it only when it is dropped, which the borrow excludes.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// The kernel counts in 32 bits; a longer send is a short one, and its rest is queued again.
fn length(memory: &[u8]) -> u32 {
    const MOST: usize = 1 << 30;
    memory.len().min(MOST) as u32
}

fn parse(entry: &cqueue::Entry) -> Completion {
    if cqueue::notif(entry.flags()) {
        return Completion::Notification { copied: entry.result() as u32 & IORING_NOTIF_USAGE_ZC_COPIED != 0 };
    }
    let result = usize::try_from(entry.result()).map_err(|_negative| -entry.result());
    Completion::Result { result, notification_follows: cqueue::more(entry.flags()) }
}
