//! The user's socket, and what tokio knows of it: whether there is something to read, and, as long as no memory was in custody, room.

use std::{
    io,
    task::{Context, Poll},
};

#[cfg(zerosink_linux)]
use tokio::io::Interest;
use tokio::{io::ReadBuf, net};

use crate::runtime;

/// A tokio socket, whole or its write half.
#[derive(Debug)]
pub(crate) enum Handle {
    Tcp(net::TcpStream),
    TcpHalf(net::tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(net::UnixStream),
    #[cfg(unix)]
    UnixHalf(net::unix::OwnedWriteHalf),
}

/// Evaluates the same expression with whichever stream it is.
macro_rules! each {
    ($handle:expr, $stream:ident => $body:expr) => {
        match $handle {
            $crate::handle::Handle::Tcp($stream) => $body,
            $crate::handle::Handle::TcpHalf(half) => {
                let $stream: &tokio::net::TcpStream = half.as_ref();
                $body
            }
            #[cfg(unix)]
            $crate::handle::Handle::Unix($stream) => $body,
            #[cfg(unix)]
            $crate::handle::Handle::UnixHalf(half) => {
                let $stream: &tokio::net::UnixStream = half.as_ref();
                $body
            }
        }
    };
}
#[cfg(not(zerosink_linux))]
pub(crate) use each;

/// Registers a socket with the current runtime: one of the standard library's, and on Linux one of tokio's again. That may be registered
/// with another runtime, which may have ended, or may not be running. A half stays with its runtime, for so does the other half; and in the
/// portable build each socket does, because there nothing is sent before the runtime has seen that there is room.
macro_rules! registered {
    ($($stream:ident, $half:ty, $std:ty => $whole:ident, $write_half:ident;)+) => {$(
        impl TryFrom<$std> for Handle {
            type Error = io::Error;

            fn try_from(stream: $std) -> io::Result<Self> {
                stream.set_nonblocking(true)?;
                runtime::register(|| net::$stream::from_std(stream)).map(Self::$whole)
            }
        }

        impl TryFrom<net::$stream> for Handle {
            type Error = io::Error;

            fn try_from(stream: net::$stream) -> io::Result<Self> {
                if cfg!(zerosink_linux) { stream.into_std()?.try_into() } else { Ok(Self::$whole(stream)) }
            }
        }

        impl TryFrom<$half> for Handle {
            type Error = io::Error;

            fn try_from(half: $half) -> io::Result<Self> {
                Ok(Self::$write_half(half))
            }
        }
    )+};
}

registered! {
    TcpStream, net::tcp::OwnedWriteHalf, std::net::TcpStream => Tcp, TcpHalf;
}

#[cfg(unix)]
registered! {
    UnixStream, net::unix::OwnedWriteHalf, std::os::unix::net::UnixStream => Unix, UnixHalf;
}

impl Handle {
    /// True if the reading side is elsewhere.
    const fn is_write_half(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::TcpHalf(_) => true,
            #[cfg(unix)]
            Self::Unix(_) => false,
            #[cfg(unix)]
            Self::UnixHalf(_) => true,
        }
    }

    /// An error if this cannot be read from.
    pub(crate) fn check_readable(&self) -> io::Result<()> {
        if self.is_write_half() {
            let why = "the sink was made of a write half: read from the OwnedReadHalf that belongs to it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(())
    }

    /// Ready if the socket may have room. It stays so until tokio is made to forget.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx))
    }

    /// Makes tokio forget that the socket has room, so that only what comes from now on counts. False if it did not think so.
    #[cfg(zerosink_linux)]
    pub(crate) fn forget_room(&self) -> bool {
        let mut had_room = false;
        let call = || -> io::Result<()> {
            had_room = true;
            Err(io::ErrorKind::WouldBlock.into())
        };
        // It has nothing to say but that it would block.
        drop(each!(self, stream => stream.try_io(Interest::WRITABLE, call)));
        had_room
    }

    /// Receives what there is, as `AsyncRead` has it.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_readable()?;
        loop {
            std::task::ready!(each!(self, stream => stream.poll_read_ready(cx)))?;
            match self.receive(buffer) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Touches no more of the buffer than it receives.
    #[cfg(zerosink_linux)]
    fn receive(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = buffer.remaining();
        let mut was_all = false;
        let call = || {
            let bytes = crate::sys::socket::receive(std::os::fd::AsFd::as_fd(self), buffer)?;
            // That was all there was, and what comes later raises an edge: with this answer tokio forgets, which spares the call that
            // would find nothing.
            was_all = 0 < bytes && bytes < room;
            if was_all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let result = each!(self, stream => stream.try_io(Interest::READABLE, call));
        if was_all { Ok(()) } else { result }
    }

    #[cfg(not(zerosink_linux))]
    fn receive(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let bytes = each!(self, stream => stream.try_read(buffer.initialize_unfilled()))?;
        buffer.advance(bytes);
        Ok(())
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Handle {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

#[cfg(all(test, zerosink_linux))]
mod tests {
    use std::{future::poll_fn, io::Write as _, mem::MaybeUninit, os::unix::net::UnixStream, pin::Pin};

    use tokio::io::{AsyncRead as _, ReadBuf};
    use zerosink_core::{IntoSink as _, SinkConfig};

    /// hyper reads into 8 KiB that it keeps as long as the connection is idle: untouched pages cost nothing.
    #[tokio::test]
    async fn a_read_touches_no_more_than_it_received() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut sink = near.into_sink(SinkConfig::new()).await.unwrap();
        let mut memory = [MaybeUninit::uninit(); 8 << 10];
        for round in 1..100 {
            let mut buffer = ReadBuf::uninit(&mut memory);
            far.write_all(&[round; 5]).unwrap();
            poll_fn(|cx| Pin::new(&mut sink).poll_read(cx, &mut buffer)).await.unwrap();
            assert_eq!((buffer.filled(), buffer.initialized().len()), (&[round; 5][..], 5));
        }
        drop(far);
        let mut buffer = ReadBuf::uninit(&mut memory);
        poll_fn(|cx| Pin::new(&mut sink).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(buffer.initialized().len(), 0, "the end of the stream");
    }
}
