//! The `msg-zerocopy` backend: `send(2)` with `MSG_ZEROCOPY` (Linux 4.14), released by the kernel's notification.
//!
//! See `Documentation/networking/msg_zerocopy.rst`.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use smallvec::SmallVec;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Path, Refusal, ReleaseError, Segment, SendError, SendQueue,
    SinkConfig, SinkStats, Support, ZeroCopySink, policy::Family, sink::Position,
};

use crate::{
    copy::{poll_copy, wait_or_fail},
    probe, sys,
};

/// Segments of one call. An skb takes 17 fragments by default; more segments only lengthen the call.
pub(crate) const MOST_SLICES: usize = 64;

/// Sends by `MSG_ZEROCOPY`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MsgZerocopy;

#[async_trait]
impl Backend for MsgZerocopy {
    fn mechanism(&self) -> Mechanism {
        Mechanism::MsgZerocopy
    }

    fn probe(&self) -> Support {
        probe::msg_zerocopy()
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        let mechanism = self.mechanism();
        if connection.family() != Family::Tcp {
            return Err(AttachError::refused(mechanism, "the kernel knows MSG_ZEROCOPY on TCP, not on AF_UNIX"));
        }
        if let Support::No(reason) = self.probe() {
            return Err(AttachError::Refused { mechanism, reason });
        }
        sys::socket::set_zerocopy(connection.as_fd()).map_err(|source| AttachError::Call {
            mechanism,
            call: "setsockopt(SO_ZEROCOPY)",
            source,
        })?;
        Ok(Box::new(MsgZerocopySink { connection: Arc::clone(connection) }))
    }
}

#[derive(Debug)]
struct MsgZerocopySink {
    connection: Arc<Connection>,
}

impl MsgZerocopySink {
    /// One zero-copy call for the owned segments at the front of the queue.
    fn send(&self, run: &[Segment<'_>]) -> std::io::Result<usize> {
        let memory = run.iter().filter_map(|segment| match segment {
            Segment::Owned(bytes) => Some(Bytes::clone(bytes)),
            Segment::Borrowed(_) => None,
        });
        self.connection.send_notified(memory, || {
            if let [segment] = run {
                return sys::socket::send_zerocopy(self.connection.as_fd(), &[IoSlice::new(segment.as_slice())]);
            }
            let slices: SmallVec<[IoSlice<'_>; 8]> = run.iter().map(|s| IoSlice::new(s.as_slice())).collect();
            sys::socket::send_zerocopy(self.connection.as_fd(), &slices)
        })
    }
}

/// What the kernel says when it has no memory for the notification or the pins, or does not do it on this socket.
/// This send can still be copied.
fn steps_down(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EOPNOTSUPP | libc::EPERM))
}

impl ZeroCopySink for MsgZerocopySink {
    /// Sends the owned segments at the front by one zero-copy call; borrowed ones before them are copied by a call of
    /// their own. `ENOBUFS`: reads the error queue, tries once more, then copies this send.
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        if queue.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let owned = |segment: &Segment<'_>| matches!(segment, Segment::Owned(_));
        let borrowed = queue.segments().iter().take_while(|segment| !owned(segment)).count();
        if borrowed > 0 {
            return poll_copy(&self.connection, cx, queue, borrowed, Refusal::Borrowed);
        }
        let mut reaped = false;
        loop {
            let mark = self.connection.reactor().mark();
            let run = queue.segments().iter().take(MOST_SLICES).take_while(|segment| owned(segment)).count();
            let error = match self.send(&queue.segments()[..run]) {
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => error,
            };
            if !steps_down(&error) {
                std::task::ready!(wait_or_fail(&self.connection, cx, mark, error, Mechanism::MsgZerocopy))?;
            } else if reaped {
                self.connection.count_no_buffers();
                tracing::trace!(%error, "this send is copied");
                return poll_copy(&self.connection, cx, queue, run, Refusal::NoBuffers);
            } else {
                self.connection.reactor().reap();
                reaped = true;
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn position(&self) -> Position {
        self.connection.position()
    }

    fn poll_released(self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        self.connection.poll_released(cx, upto)
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(
            self.connection.shutdown().map_err(|error| SendError::new(Mechanism::MsgZerocopy, "shutdown", error)),
        )
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism::MsgZerocopy
    }

    fn path(&self) -> Path {
        self.connection.path()
    }

    fn stats(&self) -> SinkStats {
        self.connection.stats()
    }
}
