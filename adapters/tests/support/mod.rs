//! What the tests of bodies share.
#![allow(clippy::allow_attributes, reason = "which helpers are used differs from test to test")]
#![allow(dead_code, reason = "which helpers are used differs from test to test")]

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zerosink_core::{Ring, owner_of};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("within the time limit")
}

pub(crate) fn ring(bytes: usize) -> Ring {
    Ring::builder().capacity(bytes).build().unwrap()
}

pub(crate) fn lease(ring: &Ring, bytes: &[u8]) -> Bytes {
    let mut grant = ring.try_reserve(bytes.len()).unwrap();
    grant.put_slice(bytes);
    grant.commit()
}

/// Bytes that depend on their position.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// What was written to an [`Asking`] stream, and how much of it had an owner.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) owned: AtomicUsize,
    pub(crate) other: AtomicUsize,
}

impl Written {
    pub(crate) fn owned(&self) -> usize {
        self.owned.load(Ordering::SeqCst)
    }
}

/// A stream that asks for the owner of what it is given, as a zero-copy stream does.
#[derive(Debug)]
pub(crate) struct Asking<T> {
    stream: T,
    written: Arc<Written>,
}

impl<T> Asking<T> {
    pub(crate) fn new(stream: T) -> (Self, Arc<Written>) {
        let written = Arc::default();
        (Self { stream, written: Arc::clone(&written) }, written)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Asking<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Asking<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slice = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        let owner = owner_of(slice);
        let outcome = Pin::new(&mut self.stream).poll_write(cx, slice);
        if let Poll::Ready(Ok(n)) = outcome {
            let count = if owner.is_some() { &self.written.owned } else { &self.written.other };
            count.fetch_add(n, Ordering::SeqCst);
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A reader that gives what it is told, in the portions it is told, and then ends as it is told.
#[derive(Debug)]
pub(crate) struct Scripted {
    portions: std::collections::VecDeque<Portion>,
    pub(crate) polls: Arc<AtomicUsize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Portion {
    Bytes(Vec<u8>),
    /// Pending once, with a wake-up that comes at once.
    NotYet,
    /// Pending for ever.
    Never,
    Error,
    Panic,
}

impl Scripted {
    pub(crate) fn new(portions: impl IntoIterator<Item = Portion>) -> Self {
        Self { portions: portions.into_iter().collect(), polls: Arc::default() }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        match self.portions.pop_front() {
            None => Poll::Ready(Ok(())),
            Some(Portion::Bytes(mut bytes)) => {
                let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                buf.put_slice(&bytes);
                if !rest.is_empty() {
                    self.portions.push_front(Portion::Bytes(rest));
                }
                Poll::Ready(Ok(()))
            }
            Some(Portion::NotYet) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Portion::Never) => {
                self.portions.push_front(Portion::Never);
                Poll::Pending
            }
            Some(Portion::Error) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Portion::Panic) => panic!("the reader's own"),
        }
    }
}
