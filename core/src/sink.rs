//! The trait that everything plugs into.

use std::{
    future::Future,
    io,
    ops::DerefMut,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{IntoSink, Mechanism, Path, ReleaseError, SendError, SendQueue, SinkStats};

const _: [&dyn ZeroCopySink; 0] = [];

/// Offsets in the stream of one connection, in bytes since its sink was made. `released <= flushed <= accepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Position {
    /// Bytes that the sink has taken and will put on the stream in order.
    pub accepted: u64,
    /// Bytes that are in the socket.
    pub flushed: u64,
    /// Every byte below this offset is released: its memory may be written again. Memory is given back out of order,
    /// so more than this may already be free.
    pub released: u64,
}

/// One connection's way out.
///
/// Poll-based and object-safe, so that hyper, tower and futures can all drive it. [`crate::ZeroCopySinkExt`] has the
/// `async` methods.
pub trait ZeroCopySink: Send {
    /// Offers the segments of `queue` in order.
    ///
    /// * `Ready(Ok(n))`, `n > 0`: `n` bytes were accepted and taken off the queue. Their memory is in custody; it is
    ///   released later, at [`poll_released`](Self::poll_released). It never answers `Ok(0)` for a queue that offers bytes.
    /// * `Ready(Ok(0))`: the queue is empty.
    /// * `Pending`: nothing changed hands, and the task is woken when more can be accepted.
    ///
    /// # Errors
    ///
    /// [`SendError::accepted`] says how many bytes were accepted, and taken off the queue, before the failure.
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>>;

    /// Ready when everything accepted is in the socket. Costs no round trip and does not wait for release.
    ///
    /// # Errors
    ///
    /// As [`poll_send`](Self::poll_send).
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// How far the stream has come.
    fn position(&self) -> Position;

    /// Ready when every byte below the stream offset `upto` is released. Whoever needs the space in a ring waits in
    /// [`Ring::reserve`](crate::Ring::reserve): a driver on another thread hands the memory back a moment later.
    ///
    /// One task at a time waits: the last one to poll is woken.
    ///
    /// # Errors
    ///
    /// If the release was not proven before the deadline and memory is in quarantine.
    fn poll_released(self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>>;

    /// Flushes, then closes the sending direction (the peer reads end of file). Release goes on.
    ///
    /// # Errors
    ///
    /// As [`poll_send`](Self::poll_send). Closing what the peer has closed is no error.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// The mechanism that took the last send, or will take the next one if there was none.
    fn mechanism(&self) -> Mechanism;

    /// Where the packets go, as far as is known.
    fn path(&self) -> Path;

    /// Counters since the sink was made.
    fn stats(&self) -> SinkStats;

    /// Makes the best sink that this host permits for `socket`.
    ///
    /// `let sink = ZeroCopySink::auto(socket).await?;` compiles as written: the sink's type follows from the socket's.
    ///
    /// # Errors
    ///
    /// If the socket is not a connected stream socket, or there is no runtime to drive it.
    fn auto<S, By>(socket: S) -> impl Future<Output = io::Result<Self>> + Send
    where
        Self: Sized,
        S: IntoSink<By, Sink = Self> + Send,
    {
        socket.into_sink(crate::SinkConfig::default())
    }
}

macro_rules! forward {
    () => {
        fn poll_send(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            queue: &mut SendQueue<'_>,
        ) -> Poll<Result<usize, SendError>> {
            inner(self).poll_send(cx, queue)
        }
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            inner(self).poll_flush(cx)
        }
        fn position(&self) -> Position {
            (**self).position()
        }
        fn poll_released(self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
            inner(self).poll_released(cx, upto)
        }
        fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            inner(self).poll_close(cx)
        }
        fn mechanism(&self) -> Mechanism {
            (**self).mechanism()
        }
        fn path(&self) -> Path {
            (**self).path()
        }
        fn stats(&self) -> SinkStats {
            (**self).stats()
        }
    };
}

/// Gives the forwarding impls one way to reach the sink behind a pointer.
trait Inner {
    type Sink: ZeroCopySink + ?Sized;
    fn inner(self: Pin<&mut Self>) -> Pin<&mut Self::Sink>;
}

fn inner<P: Inner + ?Sized>(pointer: Pin<&mut P>) -> Pin<&mut P::Sink> {
    pointer.inner()
}

impl<S: ZeroCopySink + Unpin + ?Sized> Inner for &mut S {
    type Sink = S;
    fn inner(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(&mut **self.get_mut())
    }
}

impl<S: ZeroCopySink + Unpin + ?Sized> Inner for Box<S> {
    type Sink = S;
    fn inner(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(&mut **self.get_mut())
    }
}

impl<P: DerefMut<Target: ZeroCopySink> + Unpin> Inner for Pin<P> {
    type Sink = P::Target;
    fn inner(self: Pin<&mut Self>) -> Pin<&mut P::Target> {
        self.as_deref_mut()
    }
}

impl<S: ZeroCopySink + Unpin + ?Sized> ZeroCopySink for &mut S {
    forward!();
}

impl<S: ZeroCopySink + Unpin + ?Sized> ZeroCopySink for Box<S> {
    forward!();
}

impl<P: DerefMut<Target: ZeroCopySink> + Unpin + Send> ZeroCopySink for Pin<P> {
    forward!();
}
