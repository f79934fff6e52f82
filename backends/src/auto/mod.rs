//! The sink that chooses: several mechanisms on one connection, a ladder per send, and reasons for every refusal.

mod address;
mod fairness;
mod ladder;
mod source;
mod split;

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use zerosink_core::{
    Backend, Connection, Mechanism, Path, ReleaseError, Segment, SendError, SendQueue, SinkConfig, SinkStats,
    ZeroCopySink, sink::Position,
};

pub use address::Address;
pub use source::By;
#[cfg(any(feature = "conformance", all(test, zerosink_uring)))]
pub(crate) use source::connect;
pub use split::AutoReadHalf;

use self::{
    fairness::Fairness,
    ladder::{Ladder, ShortCut},
};
#[cfg(zerosink_linux)]
use crate::driver::Socket;
#[cfg(not(zerosink_linux))]
use crate::portable::Socket;
use crate::{copy::poll_copy_front, path::Route};

/// The sink that `ZeroCopySink::auto(socket)` makes.
///
/// It also reads ([`AsyncRead`]), [splits](Self::into_split), and tells its addresses. Dropping it closes the sending
/// direction; memory in custody stays there until its release is proven, and the socket stays open as long.
///
/// Sends use up the budget of the task ([`tokio::task::coop`]), one unit for 64 KiB or four sends, so that a peer who always has
/// room does not keep the thread from its other tasks.
pub struct AutoSink {
    /// On the heap, so that the sink is small: it is a part of futures, which keep several places for it.
    ladder: Box<Ladder>,
    connection: Arc<Connection>,
    socket: Arc<Socket>,
    fairness: Fairness,
    short_cut: ShortCut,
}

impl AutoSink {
    async fn new(socket: Arc<Socket>, connection: Arc<Connection>, config: &SinkConfig) -> io::Result<Self> {
        let route = match (socket.local_addr(), socket.peer_addr()) {
            (Ok(local), Ok(peer)) => Route::of(&local, &peer),
            _ => Route::Device,
        };
        let mut ladder = Ladder::new(config, connection.family(), route);
        #[cfg(zerosink_linux)]
        {
            ladder.attach(&crate::splice::Splice, &connection, config).await;
            ladder.attach(&crate::splice::Gift, &connection, config).await;
            ladder.attach(&crate::msg_zerocopy::MsgZerocopy, &connection, config).await;
        }
        #[cfg(zerosink_uring)]
        ladder.attach(&crate::io_uring::IoUring, &connection, config).await;
        ladder.finish(&connection)?;
        Ok(Self {
            ladder: Box::new(ladder),
            connection,
            socket,
            fairness: Fairness::default(),
            short_cut: ShortCut::NONE,
        })
    }

    /// Attaches a backend of your own, when everything accepted before is in the socket. From then on its sink takes every
    /// send, borrowed segments too, and answers whatever a [`ZeroCopySink`] is asked.
    ///
    /// # Errors
    ///
    /// As [`Backend::attach`], and as [`poll_flush`](ZeroCopySink::poll_flush).
    pub async fn with_backend(mut self, backend: &dyn Backend, config: &SinkConfig) -> io::Result<Self> {
        poll_fn(|cx| self.ladder.poll_flush(cx)).await?;
        self.ladder.insist(backend, &self.connection, config).await?;
        self.short_cut = self.ladder.short_cut();
        Ok(self)
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// As `getpeername(2)`.
    pub fn peer_addr(&self) -> io::Result<Address> {
        self.socket.peer_addr()
    }

    /// The local address.
    ///
    /// # Errors
    ///
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.socket.local_addr()
    }

    /// Splits off the reading side, for another task.
    ///
    /// # Errors
    ///
    /// If this sink was made of a write half: its reading side is elsewhere already.
    pub fn into_split(self) -> io::Result<(AutoReadHalf, Self)> {
        Ok((AutoReadHalf::new(&self.socket)?, self))
    }
}

impl ZeroCopySink for AutoSink {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let this = &mut *self;
        ready!(this.fairness.poll_turn(cx));
        let sent = match queue.segments() {
            [Segment::Owned(bytes)] if bytes.len() < this.short_cut.below => {
                poll_copy_front(&this.connection, cx, queue, this.short_cut.reason)
            }
            _ => {
                let sent = this.ladder.poll_send(&this.connection, cx, queue);
                this.short_cut = this.ladder.short_cut();
                sent
            }
        };
        if let Poll::Ready(Ok(bytes)) = sent {
            this.fairness.count(bytes);
        }
        sent
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.ladder.poll_flush(cx)
    }

    fn position(&self) -> Position {
        self.ladder.own().map_or_else(|| self.connection.position(), |own| own.position())
    }

    fn poll_released(mut self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        match self.ladder.own_mut() {
            Some(own) => own.poll_released(cx, upto),
            None => self.connection.poll_released(cx, upto),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some(own) = self.ladder.own_mut() {
            return own.poll_close(cx);
        }
        ready!(self.as_mut().poll_flush(cx))?;
        let mechanism = self.mechanism();
        Poll::Ready(self.connection.shutdown().map_err(|error| SendError::new(mechanism, "shutdown", error)))
    }

    fn mechanism(&self) -> Mechanism {
        self.ladder.own().map_or_else(|| self.ladder.current(), |own| own.mechanism())
    }

    fn path(&self) -> Path {
        self.ladder.own().map_or_else(|| self.connection.path(), |own| own.path())
    }

    fn stats(&self) -> SinkStats {
        self.ladder.own().map_or_else(|| self.connection.stats(), |own| own.stats())
    }
}

impl AsyncRead for AutoSink {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket.handle().poll_receive(cx, buffer)
    }
}

impl fmt::Debug for AutoSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoSink")
            .field("mechanism", &self.mechanism())
            .field("path", &self.path())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
