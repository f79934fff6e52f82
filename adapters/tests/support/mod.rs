//! What the tests of bodies share.
#![allow(clippy::allow_attributes, reason = "which helpers are used differs from test to test")]
#![allow(dead_code, reason = "which helpers are used differs from test to test")]

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use zerosink_core::{
    Mechanism, Path, ReleaseError, Ring, Segment, SendError, SendQueue, SinkStats, ZeroCopySink, sink::Position,
};

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

/// What was accepted by a [`Probe`], in bytes.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    owned: AtomicUsize,
    borrowed: AtomicUsize,
}

impl Accepted {
    /// With an owner, to be taken into custody.
    pub(crate) fn owned(&self) -> usize {
        self.owned.load(Ordering::SeqCst)
    }

    /// Without.
    pub(crate) fn borrowed(&self) -> usize {
        self.borrowed.load(Ordering::SeqCst)
    }
}

/// A sink that counts what it passes on.
#[derive(Debug)]
pub(crate) struct Probe<S> {
    sink: S,
    accepted: Arc<Accepted>,
}

impl<S> Probe<S> {
    pub(crate) fn new(sink: S, accepted: Arc<Accepted>) -> Self {
        Self { sink, accepted }
    }
}

impl<S: ZeroCopySink + Unpin> ZeroCopySink for Probe<S> {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let offered: Vec<_> = queue
            .segments()
            .iter()
            .map(|segment| (matches!(segment, Segment::Owned(_)), segment.as_slice().len()))
            .collect();
        let outcome = Pin::new(&mut self.sink).poll_send(cx, queue);
        if let Poll::Ready(Ok(mut left)) = outcome {
            for (owned, length) in offered {
                let length = length.min(left);
                left -= length;
                let count = if owned { &self.accepted.owned } else { &self.accepted.borrowed };
                count.fetch_add(length, Ordering::SeqCst);
            }
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.sink).poll_flush(cx)
    }

    fn position(&self) -> Position {
        self.sink.position()
    }

    fn poll_released(mut self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        Pin::new(&mut self.sink).poll_released(cx, upto)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.sink).poll_close(cx)
    }

    fn mechanism(&self) -> Mechanism {
        self.sink.mechanism()
    }

    fn path(&self) -> Path {
        self.sink.path()
    }

    fn stats(&self) -> SinkStats {
        self.sink.stats()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Probe<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_read(cx, buffer)
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
