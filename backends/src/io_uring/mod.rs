//! The `io-uring` backend: `IORING_OP_SEND_ZC` and `IORING_OP_SENDMSG_ZC` (Linux 6.1), released by their notifications.
//!
//! One io_uring serves all connections of a tokio runtime. It is opened by the first sink that attaches, and closed some
//! time after the last is gone. Whoever sends submits, and looks at once whether the kernel has taken the bytes, as it does
//! while the socket has room. What comes later wakes the driver, by way of its inner epoll.
//!
//! A send is *accepted* when it is queued and its memory in custody; *flushed* at its result; *released* at its
//! notification. A socket has one send without a result at a time, for two would overtake each other, and any number of
//! outstanding notifications.
//!
//! The memory of rings that are reused in place is registered unless it is in huge pages, so that the kernel does not pin it anew for each
//! send.
//!
//! `uring` is the io_uring of a runtime, `buffers` the memory that is registered there, `operation` what the completions of one send mean, `operations` the sends by key,
//! `lane` what a sink and its sends share.

mod buffers;
mod lane;
mod operation;
mod operations;
#[cfg(test)]
mod tests;
mod uring;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::Bytes;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Refusal, Segment, SendError, SendQueue, SinkConfig, Support, Transmit,
    ZeroCopySink, policy::Family,
};

pub(crate) use self::uring::{Size, Uring};
use self::{lane::Lane, operation::Memory};
use crate::{
    copy::poll_copy,
    driver::Socket,
    probe,
    sys::uring::{How, MOST_SLICES},
};

/// Bytes of the first send: as much is accepted though the socket be full.
const FIRST_BYTES: usize = 256 << 10;
/// Bytes of one send, which is released at once. With 256 KiB, sends of 1 MiB have 0.9 of the throughput.
const MOST_BYTES: usize = 1 << 20;
/// Bytes of one send when the process may not pin more.
const FEWEST_BYTES: usize = 64 << 10;

/// Sends by io_uring. Attaches to connections that the driver of this crate has made.
#[derive(Debug, Clone, Copy, Default)]
pub struct IoUring;

#[async_trait]
impl Backend for IoUring {
    fn mechanism(&self) -> Mechanism {
        Mechanism::IoUring
    }

    fn probe(&self) -> Support {
        probe::io_uring()
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        let mechanism = Mechanism::IoUring;
        if connection.family() != Family::Tcp {
            return Err(AttachError::refused(mechanism, "the kernel knows SEND_ZC on TCP, not on AF_UNIX"));
        }
        let Some(socket) = Socket::of(connection.reactor()) else {
            return Err(AttachError::refused(mechanism, "the connection was made by another driver"));
        };
        let abilities = probe::io_uring_abilities().map_err(|failed| failed.into_attach_error(mechanism))?;
        let how = How::ZeroCopy { report_usage: abilities.reports_usage };
        let uring = socket.uring(Size::USUAL, how).map_err(|source| AttachError::Call {
            mechanism,
            call: "io_uring_setup",
            source,
        })?;
        Ok(connection.sink(Sender::new(socket, uring)))
    }
}

/// The sending side of one connection.
#[derive(Debug)]
struct Sender {
    lane: Arc<Lane>,
    /// Bytes of the next send, at most.
    most: usize,
}

impl Sender {
    fn new(socket: Arc<Socket>, uring: Arc<Uring>) -> Self {
        Self { lane: Arc::new(Lane::new(socket, uring)), most: FIRST_BYTES }
    }

    /// Ready when the last send has its result.
    fn poll_result(&self, connection: &Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.lane.is_busy() {
            let mark = connection.reactor().mark();
            self.lane.uring.turn();
            if self.lane.is_busy() {
                ready!(connection.poll_writable(cx, mark))?;
            }
        }
        if let Some((bytes, reason)) = self.lane.take_fallback() {
            connection.count_setback(reason);
            connection.count_fallback(Mechanism::IoUring, bytes, reason);
        }
        Poll::Ready(connection.reactor().failure().map_or(Ok(()), Err))
    }

    /// Queues the owned segments at the front, as far as one send goes. Returns how many bytes that is.
    fn send(&self, connection: &Connection, queue: &SendQueue<'_>) -> io::Result<usize> {
        let memory = front(queue, self.most);
        let bytes = memory.iter().map(Bytes::len).sum();
        let custody: Memory = match &*memory {
            // The common case, without building a list.
            [piece] => Memory::from_buf([piece.clone()]),
            pieces => pieces.iter().cloned().collect(),
        };
        connection
            .queue(Mechanism::IoUring, custody, bytes, |number| self.lane.uring.begin(&self.lane, number, memory))?;
        Ok(bytes)
    }
}

/// The owned memory at the front of the queue, as much as one send takes.
fn front(queue: &SendQueue<'_>, most: usize) -> Memory {
    let mut memory = Memory::new();
    let mut room = most;
    for segment in queue.segments().iter().take(MOST_SLICES) {
        match segment {
            Segment::Owned(bytes) if room > 0 => {
                let piece = bytes.slice(..bytes.len().min(room));
                room -= piece.len();
                memory.push(piece);
            }
            _ => break,
        }
    }
    memory
}

impl Transmit for Sender {
    fn mechanism(&self) -> Mechanism {
        Mechanism::IoUring
    }

    /// Queues the owned segments at the front, or at most 1 MiB of them, as one send, when the send before has its result;
    /// borrowed segments before them are copied by a call of their own. A send that the kernel refuses for want of memory is
    /// tried once more, then copied.
    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let failed = |error| SendError::new(Mechanism::IoUring, "SEND_ZC", error);
        let mut again = false;
        loop {
            let mark = connection.reactor().mark();
            if queue.is_empty() {
                return Poll::Ready(Ok(0));
            }
            ready!(self.poll_result(connection, cx)).map_err(failed)?;
            let owned = queue.segments().iter().take_while(|segment| matches!(segment, Segment::Owned(_))).count();
            if owned == 0 {
                let borrowed = queue.segments().iter().take_while(|s| matches!(s, Segment::Borrowed(_))).count();
                return poll_copy(connection, cx, queue, borrowed, Refusal::Borrowed);
            }
            let error = match self.send(connection, queue) {
                Ok(bytes) => {
                    self.most = (self.most * 2).min(MOST_BYTES);
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => error,
            };
            match Refusal::from_error(&error) {
                // Another mechanism has a send in the queue.
                None if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx, mark)).map_err(failed)?;
                }
                None => return Poll::Ready(Err(failed(error))),
                Some(Refusal::NoBuffers) if !again => {
                    // Releases that wait for this thread to enter the kernel may make room, or fewer bytes have it.
                    self.lane.uring.turn();
                    self.most = (self.most / 4).max(FEWEST_BYTES);
                    again = true;
                }
                Some(reason) => {
                    connection.count_setback(reason);
                    tracing::trace!(%error, "this send is copied");
                    return poll_copy(connection, cx, queue, owned, reason);
                }
            }
        }
    }

    fn poll_flush(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let failed = |error| SendError::new(Mechanism::IoUring, "SEND_ZC", error);
        self.poll_result(connection, cx).map_err(failed)
    }
}
