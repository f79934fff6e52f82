//! A body that a future writes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use pin_project::pin_project;
use tokio::sync::mpsc;
use zerosink_core::{Ring, ring::Reserve};

use super::{BodyError, BodyRing, BoxError, Produce};

/// What a producer writes its body with. Clones write the same body; it ends when all of them are gone.
#[derive(Debug, Clone)]
pub struct BodyWriter {
    ring: Ring,
    pieces: mpsc::Sender<Bytes>,
}

impl BodyWriter {
    /// Waits for a contiguous piece of the ring of `bytes` bytes, within the body's budget.
    ///
    /// The budget counts grants and leases until they return to the ring, and so until the kernel has let go of them.
    /// Whoever holds as many as it has, and waits here for one more, waits for himself.
    ///
    /// # Errors
    ///
    /// As [`Ring::reserve`].
    pub fn reserve(&self, bytes: usize) -> Reserve {
        self.ring.reserve(bytes)
    }

    /// The handle that counts this body's leases.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Sends a piece: a lease, or any other [`Bytes`]. Waits while the one before has not been taken. Returns when it is the
    /// body's, which is before it is on the stream; an empty piece is left out. Cancel-safe: a dropped future has sent
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`BodyError::Gone`] if the body was dropped, in a writer that outlives it.
    pub async fn send(&self, piece: impl Into<Bytes>) -> Result<(), BodyError> {
        let piece = piece.into();
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.send(piece).await.map_err(|mpsc::error::SendError(_)| BodyError::Gone)
    }
}

#[pin_project]
pub(super) struct Producing<P, F> {
    start: Option<(P, BodyRing)>,
    #[pin]
    future: Option<F>,
    pieces: Option<mpsc::Receiver<Bytes>>,
    failed: Option<BodyError>,
}

impl<P, F> Producing<P, F> {
    pub(super) const fn new(ring: BodyRing, producer: P) -> Self {
        Self { start: Some((producer, ring)), future: None, pieces: None, failed: None }
    }
}

impl<P, F, E> Produce for Producing<P, F>
where
    P: FnOnce(BodyWriter) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    fn poll_piece(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _left: Option<u64>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut this = self.project();
        if let Some((producer, ring)) = this.start.take() {
            // One piece waits while the next is made.
            let (sender, receiver) = mpsc::channel(1);
            *this.pieces = Some(receiver);
            this.future.set(Some(producer(BodyWriter { ring: ring.lend(), pieces: sender })));
        }
        if let Some(future) = this.future.as_mut().as_pin_mut()
            && let Poll::Ready(outcome) = future.poll(cx)
        {
            this.future.set(None);
            *this.failed = outcome.err().map(|error| failure(error.into()));
        }
        let Some(pieces) = this.pieces else { return Poll::Ready(None) };
        if this.failed.is_some() {
            // What was sent before the error still goes out.
            let sent = pieces.try_recv().ok().map(Ok);
            return Poll::Ready(sent.or_else(|| this.failed.take().map(Err)));
        }
        pieces.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

/// A body's own error, from a writer that was called with `?`, stays what it is.
fn failure(error: BoxError) -> BodyError {
    error.downcast().map_or_else(BodyError::Producer, |error| *error)
}
