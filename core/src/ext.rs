//! The comfortable side of [`ZeroCopySink`].

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Poll, ready},
};

use bytes::Bytes;

use crate::{ReleaseError, SendError, SendQueue, ZeroCopySink};

/// `async` methods for every sink.
pub trait ZeroCopySinkExt: ZeroCopySink + Unpin {
    /// Resolves when all of `bytes` is accepted. Their memory is in custody; wait for [`released`](Self::released), or
    /// drop a ring lease and let the ring do so, before it is written again.
    ///
    /// Cancelling loses count of a partial send; use [`send_queue`](Self::send_queue) where that matters.
    fn send(&mut self, bytes: impl Into<Bytes> + Send) -> impl Future<Output = Result<(), SendError>> + Send {
        async move {
            // In place: it is large, and to move it would cost more than most of a send.
            let mut queue = SendQueue::new();
            queue.push(bytes);
            self.send_queue(&mut queue).await
        }
    }

    /// Resolves when the queue is empty. Cancel-safe: what was accepted is off the queue, the rest is still on it.
    fn send_queue(&mut self, queue: &mut SendQueue<'_>) -> impl Future<Output = Result<(), SendError>> + Send {
        let mut accepted = 0;
        poll_fn(move |cx| {
            while !queue.is_empty() {
                match ready!(Pin::new(&mut *self).poll_send(cx, queue)) {
                    Ok(bytes) => accepted += bytes,
                    Err(error) => {
                        let before = error.accepted;
                        return Poll::Ready(Err(error.after(accepted + before)));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Resolves when everything accepted is in the socket.
    fn flush(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        poll_fn(|cx| Pin::new(&mut *self).poll_flush(cx))
    }

    /// Resolves when every byte below the stream offset `upto` is released.
    fn released(&mut self, upto: u64) -> impl Future<Output = Result<(), ReleaseError>> + Send {
        poll_fn(move |cx| Pin::new(&mut *self).poll_released(cx, upto))
    }

    /// Flushes and closes the sending direction. Release goes on afterwards.
    fn close(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        poll_fn(|cx| Pin::new(&mut *self).poll_close(cx))
    }
}

impl<S: ZeroCopySink + Unpin + ?Sized> ZeroCopySinkExt for S {}
