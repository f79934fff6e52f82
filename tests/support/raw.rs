//! Zero-copy by hand and without custody: what the negative controls are made of.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg},
    pipe::{SpliceFlags, pipe, splice},
};
use zerosink::{Mechanism, Path, Position, ReleaseError, SendError, SendQueue, SinkStats, ZeroCopySink};

/// `setsockopt(SO_ZEROCOPY)`.
pub(crate) fn set_zerocopy(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SO_ZEROCOPY, 1)
}

fn set_option(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no calls for these")]
    // SAFETY: the fd is open for the call, and pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `setsockopt(SO_TIMESTAMPING)`: the error queue gets a message for each send that is acknowledged.
pub(crate) fn ask_for_time_stamps(socket: &impl AsFd) -> io::Result<()> {
    let flags: libc::c_uint = libc::SOF_TIMESTAMPING_TX_ACK
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_ID
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    set_option(socket, libc::SO_TIMESTAMPING, flags as libc::c_int)
}

/// One `sendmsg(MSG_ZEROCOPY)`.
pub(crate) fn send_zerocopy(socket: &impl AsFd, data: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    Ok(sendmsg(socket, &[IoSlice::new(data)], &mut SendAncillaryBuffer::default(), flags)?)
}

/// Reads the error queue until it is empty, without a look at what it says. Returns the number of messages.
pub(crate) fn drain_error_queue(socket: &impl AsFd) -> usize {
    let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
    let mut no_data: [IoSliceMut<'_>; 0] = [];
    let mut count = 0;
    while recvmsg(socket, &mut no_data, &mut RecvAncillaryBuffer::default(), flags).is_ok() {
        count += 1;
    }
    count
}

/// How a [`HastySink`] sends.
pub(crate) enum How {
    MsgZerocopy,
    Splice { read: OwnedFd, write: OwnedFd },
}

/// The bug that this project is about: it takes *accepted* for *released*, and drops the lease when the call returns.
pub(crate) struct HastySink {
    socket: TcpStream,
    how: How,
    accepted: u64,
}

impl HastySink {
    pub(crate) fn by_msg_zerocopy(socket: TcpStream) -> io::Result<Self> {
        set_zerocopy(&socket)?;
        Ok(Self { socket, how: How::MsgZerocopy, accepted: 0 })
    }

    pub(crate) fn by_splice(socket: TcpStream) -> io::Result<Self> {
        let (read, write) = pipe()?;
        Ok(Self { socket, how: How::Splice { read, write }, accepted: 0 })
    }

    /// Blocks as long as the socket is full.
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        match &self.how {
            How::MsgZerocopy => {
                drain_error_queue(&self.socket);
                send_zerocopy(&self.socket, data)
            }
            How::Splice { read, write } => {
                #[expect(unsafe_code, reason = "vmsplice makes the kernel refer to memory")]
                // SAFETY: the kernel only reads, and ring memory stays mapped as long as the ring, which outlives the
                // connection in these tests. That it is rewritten meanwhile is the bug to be shown; it changes what the
                // peer reads, not what this process does.
                let piped = unsafe {
                    rustix::pipe::vmsplice(write, &[rustix::pipe::IoSliceRaw::from_slice(data)], SpliceFlags::NONBLOCK)
                }?;
                let mut left = piped;
                while left > 0 {
                    left -= splice(read, None, &self.socket, None, left, SpliceFlags::MOVE)?;
                }
                Ok(piped)
            }
        }
    }
}

impl ZeroCopySink for HastySink {
    fn poll_send(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let Some(front) = queue.segments().first() else { return Poll::Ready(Ok(0)) };
        let mechanism = self.mechanism();
        let sent = self.send(front.as_slice()).map_err(|error| SendError::new(mechanism, "send", error))?;
        self.accepted += sent as u64;
        queue.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn position(&self) -> Position {
        let mut position = Position::default();
        (position.accepted, position.flushed, position.released) = (self.accepted, self.accepted, self.accepted);
        position
    }

    fn poll_released(self: Pin<&mut Self>, _cx: &mut Context<'_>, _upto: u64) -> Poll<Result<(), ReleaseError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.socket.shutdown(std::net::Shutdown::Write).ok();
        Poll::Ready(Ok(()))
    }

    fn mechanism(&self) -> Mechanism {
        match self.how {
            How::MsgZerocopy => Mechanism::MsgZerocopy,
            How::Splice { .. } => Mechanism::Splice,
        }
    }

    fn path(&self) -> Path {
        Path::SameHost
    }

    fn stats(&self) -> SinkStats {
        SinkStats::default()
    }
}
