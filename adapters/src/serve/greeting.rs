//! A time limit for the first bytes of a connection.
//!
//! hyper-util reads them to tell HTTP/2 from HTTP/1, and waits for them without a limit; hyper's own time-outs begin
//! after that. A client that says nothing, or the half of the HTTP/2 preface, would stay for ever.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Sleep;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails to read unless the client has made itself known in time.
pub(super) struct Greeting<S> {
    stream: S,
    /// `None` once it is known what the client speaks.
    limit: Option<Pin<Box<Sleep>>>,
    /// So many bytes came and are the beginning of the preface.
    matched: usize,
}

impl<S> Greeting<S> {
    pub(super) fn new(stream: S, timeout: Option<Duration>) -> Self {
        Self { stream, limit: timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout))), matched: 0 }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        let expected = &PREFACE[self.matched..];
        self.matched += bytes.len().min(expected.len());
        let http_1 = bytes.iter().zip(expected).any(|(is, preface)| is != preface);
        if http_1 || bytes.is_empty() || self.matched == PREFACE.len() {
            self.limit = None;
        }
    }
}

impl<S: Read + Unpin> Read for Greeting<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(limit) = &mut this.limit else { return Pin::new(&mut this.stream).poll_read(cx, buffer) };
        // The first bytes go through here, so that they can be looked at.
        let mut first = [0; PREFACE.len()];
        let room = first.len().min(buffer.remaining());
        let mut read = hyper::rt::ReadBuf::new(&mut first[..room]);
        match Pin::new(&mut this.stream).poll_read(cx, read.unfilled()) {
            Poll::Ready(Ok(())) => {
                this.take_in(read.filled());
                buffer.put_slice(read.filled());
                Poll::Ready(Ok(()))
            }
            Poll::Pending if limit.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent no request")))
            }
            other => other,
        }
    }
}

impl<S: Write + Unpin> Write for Greeting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, slice)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
