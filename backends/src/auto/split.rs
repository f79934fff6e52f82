//! The reading side of a split sink.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

#[cfg(zerosink_linux)]
use crate::driver::Reader;
#[cfg(not(zerosink_linux))]
use crate::portable::Reader;

/// Reads what the peer sends. The sending side is the [`AutoSink`](super::AutoSink) it was split from.
pub struct AutoReadHalf {
    reader: Reader,
}

impl AutoReadHalf {
    pub(super) const fn new(reader: Reader) -> Self {
        Self { reader }
    }
}

impl AsyncRead for AutoReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().reader.poll_read(cx, buffer)
    }
}

impl fmt::Debug for AutoReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoReadHalf").finish_non_exhaustive()
    }
}
