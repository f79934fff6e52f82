//! The system calls that a test makes fail.
#![expect(unsafe_code, reason = "makes system calls for others")]

use std::{io, ptr};

/// A kind of call, told by its number and, where one number does many things, an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `sendto`: copies.
    Send,
    /// `sendmsg` without `MSG_ZEROCOPY`: copies several slices.
    SendMany,
    /// `sendmsg` with `MSG_ZEROCOPY`.
    ZeroCopy,
    Vmsplice,
    Splice,
    Sendfile,
    /// `recvmsg` with `MSG_ERRQUEUE`.
    ErrorQueue,
    EpollCreate,
    EpollCtl,
    /// Of the inner epoll alone: tokio has another call.
    EpollWait,
    TimerCreate,
    TimerSet,
    /// `SIOCOUTQ`.
    SendQueue,
    /// `getsockopt` of `SOL_SOCKET`: what kind of socket it is.
    SocketKind,
    PeerName,
    /// `setsockopt(SO_ZEROCOPY)`.
    SetZeroCopy,
    /// `setsockopt(SO_TIMESTAMPING)`.
    SetTimestamping,
    Pipe,
    /// `fcntl(F_SETPIPE_SZ)`.
    PipeSize,
    Shutdown,
    /// `madvise(MADV_DONTNEED)`.
    DontNeed,
    /// `madvise(MADV_POPULATE_WRITE)`.
    Populate,
    /// `mmap` with `MAP_FIXED`.
    MapFixed,
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`.
    PunchHole,
    UringSetup,
    UringRegister,
    UringEnter,
}

/// What a call was made with.
pub(crate) type Arguments = [u64; 6];

impl Door {
    pub(crate) const ALL: [Self; 27] = [
        Self::Send,
        Self::SendMany,
        Self::ZeroCopy,
        Self::Vmsplice,
        Self::Splice,
        Self::Sendfile,
        Self::ErrorQueue,
        Self::EpollCreate,
        Self::EpollCtl,
        Self::EpollWait,
        Self::TimerCreate,
        Self::TimerSet,
        Self::SendQueue,
        Self::SocketKind,
        Self::PeerName,
        Self::SetZeroCopy,
        Self::SetTimestamping,
        Self::Pipe,
        Self::PipeSize,
        Self::Shutdown,
        Self::DontNeed,
        Self::Populate,
        Self::MapFixed,
        Self::PunchHole,
        Self::UringSetup,
        Self::UringRegister,
        Self::UringEnter,
    ];

    /// The call's number.
    pub(crate) const fn number(self) -> libc::c_long {
        match self {
            Self::Send => libc::SYS_sendto,
            Self::SendMany | Self::ZeroCopy => libc::SYS_sendmsg,
            Self::Vmsplice => libc::SYS_vmsplice,
            Self::Splice => libc::SYS_splice,
            Self::Sendfile => libc::SYS_sendfile,
            Self::ErrorQueue => libc::SYS_recvmsg,
            Self::EpollCreate => libc::SYS_epoll_create1,
            Self::EpollCtl => libc::SYS_epoll_ctl,
            Self::EpollWait => libc::SYS_epoll_pwait,
            Self::TimerCreate => libc::SYS_timerfd_create,
            Self::TimerSet => libc::SYS_timerfd_settime,
            Self::SendQueue => libc::SYS_ioctl,
            Self::SocketKind => libc::SYS_getsockopt,
            Self::PeerName => libc::SYS_getpeername,
            Self::SetZeroCopy | Self::SetTimestamping => libc::SYS_setsockopt,
            Self::Pipe => libc::SYS_pipe2,
            Self::PipeSize => libc::SYS_fcntl,
            Self::Shutdown => libc::SYS_shutdown,
            Self::DontNeed | Self::Populate => libc::SYS_madvise,
            Self::MapFixed => libc::SYS_mmap,
            Self::PunchHole => libc::SYS_fallocate,
            Self::UringSetup => libc::SYS_io_uring_setup,
            Self::UringRegister => libc::SYS_io_uring_register,
            Self::UringEnter => libc::SYS_io_uring_enter,
        }
    }

    /// Through which door a call with this number goes, if through one.
    pub(crate) fn of(number: libc::c_int, arguments: &Arguments) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.number() == libc::c_long::from(number) && door.has(arguments))
    }

    fn has(self, arguments: &Arguments) -> bool {
        let is = |index: usize, value: libc::c_int| arguments[index] as libc::c_int == value;
        let flag = |index: usize, flag: libc::c_int| arguments[index] as libc::c_int & flag != 0;
        match self {
            Self::ZeroCopy => flag(2, libc::MSG_ZEROCOPY),
            Self::SendMany => !flag(2, libc::MSG_ZEROCOPY),
            Self::ErrorQueue => flag(2, libc::MSG_ERRQUEUE),
            Self::SendQueue => is(1, libc::TIOCOUTQ as libc::c_int),
            Self::SocketKind => is(1, libc::SOL_SOCKET),
            Self::SetZeroCopy => is(1, libc::SOL_SOCKET) && is(2, libc::SO_ZEROCOPY),
            Self::SetTimestamping => is(1, libc::SOL_SOCKET) && is(2, libc::SO_TIMESTAMPING),
            Self::PipeSize => is(1, libc::F_SETPIPE_SZ),
            // Not the stack of a thread that ends.
            Self::DontNeed => is(2, libc::MADV_DONTNEED) && arguments[1] <= 128 << 10,
            Self::Populate => is(2, libc::MADV_POPULATE_WRITE),
            Self::MapFixed => flag(3, libc::MAP_FIXED),
            Self::PunchHole => flag(1, libc::FALLOC_FL_PUNCH_HOLE),
            _ => true,
        }
    }

    /// Makes the call for less than was asked for: about a third, on no boundary. `arguments` come from a thread of this process that
    /// waits in the call. Allocates nothing, for that thread may hold the allocator's locks.
    pub(crate) fn short(self, arguments: &Arguments) -> Result<i64, i32> {
        const SLICES: usize = 64;
        let third = |bytes: u64| bytes / 3 + 1;
        let [a, b, c, d, e, f] = *arguments;
        // A third of what these slices have.
        let fewer = |slices: *const libc::iovec, count: usize| {
            let mut copy = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SLICES];
            let count = count.min(SLICES);
            // SAFETY: the caller of the system call has described its own memory, which stays as it is while he waits.
            unsafe { ptr::copy_nonoverlapping(slices, copy.as_mut_ptr(), count) };
            let mut room = third(copy[..count].iter().map(|slice| slice.iov_len as u64).sum()) as usize;
            for slice in &mut copy[..count] {
                slice.iov_len = slice.iov_len.min(room);
                room -= slice.iov_len;
            }
            (copy, count)
        };
        let result = match self {
            // SAFETY: the same call as its caller wanted, with less of the same memory.
            Self::Send => unsafe { libc::syscall(self.number(), a, b, third(c), d, e, f) },
            Self::Splice => {
                // SAFETY: as above.
                unsafe { libc::syscall(self.number(), a, b, c, d, third(e), f) }
            }
            Self::Sendfile => {
                // SAFETY: as above.
                unsafe { libc::syscall(self.number(), a, b, c, third(d)) }
            }
            Self::Vmsplice => {
                let (slices, count) = fewer(b as *const libc::iovec, c as usize);
                // SAFETY: as above; the slices outlive the call.
                unsafe { libc::syscall(self.number(), a, slices.as_ptr(), count, d) }
            }
            Self::SendMany | Self::ZeroCopy => {
                // SAFETY: the caller of the system call has described its own message.
                let mut message = unsafe { ptr::read(b as *const libc::msghdr) };
                let (mut slices, count) = fewer(message.msg_iov, message.msg_iovlen as usize);
                (message.msg_iov, message.msg_iovlen) = (slices.as_mut_ptr(), count as _);
                // SAFETY: as above; the message and its slices outlive the call.
                unsafe { libc::syscall(self.number(), a, &raw const message, c) }
            }
            _ => return Err(libc::ENOSYS),
        };
        if result < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(result) }
    }
}

// The kernel's structures are the C library's.
const _: () = assert!(size_of::<libc::seccomp_notif>() == 80 && size_of::<libc::seccomp_notif_resp>() == 24);
