//! From a user's socket to a watched one.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    sync::Arc,
};

use rustix::net::{SocketAddrAny, SocketAddrUnix, getpeername, getsockname};
use zerosink_core::{SinkConfig, custody::Ledger, policy::Family};

use super::{WatchedSocket, current};
use crate::{auto::Address, handle::Handle, sys};

impl WatchedSocket {
    /// Takes a socket over from its user, to be watched in the current runtime.
    pub(crate) fn open(
        socket: impl TryInto<Handle, Error = io::Error>,
        config: &SinkConfig,
        ledger: &Arc<Ledger>,
    ) -> io::Result<(Arc<Self>, Family)> {
        let watch = current()?;
        let handle = socket.try_into()?;
        let family = sys::socket::connected_stream(handle.as_fd())?;
        if let (Family::Tcp, Some(bytes)) = (family, config.notsent_low_water) {
            sys::socket::set_notsent_low_water(handle.as_fd(), bytes)?;
        }
        Ok((watch.register(handle, family, config.release_timeout, Arc::clone(ledger)), family))
    }

    pub(crate) fn peer_addr(&self) -> io::Result<Address> {
        address(getpeername(self)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?)
    }

    pub(crate) fn local_addr(&self) -> io::Result<Address> {
        address(getsockname(self)?)
    }
}

fn address(any: SocketAddrAny) -> io::Result<Address> {
    if let Ok(ip) = std::net::SocketAddr::try_from(any.clone()) {
        return Ok(Address::Tcp(ip));
    }
    let unix = SocketAddrUnix::try_from(any)?;
    let path = unix.path_bytes().map(|bytes| OsStr::from_bytes(bytes).into());
    Ok(Address::Unix(path))
}
