//! The sockets that a sink can be made of.

use std::{io, net as std_net, sync::Arc};

use tokio::net;
use zerosink_core::{Connection, IntoSink, SinkConfig, custody::Ledger};

use super::AutoSink;
#[cfg(zerosink_linux)]
use crate::driver::Socket;
#[cfg(not(zerosink_linux))]
use crate::portable::Socket;

/// Marks the `IntoSink` implementations of this crate; see [`IntoSink`].
#[derive(Debug, Clone, Copy)]
pub enum By {}

/// Any of them.
pub(crate) enum Source {
    Tcp(net::TcpStream),
    TcpHalf(net::tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(net::UnixStream),
    #[cfg(unix)]
    UnixHalf(net::unix::OwnedWriteHalf),
    StdTcp(std_net::TcpStream),
    #[cfg(unix)]
    StdUnix(std::os::unix::net::UnixStream),
}

/// A watched socket with its custody, and nothing attached yet.
pub(crate) fn connect(source: Source, config: &SinkConfig) -> io::Result<(Arc<Connection>, Arc<Socket>)> {
    let ledger = Arc::new(Ledger::default());
    let (socket, family) = Socket::open(source, config, &ledger)?;
    let connection = Connection::new(Arc::clone(&socket) as _, ledger, family, config);
    Ok((Arc::new(connection), socket))
}

async fn make(source: Source, config: SinkConfig) -> io::Result<AutoSink> {
    let (connection, socket) = connect(source, &config)?;
    AutoSink::new(socket, connection, &config).await
}

macro_rules! into_sink {
    ($($socket:ty => $variant:ident),+ $(,)?) => {$(
        impl IntoSink<By> for $socket {
            type Sink = AutoSink;

            fn into_sink(self, config: SinkConfig) -> impl Future<Output = io::Result<AutoSink>> + Send {
                make(Source::$variant(self), config)
            }
        }
    )+};
}

into_sink! {
    net::TcpStream => Tcp,
    net::tcp::OwnedWriteHalf => TcpHalf,
    std_net::TcpStream => StdTcp,
}

#[cfg(unix)]
into_sink! {
    net::UnixStream => Unix,
    net::unix::OwnedWriteHalf => UnixHalf,
    std::os::unix::net::UnixStream => StdUnix,
}
