//! `axum::serve` on zero-copy streams.
//!
//! ```
//! use axum::{Router, routing::get};
//! use zerosink_adapters::axum::ZeroCopyListenerExt as _;
//! use zerosink_core::SinkConfig;
//!
//! # async {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?.zero_copy(SinkConfig::new());
//! axum::serve(listener, app).await
//! # };
//! ```

use std::{future::Future, io};

use axum::serve::{Listener, ListenerExt as _, TapIo};
use zerosink_core::SinkConfig;

use crate::{
    listener::{Accept, Duplex, ZeroCopyListener},
    stream::ZeroCopyStream,
};

/// What [`zero_copy`](ZeroCopyListenerExt::zero_copy) makes of the listener `L`.
///
/// axum tells the peer's address (`ConnectInfo<SocketAddr>`) of its own listeners and of tapped ones only, so it is tapped, by
/// a function that does nothing.
pub type Tapped<L, By> = TapIo<ZeroCopyListener<L, By>, fn(&mut Stream<L, By>)>;

/// The stream of a connection of the listener `L`.
pub type Stream<L, By> = ZeroCopyStream<<<L as Accept>::Socket as Duplex<By>>::Sink>;

/// Zero-copy listeners for `axum::serve`.
pub trait ZeroCopyListenerExt: Accept + Sized {
    /// Makes a sink with `config` of every connection, and of that the stream that axum writes to.
    ///
    /// `ConnectInfo`, `tap_io` before and after, and graceful shutdown work as on the listener itself.
    fn zero_copy<By>(self, config: SinkConfig) -> Tapped<Self, By>
    where
        Self::Socket: Duplex<By>,
        By: 'static,
    {
        ZeroCopyListener::new(self, config).tap_io(|_| {})
    }
}

impl<L: Accept> ZeroCopyListenerExt for L {}

impl<L, By> Listener for ZeroCopyListener<L, By>
where
    L: Accept<Socket: Duplex<By>>,
    By: 'static,
{
    type Io = Stream<L, By>;
    type Addr = L::Address;

    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send {
        Self::accept(self)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Self::local_addr(self)
    }
}

/// A listener that was tapped first, to set options on its sockets.
impl<L, F> Accept for TapIo<L, F>
where
    L: Listener<Addr: Clone + Send + Sync + 'static>,
    F: FnMut(&mut L::Io) + Send + 'static,
{
    type Socket = L::Io;
    type Address = L::Addr;

    async fn accept(&mut self) -> io::Result<(L::Io, L::Addr)> {
        Ok(Listener::accept(self).await)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        Listener::local_addr(self)
    }
}
