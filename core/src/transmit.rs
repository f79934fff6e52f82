//! The part of a sink that differs from mechanism to mechanism.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{Connection, Mechanism, Path, ReleaseError, SendError, SendQueue, SinkStats, ZeroCopySink, sink::Position};

/// What a mechanism has to say about sending; the [`Connection`] knows the rest.
///
/// [`Connection::sink`] makes a [`ZeroCopySink`] of it.
pub trait Transmit: Send + Unpin + fmt::Debug {
    /// Which mechanism this is.
    fn mechanism(&self) -> Mechanism;

    /// As [`ZeroCopySink::poll_send`].
    ///
    /// # Errors
    ///
    /// As [`ZeroCopySink::poll_send`].
    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>>;

    /// Ready when everything accepted is in the socket. System calls flush as they accept: that is the default.
    ///
    /// # Errors
    ///
    /// As [`ZeroCopySink::poll_flush`].
    fn poll_flush(&mut self, _connection: &Connection, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }
}

impl Connection {
    /// A sink on this connection that sends by `transmit`.
    pub fn sink<T: Transmit + 'static>(self: &Arc<Self>, transmit: T) -> Box<dyn ZeroCopySink + Unpin> {
        Box::new(Attached { connection: Arc::clone(self), transmit })
    }
}

/// A mechanism on a connection.
#[derive(Debug)]
struct Attached<T> {
    connection: Arc<Connection>,
    transmit: T,
}

impl<T: Transmit> ZeroCopySink for Attached<T> {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let this = &mut *self;
        this.transmit.poll_send(&this.connection, cx, queue)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = &mut *self;
        this.transmit.poll_flush(&this.connection, cx)
    }

    fn position(&self) -> Position {
        self.connection.position()
    }

    fn poll_released(self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        self.connection.poll_released(cx, upto)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let failed = |error| SendError::new(self.transmit.mechanism(), "shutdown", error);
        Poll::Ready(self.connection.shutdown().map_err(failed))
    }

    fn mechanism(&self) -> Mechanism {
        self.transmit.mechanism()
    }

    fn path(&self) -> Path {
        self.connection.path()
    }

    fn stats(&self) -> SinkStats {
        self.connection.stats()
    }
}
