//! The build for hosts without zero-copy: tokio's own sockets, and every byte copied.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net;
use zerosink_core::{Reactor, SinkConfig, custody::Ledger, policy::Family};

use crate::{
    auto::Address,
    handle::{Handle, each},
    runtime,
};

/// The user's socket is all there is.
pub(crate) type Socket = Handle;

impl Socket {
    pub(crate) fn open(
        socket: impl TryInto<Self, Error = io::Error>,
        _config: &SinkConfig,
        _ledger: &Arc<Ledger>,
    ) -> io::Result<(Arc<Self>, Family)> {
        runtime::current()?;
        let socket = socket.try_into()?;
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

    pub(crate) const fn handle(&self) -> &Self {
        self
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
        self.poll_write_ready(cx)
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
        std::os::fd::AsFd::as_fd(self)
    }
}
