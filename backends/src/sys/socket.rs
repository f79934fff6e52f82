//! Calls on one socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::net::{self, SendAncillaryBuffer, SendFlags};
use zerosink_core::policy::Family;

/// `sendmsg(2)` by copying. Never blocks, never raises SIGPIPE.
pub(crate) fn send(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    send_with(fd, slices, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more)
}

/// `sendmsg(2)` with `MSG_ZEROCOPY`: the kernel refers to the pages until its notification.
///
/// The caller has the memory in custody. (Not `unsafe`: a kernel that reads freed memory is a leak to the peer and a
/// wrong byte, which the custody of `zerosink-core` prevents, but no undefined behaviour of this process.)
pub(crate) fn send_zerocopy(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // rustix has no name for it; the value is the kernel's own.
    let zerocopy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    send_with(fd, slices, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | zerocopy)
}

fn send_with(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    Ok(net::sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags)?)
}

/// `recv(2)`. Never blocks; 0 is end of file.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, bytes) = net::recv(fd, buffer, net::RecvFlags::DONTWAIT)?;
    Ok(bytes)
}

/// `setsockopt(SO_ZEROCOPY)`. ENOPROTOOPT before Linux 4.14, ENOTSUPP on sockets that do not know it.
pub(crate) fn set_zerocopy(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the fd is open for the call, and pointer and length describe `one`.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SIOCOUTQ`: TCP bytes that are written and not yet acknowledged.
pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the fd is open for the call; TIOCOUTQ (the same number as SIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes.max(0) as u64) } else { Err(io::Error::last_os_error()) }
}

/// `connect(2)` to `AF_UNSPEC`: aborts the TCP connection while the fd, and its error queue, stay open.
pub(crate) fn abort(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(net::connect_unspec(fd)?)
}

/// Which family a socket is of, or why no sink can be made of it.
pub(crate) fn connected_stream(fd: BorrowedFd<'_>) -> io::Result<Family> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if net::sockopt::socket_type(fd)? != net::SocketType::STREAM {
        return refuse("not a stream socket: zerosink sends on TCP and AF_UNIX stream sockets only");
    }
    if net::sockopt::socket_acceptconn(fd)? {
        return refuse("a listening socket: accept a connection and make the sink of that");
    }
    let family = match net::sockopt::socket_domain(fd)? {
        net::AddressFamily::INET | net::AddressFamily::INET6 => Family::Tcp,
        net::AddressFamily::UNIX => Family::Unix,
        _ => return refuse("neither TCP nor AF_UNIX: zerosink knows no other stream sockets"),
    };
    match net::getpeername(fd) {
        Ok(_) => Ok(family),
        Err(rustix::io::Errno::NOTCONN) => Err(io::Error::new(
            io::ErrorKind::NotConnected,
            "the socket is not connected: wait for connect to succeed before making a sink of it",
        )),
        Err(error) => Err(error.into()),
    }
}
