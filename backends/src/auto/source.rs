//! The sockets that a sink can be made of.

use std::{io, sync::Arc};

use tokio::net;
use zerosink_core::{Connection, IntoSink, SinkConfig, custody::Ledger};

use super::AutoSink;
#[cfg(zerosink_linux)]
use crate::driver::Socket;
use crate::handle::Handle;
#[cfg(not(zerosink_linux))]
use crate::portable::Socket;

/// Marks the `IntoSink` implementations of this crate; see [`IntoSink`].
#[derive(Debug, Clone, Copy)]
pub enum By {}

/// A watched socket with its custody, and nothing attached yet.
pub(crate) fn connect(
    socket: impl TryInto<Handle, Error = io::Error>,
    config: &SinkConfig,
) -> io::Result<(Arc<Connection>, Arc<Socket>)> {
    let ledger = Arc::new(Ledger::default());
    let (socket, family) = Socket::open(socket, config, &ledger)?;
    let connection = Connection::new(Arc::clone(&socket) as _, ledger, family, config);
    Ok((Arc::new(connection), socket))
}

macro_rules! into_sink {
    ($($socket:ty),+ $(,)?) => {$(
        impl IntoSink<By> for $socket {
            type Sink = AutoSink;

            async fn into_sink(self, config: SinkConfig) -> io::Result<AutoSink> {
                let (connection, socket) = connect(self, &config)?;
                AutoSink::new(socket, connection, &config).await
            }
        }
    )+};
}

into_sink!(net::TcpStream, net::tcp::OwnedWriteHalf, std::net::TcpStream);

#[cfg(unix)]
into_sink!(net::UnixStream, net::unix::OwnedWriteHalf, std::os::unix::net::UnixStream);
