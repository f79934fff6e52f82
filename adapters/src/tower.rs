//! Sinks behind tower's `Service`, so that time-outs, limits and retries apply to making them.
//!
//! [`MakeSink`] is a layer's inner service like any other. A socket cannot be had twice, though, so to try again means to connect
//! again: put the retry around both.
//!
//! ```
//! use std::{net::SocketAddr, time::Duration};
//!
//! use tokio::net::TcpStream;
//! use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};
//! use zerosink_adapters::tower::MakeSink;
//! use zerosink_core::SinkConfig;
//! # async fn connect(address: SocketAddr) -> Result<(), tower::BoxError> {
//!
//! let make = MakeSink::<zerosink_backends::By>::new(SinkConfig::new());
//! let mut connect = ServiceBuilder::new()
//!     .concurrency_limit(16)
//!     .timeout(Duration::from_secs(5))
//!     // .retry(policy): the request is an address, which can be cloned
//!     .service(service_fn(TcpStream::connect::<SocketAddr>).and_then(move |socket| make.clone().oneshot(socket)));
//! let sink = connect.ready().await?.call(address).await?;
//! # drop(sink);
//! # Ok(())
//! # }
//! ```

use std::{
    future::Future,
    io,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;
use zerosink_core::{IntoSink, SinkConfig, ZeroCopySink};

/// Makes a sink of each socket it is called with.
#[derive(Debug)]
pub struct MakeSink<By> {
    config: SinkConfig,
    by: PhantomData<fn() -> By>,
}

impl<By> MakeSink<By> {
    /// Every sink is made with `config`.
    #[must_use]
    pub const fn new(config: SinkConfig) -> Self {
        Self { config, by: PhantomData }
    }
}

impl<By> Clone for MakeSink<By> {
    fn clone(&self) -> Self {
        Self::new(self.config.clone())
    }
}

impl<By, S> Service<S> for MakeSink<By>
where
    S: IntoSink<By, Sink: Unpin + 'static> + Send + 'static,
    By: 'static,
{
    type Response = Box<dyn ZeroCopySink + Unpin>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    /// Always ready: making a sink waits for nobody.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, socket: S) -> Self::Future {
        let config = self.config.clone();
        Box::pin(async move { Ok(Box::new(socket.into_sink(config).await?) as _) })
    }
}
