//! The `copy` backend: the reference that every other mechanism must equal, and the step below all of them.

use std::{
    io::IoSlice,
    sync::Arc,
    task::{Context, Poll},
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
    if queue.is_empty() {
        return Poll::Ready(Ok(0));
    }
    loop {
        let mark = connection.reactor().mark();
        let offered = queue.segments();
        let taken = segments.clamp(1, MOST_SLICES).min(offered.len());
        let result = if taken == 1 {
            // The common case, without building a list.
            connection.send_copy(&[IoSlice::new(offered[0].as_slice())], offered.len() > 1, reason)
        } else {
            let slices: SmallVec<[IoSlice<'_>; 8]> =
                offered[..taken].iter().map(|segment| IoSlice::new(segment.as_slice())).collect();
            connection.send_copy(&slices, offered.len() > taken, reason)
        };
        match result {
            Ok(bytes) => {
                queue.advance(bytes);
                return Poll::Ready(Ok(bytes));
            }
            Err(error) => std::task::ready!(wait_or_fail(connection, cx, mark, error, (Mechanism::Copy, "sendmsg")))?,
        }
    }
}

/// After a failed call: ready to try again, pending until the socket is writable, or an error.
pub(crate) fn wait_or_fail(
    connection: &Connection,
    cx: &mut Context<'_>,
    mark: u64,
    error: std::io::Error,
    (mechanism, call): (Mechanism, &'static str),
) -> Poll<Result<(), SendError>> {
    match error.kind() {
        std::io::ErrorKind::Interrupted => Poll::Ready(Ok(())),
        std::io::ErrorKind::WouldBlock => connection
            .poll_writable(cx, mark)
            .map_err(|error| SendError::new(mechanism, "waiting for the socket to become writable", error)),
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
