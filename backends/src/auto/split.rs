//! The reading side of a split sink.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

#[cfg(zerosink_linux)]
use crate::driver::Socket;
#[cfg(not(zerosink_linux))]
use crate::portable::Socket;

/// Reads what the peer sends. The sending side is the [`AutoSink`](super::AutoSink) it was split from.
pub struct AutoReadHalf {
    socket: Arc<Socket>,
}

impl AutoReadHalf {
    pub(super) fn new(socket: &Arc<Socket>) -> io::Result<Self> {
        socket.handle().check_readable()?;
        Ok(Self { socket: Arc::clone(socket) })
    }
}

impl AsyncRead for AutoReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket.handle().poll_receive(cx, buffer)
    }
}

impl fmt::Debug for AutoReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoReadHalf").finish_non_exhaustive()
    }
}
