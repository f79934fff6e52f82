//! Calls on one socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::net::{self, SendAncillaryBuffer, SendFlags};
use tokio::io::ReadBuf;
use zerosink_core::policy::Family;

/// `send(2)`, or `sendmsg(2)` for several slices, by copying. Never blocks, never raises SIGPIPE.
pub(crate) fn send(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more;
    match slices {
        // Spares the kernel reading two structures.
        [slice] => Ok(net::send(fd, slice, flags)?),
        _ => send_with(fd, slices, flags),
    }
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

/// `recv(2)` into the unfilled part of `buffer`, which counts it. Never blocks; 0 is end of file. The rest of the buffer is not
/// touched: to initialize it would cost time with each read, and memory for as long as the buffer waits.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is written there but by `recv`, so what is initialized stays so.
    let unfilled = unsafe { buffer.unfilled_mut() };
    let ((received, _), _) = net::recv(fd, unfilled, net::RecvFlags::DONTWAIT)?;
    let bytes = received.len();
    // SAFETY: `received` is the beginning of the unfilled part, and `recv` has initialized it.
    unsafe { buffer.assume_init(bytes) };
    buffer.advance(bytes);
    Ok(bytes)
}

/// `setsockopt(SO_ZEROCOPY)`. ENOPROTOOPT before Linux 4.14, ENOTSUPP on sockets that do not know it.
pub(crate) fn set_zerocopy(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, (libc::SOL_SOCKET, libc::SO_ZEROCOPY), 1)
}

/// `setsockopt(SO_TIMESTAMPING)`: from now on the error queue tells when the last byte of a send is acknowledged
/// (`Documentation/networking/timestamping.rst`). `OPT_ID` keeps time-stamps of different sends apart, `OPT_TSONLY` keeps
/// the kernel from sending the data back with them.
pub(crate) fn request_acknowledgements(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_TX_ACK
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_ID
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    set_option(fd, (libc::SOL_SOCKET, libc::SO_TIMESTAMPING), flags as libc::c_int)
}

/// `setsockopt(TCP_NOTSENT_LOWAT)` (Linux 3.12).
pub(crate) fn set_notsent_low_water(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(fd, (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT), bytes)
}

fn set_option(fd: BorrowedFd<'_>, (level, option): (libc::c_int, libc::c_int), value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the fd is open for the call, and pointer and length describe `value`.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True if a TCP connection is over (`TCP_CLOSE`): reset, aborted, or closed and acknowledged on both sides. Unlike
/// `SO_ERROR`, asking clears nothing.
pub(crate) fn is_over(fd: BorrowedFd<'_>) -> bool {
    const TCP_CLOSE: u8 = 7;
    let mut state = 0u8;
    let mut length: libc::socklen_t = 1;
    // The state is the first byte of struct tcp_info; the kernel writes no more than is asked for.
    // SAFETY: the fd is open for the call, and pointer and length describe `state`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &raw mut length)
    };
    result == 0 && state == TCP_CLOSE
}

/// Bytes that the TCP peer has acknowledged (`tcpi_bytes_acked` of `TCP_INFO`, Linux 4.1), give or take the handshake; 0 if
/// that cannot be asked.
pub(crate) fn acknowledged(fd: BorrowedFd<'_>) -> u64 {
    /// Where it is in `struct tcp_info`, which ends there for this call.
    const OFFSET: usize = 120;
    let mut info = [0u8; OFFSET + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the fd is open for the call, and pointer and length describe `info`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    let (_, bytes) = info.split_at(OFFSET);
    match bytes.try_into() {
        Ok(bytes) if result == 0 => u64::from_ne_bytes(bytes),
        _ => 0,
    }
}

/// `SIOCOUTQ`. TCP: bytes that are written and not yet acknowledged. `AF_UNIX`: memory of the buffers that the reader has
/// not taken whole, which is never less than their bytes.
pub(crate) fn unreached(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the fd is open for the call; TIOCOUTQ (the same number as SIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes.max(0) as u64) } else { Err(io::Error::last_os_error()) }
}

/// True if a send would not find the socket full, or the connection is over. A `false` also has the kernel report the next room (`SOCK_NOSPACE`).
pub(crate) fn has_room(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        // Of a connection that is over, the send will tell. A message in the error queue (ERR) is no room.
        Ok(_) => fds[0].revents().intersects(PollFlags::OUT | PollFlags::HUP),
        Err(_) => true,
    }
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
