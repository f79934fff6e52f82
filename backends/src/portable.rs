//! The build for hosts without zero-copy: tokio's own sockets, and every byte copied.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, net};
use zerosink_core::{Reactor, SinkConfig, custody::Ledger, policy::Family};

use crate::{
    auto::{Address, Source},
    runtime,
};

/// A tokio socket, whole or its write half.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(net::TcpStream),
    TcpHalf(net::tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(net::UnixStream),
    #[cfg(unix)]
    UnixHalf(net::unix::OwnedWriteHalf),
}

/// Runs the same expression on whichever stream it is.
macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Socket::Tcp($stream) => $body,
            Socket::TcpHalf(half) => {
                let $stream: &net::TcpStream = half.as_ref();
                $body
            }
            #[cfg(unix)]
            Socket::Unix($stream) => $body,
            #[cfg(unix)]
            Socket::UnixHalf(half) => {
                let $stream: &net::UnixStream = half.as_ref();
                $body
            }
        }
    };
}

impl Socket {
    pub(crate) fn open(source: Source, _config: &SinkConfig, _ledger: &Arc<Ledger>) -> io::Result<(Arc<Self>, Family)> {
        runtime::current()?;
        let socket = match source {
            Source::Tcp(stream) => Self::Tcp(stream),
            Source::TcpHalf(half) => Self::TcpHalf(half),
            Source::StdTcp(stream) => {
                stream.set_nonblocking(true)?;
                Self::Tcp(runtime::register(|| net::TcpStream::from_std(stream))?)
            }
            #[cfg(unix)]
            Source::Unix(stream) => Self::Unix(stream),
            #[cfg(unix)]
            Source::UnixHalf(half) => Self::UnixHalf(half),
            #[cfg(unix)]
            Source::StdUnix(stream) => {
                stream.set_nonblocking(true)?;
                Self::Unix(runtime::register(|| net::UnixStream::from_std(stream))?)
            }
        };
        let family = match &socket {
            Self::Tcp(_) | Self::TcpHalf(_) => Family::Tcp,
            #[cfg(unix)]
            Self::Unix(_) | Self::UnixHalf(_) => Family::Unix,
        };
        socket.peer_addr().map_err(|error| {
            io::Error::new(
                error.kind(),
                "the socket is not connected: wait for connect to succeed before making a sink of it",
            )
        })?;
        Ok((Arc::new(socket), family))
    }

    pub(crate) fn peer_addr(&self) -> io::Result<Address> {
        each!(self, stream => stream.peer_addr().map(Address::from))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Address> {
        each!(self, stream => stream.local_addr().map(Address::from))
    }

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
}

#[cfg(unix)]
impl From<net::unix::SocketAddr> for Address {
    fn from(address: net::unix::SocketAddr) -> Self {
        Self::Unix(address.as_pathname().map(Into::into))
    }
}

impl Reactor for Socket {
    fn write_vectored(&self, slices: &[IoSlice<'_>], _more: bool) -> io::Result<usize> {
        each!(self, stream => stream.try_write_vectored(slices))
    }

    fn mark(&self) -> u64 {
        0
    }

    fn poll_writable(&self, cx: &mut Context<'_>, _mark: u64) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx))
    }

    fn reap(&self) {}

    fn watch(&self) {}

    /// No backend of this build queues sends.
    fn advanced(&self) {}

    fn shutdown(&self) -> io::Result<()> {
        each!(self, stream => socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write))
    }

    fn linger(&self) {
        // The read half may live on; the peer reads end of file now. An error means that it is closed already.
        drop(self.shutdown());
    }

    #[cfg(unix)]
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        each!(self, stream => std::os::fd::AsFd::as_fd(stream))
    }
}

/// The reading side.
pub(crate) struct Reader {
    socket: Arc<Socket>,
}

impl Reader {
    pub(crate) fn new(socket: &Arc<Socket>) -> io::Result<Self> {
        if socket.is_write_half() {
            let why = "the sink was made of a write half: read from the OwnedReadHalf that belongs to it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(Self { socket: Arc::clone(socket) })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            std::task::ready!(each!(&*self.socket, stream => stream.poll_read_ready(cx)))?;
            match each!(&*self.socket, stream => stream.try_read(buffer.initialize_unfilled())) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
