//! The error queue, where `MSG_ZEROCOPY` notifications and acknowledgement time-stamps arrive.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// From `include/uapi/linux/errqueue.h`; not in the libc crate.
const SO_EE_ORIGIN_TIMESTAMPING: u8 = 4;
const SCM_TSTAMP_ACK: u32 = 2;
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

/// What stands in the error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// A zero-copy notification.
    Notified(Notification),
    /// The peer acknowledged the last byte of some send. (Which one is not told: that an event may be lost makes it a
    /// reason to look, not an answer.)
    Acknowledged,
}

/// The kernel let go of the sends `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// It copied them on delivery after all (`SO_EE_CODE_ZEROCOPY_COPIED`).
    pub(crate) copied: bool,
}

/// Room for the control messages of one error: `sock_extended_err` plus the offender's address, and a time-stamp.
#[repr(align(8))]
struct Control([u8; 256]);

/// Reads what is in the error queue, without waiting, and calls `found` for each message that is ours. Others (ICMP
/// errors) are read and left out. Returns the number of messages.
pub(crate) fn drain(fd: BorrowedFd<'_>, mut found: impl FnMut(Message)) -> io::Result<usize> {
    let mut count = 0;
    loop {
        let mut control = Control([0; 256]);
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        // SAFETY: the fd is open for the call; `message` describes no data buffer and `control`, which outlives it.
        let result =
            unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(count),
                io::ErrorKind::Interrupted => continue,
                _ => Err(error),
            };
        }
        if message.msg_flags & libc::MSG_ERRQUEUE == 0 {
            // Not from an error queue: this kind of socket has none.
            return Ok(count);
        }
        count += 1;
        if let Some(message) = parse(&message) {
            found(message);
        }
    }
}

fn parse(message: &libc::msghdr) -> Option<Message> {
    // SAFETY: `message` was filled by recvmsg and its control buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: the CMSG_* functions return null or a header inside the control buffer.
    while let Some(cmsg) = unsafe { header.as_ref() } {
        let is_error = matches!(
            (cmsg.cmsg_level, cmsg.cmsg_type),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        );
        if is_error && cmsg.cmsg_len >= size_of::<libc::sock_extended_err>() {
            // SAFETY: the header is valid and the message's payload is at least a sock_extended_err.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: as above; the payload may be unaligned.
            let error: libc::sock_extended_err = unsafe { ptr::read_unaligned(data.cast()) };
            if error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && error.ee_errno == 0 {
                return Some(Message::Notified(Notification {
                    first: error.ee_info,
                    last: error.ee_data,
                    copied: error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED != 0,
                }));
            }
            if error.ee_origin == SO_EE_ORIGIN_TIMESTAMPING && error.ee_info == SCM_TSTAMP_ACK {
                return Some(Message::Acknowledged);
            }
        }
        // SAFETY: `message` and `header` are as at the top of the loop.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}
