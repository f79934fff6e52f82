//! `send`, and `sendmsg` with `MSG_ZEROCOPY`.
#![expect(unsafe_code, reason = "the hand-written loop reads the error queue as C would")]

use std::{
    io::{self, IoSlice},
    mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr,
    time::Instant,
};

use rustix::{
    event::epoll::EventFlags,
    net::{SendAncillaryBuffer, SendFlags, send, sendmsg},
};

use super::room::{Events, Room};
use crate::{contender::Times, ends::Socket, store::Store};

pub(super) fn run(socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    let room = Room::new(socket.as_fd())?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        let mut rest = store.lend()?;
        sent += rest.len() as u64;
        while !rest.is_empty() {
            match send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) if bytes < rest.len() => {
                    rest = &rest[bytes..];
                    // A copy ends short where there is no more room.
                    room.wait()?;
                }
                Ok(_) => break,
                Err(rustix::io::Errno::AGAIN) => room.wait()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    socket.shut_down()?;
    Ok((start, Instant::now()))
}

pub(super) fn run_zerocopy(socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    let fd = socket.as_fd();
    let one: libc::c_int = 1;
    // SAFETY: the socket is open, and pointer and length describe `one`.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const one).cast(), 4) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    let events = Events::of_socket(fd)?;
    let start = Instant::now();
    let (mut sent, mut calls, mut released) = (0u64, 0u32, 0u32);
    while sent < total {
        let mut rest = store.lend()?;
        while !rest.is_empty() {
            match sendmsg(fd, &[IoSlice::new(rest)], &mut SendAncillaryBuffer::default(), flags) {
                Ok(bytes) => {
                    rest = &rest[bytes..];
                    sent += bytes as u64;
                    calls += 1;
                }
                Err(rustix::io::Errno::AGAIN) => wait(&events, fd, EventFlags::OUT, &mut released)?,
                Err(rustix::io::Errno::NOBUFS) => released += drain(fd)?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    socket.shut_down()?;
    while released < calls {
        wait(&events, fd, EventFlags::ERR, &mut released)?;
    }
    Ok((start, Instant::now()))
}

/// Waits for one of `flags`, and takes in what was released meanwhile.
fn wait(events: &Events, fd: BorrowedFd<'_>, flags: EventFlags, released: &mut u32) -> io::Result<()> {
    loop {
        let seen = events.wait()?;
        if seen.contains(EventFlags::ERR) {
            *released += drain(fd)?;
        }
        if seen.intersects(flags) {
            return Ok(());
        }
    }
}

/// Reads the error queue; returns how many sends it notifies.
fn drain(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut released = 0;
    loop {
        let mut control = [0u64; 16];
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the socket is open and `message` describes `control`, which outlives the call.
        if unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(released) } else { Err(error) };
        }
        // SAFETY: the call succeeded and `control` is alive.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if !header.is_null() {
            // SAFETY: the only message that this socket gets is IP_RECVERR with a sock_extended_err.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: as above; it may be unaligned.
            let error: libc::sock_extended_err = unsafe { ptr::read_unaligned(data.cast()) };
            released += error.ee_data - error.ee_info + 1;
        }
    }
}
