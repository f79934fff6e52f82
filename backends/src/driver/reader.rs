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
            let room = buffer.remaining();
            match ready.try_io(|fd| sys::socket::receive(fd.get_ref().0.as_fd(), buffer)) {
                Ok(Ok(bytes)) => {
                    // That was all there was, and what comes later raises an edge: spares the call that would find nothing.
                    if 0 < bytes && bytes < room {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write as _, mem::MaybeUninit, os::unix::net::UnixStream, pin::Pin};

    use tokio::io::{AsyncRead as _, ReadBuf};
    use zerosink_core::{IntoSink as _, SinkConfig};

    /// hyper reads into 8 KiB that it keeps as long as the connection is idle: untouched pages cost nothing.
    #[tokio::test]
    async fn a_read_touches_no_more_than_it_received() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut sink = near.into_sink(SinkConfig::new()).await.unwrap();
        let mut memory = [MaybeUninit::uninit(); 8 << 10];
        for round in 1..100 {
            let mut buffer = ReadBuf::uninit(&mut memory);
            far.write_all(&[round; 5]).unwrap();
            poll_fn(|cx| Pin::new(&mut sink).poll_read(cx, &mut buffer)).await.unwrap();
            assert_eq!((buffer.filled(), buffer.initialized().len()), (&[round; 5][..], 5));
        }
        drop(far);
        let mut buffer = ReadBuf::uninit(&mut memory);
        poll_fn(|cx| Pin::new(&mut sink).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(buffer.initialized().len(), 0, "the end of the stream");
    }
}
