//! Listening sockets whose connections are zero-copy streams.

use std::{fmt, future::Future, io, marker::PhantomData, net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
};
use zerosink_core::{IntoSink, SinkConfig, ZeroCopySink};

use crate::stream::ZeroCopyStream;

/// The pause after an accept that failed for want of descriptors or memory; it doubles as long as they do.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Where connections come from: tokio's listeners, or one of your own.
pub trait Accept: Send + 'static {
    /// A connection, of which a sink can be made.
    type Socket: Send + 'static;
    /// The address of its peer.
    type Address: Clone + Send + Sync + 'static;

    /// The next connection. Cancelling loses none.
    ///
    /// # Errors
    ///
    /// As `accept(2)`. The next call may succeed.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Socket, Self::Address)>> + Send;

    /// The address that this listens on.
    ///
    /// # Errors
    ///
    /// As `getsockname(2)`.
    fn local_addr(&self) -> io::Result<Self::Address>;
}

impl Accept for TcpListener {
    type Socket = TcpStream;
    type Address = SocketAddr;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

#[cfg(unix)]
impl Accept for tokio::net::UnixListener {
    type Socket = tokio::net::UnixStream;
    type Address = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> io::Result<(Self::Socket, Self::Address)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<Self::Address> {
        Self::local_addr(self)
    }
}

/// A socket of which a sink can be made that also reads, as a web server needs it. `By` is the marker type of [`IntoSink`].
pub trait Duplex<By>: IntoSink<By, Sink = <Self as Duplex<By>>::Sink> + Send {
    /// The sink.
    type Sink: ZeroCopySink + AsyncRead + Unpin + Send + 'static;
}

impl<T, By> Duplex<By> for T
where
    T: IntoSink<By, Sink: ZeroCopySink + AsyncRead + Unpin + Send + 'static> + Send,
{
    type Sink = <T as IntoSink<By>>::Sink;
}

/// Accepts connections as zero-copy streams.
///
/// It does not end and reports no error: failures to accept, or to make a sink, are logged, and the next connection is awaited. When
/// descriptors or memory have run out it pauses, up to a second at a time.
pub struct ZeroCopyListener<L, By> {
    listener: L,
    config: SinkConfig,
    pause: Duration,
    by: PhantomData<fn() -> By>,
}

impl<L, By> ZeroCopyListener<L, By>
where
    L: Accept<Socket: Duplex<By>>,
{
    /// Makes a sink with `config` of every connection of `listener`.
    pub const fn new(listener: L, config: SinkConfig) -> Self {
        Self { listener, config, pause: PAUSE.0, by: PhantomData }
    }

    /// The next connection of which a sink could be made, and its peer. Cancelling loses a connection at most while its
    /// sink is being made.
    pub async fn accept(&mut self) -> (ZeroCopyStream<<L::Socket as Duplex<By>>::Sink>, L::Address) {
        loop {
            let (socket, peer) = self.accept_socket().await;
            if let Some(stream) = open(socket, self.config.clone()).await {
                return (stream, peer);
            }
        }
    }

    /// The next connection. Cancelling loses none.
    pub(crate) async fn accept_socket(&mut self) -> (L::Socket, L::Address) {
        loop {
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = PAUSE.0;
                    return connection;
                }
                Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "a connection was lost"),
                Err(error) => {
                    tracing::error!(%error, pause = ?self.pause, "no connection can be accepted");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    pub(crate) const fn config(&self) -> &SinkConfig {
        &self.config
    }

    /// The address that this listens on.
    ///
    /// # Errors
    ///
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<L::Address> {
        self.listener.local_addr()
    }
}

/// Makes the stream of a connection. A failure is logged, and the connection closed.
pub(crate) async fn open<T: Duplex<By>, By>(
    socket: T,
    config: SinkConfig,
) -> Option<ZeroCopyStream<<T as Duplex<By>>::Sink>> {
    match socket.into_sink(config).await {
        Ok(sink) => Some(ZeroCopyStream::new(sink)),
        Err(error) => {
            tracing::warn!(%error, "no sink could be made of a connection, which is closed");
            None
        }
    }
}

/// The peer was gone before its connection was accepted: the listener itself is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl<L: fmt::Debug, By> fmt::Debug for ZeroCopyListener<L, By> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroCopyListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}
