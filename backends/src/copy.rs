//! The `copy` backend: the reference that every other mechanism must equal, and the step below all of them.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use smallvec::SmallVec;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Refusal, SendError, SendQueue, SinkConfig, Support, Transmit,
    ZeroCopySink,
};

/// Segments of one call; more would not fit into an skb anyway.
const MOST_SLICES: usize = 64;

/// Sends by `send(2)`: the kernel copies, and every byte is released when the call returns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Copy;

#[async_trait]
impl Backend for Copy {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Copy
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        Ok(connection.sink(*self))
    }
}

/// Offers up to `segments` segments of the queue in one copying call; waits only if nothing could be accepted.
pub(crate) fn poll_copy(
    connection: &Connection,
    cx: &mut Context<'_>,
    queue: &mut SendQueue<'_>,
    segments: usize,
    reason: Refusal,
) -> Poll<Result<usize, SendError>> {
    if segments <= 1 || queue.segments().len() <= 1 {
        return poll_copy_front(connection, cx, queue, reason);
    }
    let mark = ready!(poll_room(connection, cx, Mechanism::Copy))?;
    match send(connection, queue, segments, reason) {
        Ok(bytes) => accept(queue, bytes),
        Err(error) => poll_copy_again(connection, cx, queue, (segments, reason), (mark, error)),
    }
}

/// As [`poll_copy`], for the first segment alone.
///
/// After a system call the processor no longer knows where the functions on its way back return to, so that each of them costs
/// more than what it does. Here there are few.
#[inline(always)]
pub(crate) fn poll_copy_front(
    connection: &Connection,
    cx: &mut Context<'_>,
    queue: &mut SendQueue<'_>,
    reason: Refusal,
) -> Poll<Result<usize, SendError>> {
    if queue.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let mark = ready!(poll_room(connection, cx, Mechanism::Copy))?;
    let [front, rest @ ..] = queue.segments() else { return Poll::Ready(Ok(0)) };
    match connection.send_copy(&[IoSlice::new(front.as_slice())], !rest.is_empty(), reason) {
        Ok(bytes) => accept(queue, bytes),
        Err(error) => poll_copy_again(connection, cx, queue, (1, reason), (mark, error)),
    }
}

#[inline]
fn accept(queue: &mut SendQueue<'_>, bytes: usize) -> Poll<Result<usize, SendError>> {
    queue.advance(bytes);
    Poll::Ready(Ok(bytes))
}

/// After a call that was made since `mark` and failed.
#[cold]
fn poll_copy_again(
    connection: &Connection,
    cx: &mut Context<'_>,
    queue: &mut SendQueue<'_>,
    (segments, reason): (usize, Refusal),
    (mut mark, mut error): (u64, io::Error),
) -> Poll<Result<usize, SendError>> {
    loop {
        ready!(wait_or_fail(connection, cx, mark, error, (Mechanism::Copy, "send")))?;
        mark = ready!(poll_room(connection, cx, Mechanism::Copy))?;
        match send(connection, queue, segments, reason) {
            Ok(bytes) => return accept(queue, bytes),
            Err(again) => error = again,
        }
    }
}

/// One call.
fn send(connection: &Connection, queue: &SendQueue<'_>, segments: usize, reason: Refusal) -> io::Result<usize> {
    let (offered, rest) = queue.segments().split_at(segments.clamp(1, MOST_SLICES).min(queue.segments().len()));
    let slices: SmallVec<[IoSlice<'_>; 8]> = offered.iter().map(|segment| IoSlice::new(segment.as_slice())).collect();
    connection.send_copy(&slices, !rest.is_empty(), reason)
}

/// The mark before a call; pending while the socket is known to be full.
#[inline]
pub(crate) fn poll_room(
    connection: &Connection,
    cx: &mut Context<'_>,
    mechanism: Mechanism,
) -> Poll<Result<u64, SendError>> {
    connection.poll_room(cx).map_err(|error| waiting_failed(mechanism, error))
}

#[cold]
fn waiting_failed(mechanism: Mechanism, error: io::Error) -> SendError {
    SendError::new(mechanism, "waiting for the socket to become writable", error)
}

/// After a failed call: ready to try again, pending until the socket is writable, or an error.
pub(crate) fn wait_or_fail(
    connection: &Connection,
    cx: &mut Context<'_>,
    mark: u64,
    error: io::Error,
    (mechanism, call): (Mechanism, &'static str),
) -> Poll<Result<(), SendError>> {
    match error.kind() {
        io::ErrorKind::Interrupted => Poll::Ready(Ok(())),
        io::ErrorKind::WouldBlock => {
            connection.poll_writable(cx, mark).map_err(|error| waiting_failed(mechanism, error))
        }
        _ => Poll::Ready(Err(SendError::new(mechanism, call, connection.reactor().failure().unwrap_or(error)))),
    }
}

impl Transmit for Copy {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Copy
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        poll_copy(connection, cx, queue, MOST_SLICES, Refusal::NotChosen)
    }
}
