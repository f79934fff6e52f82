//! Sinks behind tower's `Service`, so that time-outs, limits and retries apply to making them.

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
