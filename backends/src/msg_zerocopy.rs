//! The `msg-zerocopy` backend: `send(2)` with `MSG_ZEROCOPY` (Linux 4.14), released by the kernel's notification.
//!
//! See `Documentation/networking/msg_zerocopy.rst`.

use std::{
    io::IoSlice,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use smallvec::SmallVec;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Proof, Refusal, Segment, SendError, SendQueue, SinkConfig, Support,
    Transmit, ZeroCopySink, policy::Family,
};

use crate::{
    copy::{poll_copy, poll_room, wait_or_fail},
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
        let mechanism = Mechanism::MsgZerocopy;
        if connection.family() != Family::Tcp {
            return Err(AttachError::refused(mechanism, "the kernel knows MSG_ZEROCOPY on TCP, not on AF_UNIX"));
        }
        probe::permits(mechanism)?;
        sys::socket::set_zerocopy(connection.as_fd()).map_err(|source| AttachError::Call {
            mechanism,
            call: "setsockopt(SO_ZEROCOPY)",
            source,
        })?;
        Ok(connection.sink(*self))
    }
}

impl MsgZerocopy {
    /// One zero-copy call for the owned segments at the front of the queue.
    fn send(connection: &Connection, run: &[Segment<'_>]) -> std::io::Result<usize> {
        let memory = run.iter().filter_map(|segment| match segment {
            Segment::Owned(bytes) => Some(Bytes::clone(bytes)),
            Segment::Borrowed(_) => None,
        });
        connection.send(Mechanism::MsgZerocopy, Proof::Notified, memory, || {
            if let [segment] = run {
                return sys::socket::send_zerocopy(connection.as_fd(), &[IoSlice::new(segment.as_slice())]);
            }
            let slices: SmallVec<[IoSlice<'_>; 8]> = run.iter().map(|s| IoSlice::new(s.as_slice())).collect();
            sys::socket::send_zerocopy(connection.as_fd(), &slices)
        })
    }
}

impl Transmit for MsgZerocopy {
    fn mechanism(&self) -> Mechanism {
        Mechanism::MsgZerocopy
    }

    /// Sends the owned segments at the front by one zero-copy call; borrowed ones before them are copied by a call of
    /// their own. `ENOBUFS`: reads the error queue, tries once more, then copies this send.
    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        if queue.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let owned = |segment: &Segment<'_>| matches!(segment, Segment::Owned(_));
        let borrowed = queue.segments().iter().take_while(|segment| !owned(segment)).count();
        if borrowed > 0 {
            return poll_copy(connection, cx, queue, borrowed, Refusal::Borrowed);
        }
        let mut reaped = false;
        loop {
            let mark = std::task::ready!(poll_room(connection, cx, Mechanism::MsgZerocopy))?;
            let run = queue.segments().iter().take(MOST_SLICES).take_while(|segment| owned(segment)).count();
            let error = match Self::send(connection, &queue.segments()[..run]) {
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => error,
            };
            match Refusal::from_error(&error) {
                None => {
                    std::task::ready!(wait_or_fail(connection, cx, mark, error, (Mechanism::MsgZerocopy, "sendmsg")))?;
                }
                Some(_) if !reaped => {
                    connection.reactor().reap();
                    reaped = true;
                }
                // No memory for the notification or the pins, or not on this socket, or forbidden. It can still be copied.
                Some(reason) => {
                    connection.count_setback(reason);
                    tracing::trace!(%error, "this send is copied");
                    return poll_copy(connection, cx, queue, run, reason);
                }
            }
        }
    }
}
