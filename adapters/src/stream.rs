//! A sink as the byte stream that hyper, or anybody with `AsyncWrite`, writes to.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};
use zerosink_core::{SendError, SendQueue, ZeroCopySink, region::owner_of};

/// Nobody asks for the owner of a smaller slice: heads and the framing of chunks are no ring memory, and looking up costs more
/// than copying them. The tail of a partial write may be that small.
const LEAST_OWNED: usize = 512;

/// The byte stream over a [`ZeroCopySink`]: tokio's `AsyncRead` and `AsyncWrite`, hyper's `Read` and `Write`.
///
/// A write looks up the owner of each slice ([`owner_of`]) and takes its memory into custody before it returns, so that
/// whoever wrote may drop his handle at once; what has no owner is copied. Slices of one vectored write leave
/// together: the head of a message does not become a packet of its own.
///
/// * A write never answers `Ok(0)` unless it was given nothing. If some bytes were accepted before a failure, it answers their
///   number, and the failure comes with the next call.
/// * A flush is ready when everything accepted is in the socket. It does not wait for release.
/// * A shutdown flushes and closes the sending direction; reading goes on.
///
/// Reading and writing may go on in different tasks (`tokio::io::split`).
pub struct ZeroCopyStream<S> {
    sink: S,
    /// What a write could not say, because it had accepted something.
    failed: Option<SendError>,
}

impl<S> ZeroCopyStream<S> {
    /// The stream over `sink`, which also reads if the stream is to be read.
    pub const fn new(sink: S) -> Self {
        Self { sink, failed: None }
    }

    /// The sink: its position, its mechanism, its counters.
    pub const fn get_ref(&self) -> &S {
        &self.sink
    }

    /// The sink, to send on it in between.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// The sink. A failure that waited for the next write is lost; the sink will fail again.
    pub fn into_inner(self) -> S {
        self.sink
    }
}

impl<S: fmt::Debug> fmt::Debug for ZeroCopyStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroCopyStream").field("sink", &self.sink).finish_non_exhaustive()
    }
}

fn push<'a>(queue: &mut SendQueue<'a>, slice: &'a [u8]) {
    match if slice.len() < LEAST_OWNED { None } else { owner_of(slice) } {
        Some(bytes) => queue.push(bytes),
        None => queue.push_borrowed(slice),
    }
}

impl<S: ZeroCopySink + Unpin> ZeroCopyStream<S> {
    fn fail(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Offers the queue until it is empty or the sink takes no more.
    fn poll_queue(&mut self, cx: &mut Context<'_>, queue: &mut SendQueue<'_>) -> Poll<io::Result<usize>> {
        self.fail()?;
        if queue.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // A fast peer and an endless body must not keep the thread from other tasks.
        let budget = ready!(coop::poll_proceed(cx));
        let mut accepted = 0;
        while !queue.is_empty() {
            match Pin::new(&mut self.sink).poll_send(cx, queue) {
                Poll::Ready(Ok(bytes)) => accepted += bytes,
                Poll::Ready(Err(error)) => {
                    accepted += error.accepted;
                    if accepted == 0 {
                        return Poll::Ready(Err(error.into()));
                    }
                    self.failed = Some(error);
                    break;
                }
                Poll::Pending if accepted == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        budget.made_progress();
        Poll::Ready(Ok(accepted))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ZeroCopyStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_read(cx, buffer)
    }
}

impl<S: ZeroCopySink + Unpin> AsyncWrite for ZeroCopyStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let mut queue = SendQueue::new();
        push(&mut queue, slice);
        self.get_mut().poll_queue(cx, &mut queue)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut queue = SendQueue::new();
        for slice in slices {
            push(&mut queue, slice);
        }
        self.get_mut().poll_queue(cx, &mut queue)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()?;
        Pin::new(&mut self.sink).poll_flush(cx).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()?;
        Pin::new(&mut self.sink).poll_close(cx).map_err(Into::into)
    }
}

impl<S: AsyncRead + Unpin> Read for ZeroCopyStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut TokioIo::new(&mut self.sink)).poll_read(cx, buffer)
    }
}

impl<S: ZeroCopySink + Unpin> Write for ZeroCopyStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, slice)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self, cx)
    }
}
