//! Reading stays with tokio: a read interest is not disturbed by completions.

use std::{
    io,
    os::fd::AsFd,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{ReadBuf, unix::AsyncFd};

use super::WatchedSocket;
use crate::sys::{
    self,
    readable::{Shared, readable},
};

/// The reading side of a watched socket.
pub(crate) struct Reader {
    fd: AsyncFd<Shared<WatchedSocket>>,
}

impl Reader {
    pub(crate) fn new(socket: &Arc<WatchedSocket>) -> io::Result<Self> {
        if socket.is_write_half() {
            let why = "the sink was made of a write half: read from the OwnedReadHalf that belongs to it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(Self { fd: readable(socket)? })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match ready.try_io(|fd| sys::socket::receive(fd.get_ref().0.as_fd(), unfilled)) {
                Ok(Ok(bytes)) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}
