//! Who is measured.
#![expect(unsafe_code, reason = "the hand-written loop reads the error queue as C would")]

use std::{
    fmt,
    io::{self, IoSlice, Read as _},
    mem,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    ptr, thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};
use tokio::io::AsyncWriteExt as _;
use zerosink::prelude::*;

use crate::uring;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// zerosink, forced to `copy`.
    Copy,
    /// zerosink, forced to `msg-zerocopy`.
    Zerocopy,
    /// `sendmsg` and `poll` by hand.
    RawCopy,
    /// `sendmsg(MSG_ZEROCOPY)`, `poll` and `recvmsg(MSG_ERRQUEUE)` by hand.
    RawZerocopy,
    /// zerosink, forced to `io-uring`.
    IoUring,
    /// `io_uring_enter` and `poll` by hand.
    RawIoUring,
    /// tokio's `write_all`.
    WriteAll,
}

impl Contender {
    pub(crate) const ALL: [Self; 7] =
        [Self::Copy, Self::RawCopy, Self::Zerocopy, Self::RawZerocopy, Self::IoUring, Self::RawIoUring, Self::WriteAll];

    /// False if this build does not have it.
    pub(crate) const fn is_built(self) -> bool {
        !matches!(self, Self::IoUring) || cfg!(zerosink_uring)
    }

    /// The time from the first send to the reader's end of file, with every byte counted by the reader.
    pub(crate) fn run(self, chunk: usize, total: u64) -> io::Result<Duration> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let (stream, _) = listener.accept()?;
        let reader = thread::spawn(move || count(stream));
        let block = Bytes::from(vec![0x5a; chunk]);
        let start = Instant::now();
        match self {
            Self::Copy => sink(socket, Mechanism::Copy, &block, total)?,
            Self::Zerocopy => sink(socket, Mechanism::MsgZerocopy, &block, total)?,
            Self::IoUring => sink(socket, Mechanism::IoUring, &block, total)?,
            Self::RawIoUring => uring::raw(&socket, &block, total).map(|()| drop(socket))?,
            Self::RawCopy => raw(&socket, false, &block, total).map(|()| drop(socket))?,
            Self::RawZerocopy => raw(&socket, true, &block, total).map(|()| drop(socket))?,
            Self::WriteAll => write_all(socket, &block, total)?,
        }
        let counted = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if counted == total {
            Ok(start.elapsed())
        } else {
            Err(io::Error::other(format!("{self}: {counted} of {total} bytes")))
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::Zerocopy => "msg-zerocopy",
            Self::IoUring => "io-uring",
            Self::RawIoUring => "SEND_ZC loop",
            Self::RawCopy => "sendmsg loop",
            Self::RawZerocopy => "MSG_ZEROCOPY loop",
            Self::WriteAll => "tokio write_all",
        })
    }
}

fn count(mut stream: TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

fn on_tokio(future: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn sink(socket: TcpStream, mechanism: Mechanism, block: &Bytes, total: u64) -> io::Result<()> {
    on_tokio(async {
        let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await?;
        for _ in 0..total / block.len() as u64 {
            sink.send(block.clone()).await?;
        }
        sink.close().await?;
        let end = sink.position().accepted;
        sink.released(end).await.map_err(io::Error::other)
    })
}

fn write_all(socket: TcpStream, block: &Bytes, total: u64) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    on_tokio(async {
        let mut stream = tokio::net::TcpStream::from_std(socket)?;
        for _ in 0..total / block.len() as u64 {
            stream.write_all(block).await?;
        }
        stream.shutdown().await
    })
}

fn raw(socket: &TcpStream, zerocopy: bool, block: &[u8], total: u64) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if zerocopy {
        let one: libc::c_int = 1;
        // SAFETY: the socket is open, and pointer and length describe `one`.
        let result = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const one).cast(), 4)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        flags |= SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    }
    let (mut sent, mut calls, mut released) = (0u64, 0u32, 0u32);
    while sent < total {
        let offset = (sent % block.len() as u64) as usize;
        match sendmsg(socket, &[IoSlice::new(&block[offset..])], &mut SendAncillaryBuffer::default(), flags) {
            Ok(bytes) => {
                sent += bytes as u64;
                calls += 1;
            }
            Err(rustix::io::Errno::AGAIN) => wait(socket, PollFlags::OUT, &mut released)?,
            Err(rustix::io::Errno::NOBUFS) => released += drain(socket)?,
            Err(error) => return Err(error.into()),
        }
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    while zerocopy && released < calls {
        wait(socket, PollFlags::empty(), &mut released)?;
    }
    Ok(())
}

fn wait(socket: &TcpStream, flags: PollFlags, released: &mut u32) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
        poll(&mut fds, None)?;
        let ready = fds[0].revents();
        if ready.contains(PollFlags::ERR) {
            *released += drain(socket)?;
        }
        if flags.is_empty() || ready.intersects(flags) {
            return Ok(());
        }
    }
}

/// Reads the error queue; returns how many sends it notifies.
fn drain(socket: &TcpStream) -> io::Result<u32> {
    let mut released = 0;
    loop {
        let mut control = [0u64; 16];
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the socket is open and `message` describes `control`, which outlives the call.
        if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) } < 0 {
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
