//! `vmsplice` and `splice`, with or without a bug.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    io::Errno,
    pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice},
};
use tokio::sync::mpsc;
use zerosink::{
    AttachError, Backend, Connection, Mechanism, Proof, Queued, Refusal, Segment, SendError, SendQueue, SinkConfig,
    Support, Transmit, ZeroCopySink,
};

use crate::wire::unacknowledged;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Nothing, with a ring of fresh pages: every send is released when the call returns. With a ring that is reused in place
    /// the same is the bug that this project is about: it takes *accepted* for *released*.
    None,
    /// Releases when the socket's queue is empty (`SIOCOUTQ`), as the usual advice is.
    ReleasesAtZero,
    /// Releases when the connection was revoked, as if nothing were on its way then.
    ReleasesAfterRevoke,
    /// What is in the pipe when the socket is full stays there, and goes with it.
    LosesResidue,
    /// Takes memory that is only lent for the call.
    SplicesBorrowed,
    /// Memory is kept by the sink, and by nobody else.
    KeepsMemoryInTheSink,
    /// Memory is kept by a task of the runtime, and by nobody else.
    KeepsMemoryInATask,
}

#[async_trait]
impl Backend for Bug {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Splice
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        let outstanding = Arc::<Mutex<Vec<u64>>>::default();
        if matches!(self, Self::ReleasesAtZero | Self::ReleasesAfterRevoke) {
            tokio::spawn(watch(*self, Arc::downgrade(connection), Arc::clone(&outstanding)));
        }
        let (task, mut memory) = mpsc::unbounded_channel::<Bytes>();
        if *self == Self::KeepsMemoryInATask {
            tokio::spawn(async move {
                let mut kept = Vec::new();
                while let Some(piece) = memory.recv().await {
                    kept.push(piece);
                }
                std::future::pending::<()>().await;
            });
        }
        Ok(connection.sink(Splicer { bug: *self, outstanding, kept: Vec::new(), task }))
    }
}

/// Looks every millisecond, and releases all there is.
async fn watch(bug: Bug, connection: Weak<Connection>, outstanding: Arc<Mutex<Vec<u64>>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let Some(connection) = connection.upgrade() else { return };
        let release = match bug {
            Bug::ReleasesAtZero => unacknowledged(&connection.as_fd()).is_ok_and(|bytes| bytes == 0),
            _ => connection.reactor().failure().is_some(),
        };
        if release {
            let numbers = std::mem::take(&mut *outstanding.lock().unwrap_or_else(PoisonError::into_inner));
            for number in numbers {
                connection.ledger().complete_unreported(number);
            }
        }
    }
}

#[derive(Debug)]
struct Splicer {
    bug: Bug,
    outstanding: Arc<Mutex<Vec<u64>>>,
    kept: Vec<Bytes>,
    task: mpsc::UnboundedSender<Bytes>,
}

impl Splicer {
    /// One send by way of a new pipe. Returns how many bytes the socket took.
    fn splice(&self, connection: &Connection, data: &[u8]) -> io::Result<usize> {
        let (read, write) = pipe()?;
        let data = [IoSliceRaw::from_slice(data)];
        #[expect(unsafe_code, reason = "vmsplice makes the kernel refer to memory")]
        // SAFETY: the kernel only reads, and holds the pages, which outlive their mapping. That they may be written meanwhile is
        // the bug to be caught; it changes what the peer reads, not what this process does.
        let piped = unsafe { vmsplice(&write, &data, SpliceFlags::NONBLOCK) }?;
        let mut left = piped;
        while left > 0 {
            match splice(&read, None, connection.as_fd(), None, left, SpliceFlags::NONBLOCK) {
                Ok(bytes) => left -= bytes,
                Err(Errno::AGAIN) if left == piped => return Err(io::ErrorKind::WouldBlock.into()),
                Err(Errno::AGAIN) if self.bug == Bug::LosesResidue => return Ok(piped),
                // What is in the pipe goes with it, and was not accepted.
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(piped - left)
    }

    /// The socket has the first `sent` bytes of this memory: who keeps it, and until when.
    fn keep(&mut self, connection: &Connection, memory: Bytes) -> io::Result<()> {
        let (bytes, mut number) = (memory.len(), 0);
        connection.queue(Mechanism::Splice, [memory.clone()], bytes, |its| {
            number = its;
            Ok(Queued::Held)
        })?;
        connection.ledger().flush(bytes as u64);
        match self.bug {
            Bug::ReleasesAtZero | Bug::ReleasesAfterRevoke => {
                self.outstanding.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            }
            _ => drop(connection.ledger().complete_unreported(number)),
        }
        match self.bug {
            Bug::KeepsMemoryInTheSink => self.kept.push(memory),
            Bug::KeepsMemoryInATask => drop(self.task.send(memory)),
            _ => {}
        }
        Ok(())
    }
}

impl Transmit for Splicer {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Splice
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let failed = |error| SendError::new(Mechanism::Splice, "splice", error);
        loop {
            let mark = connection.reactor().mark();
            let sent = match queue.segments().first() {
                None => return Poll::Ready(Ok(0)),
                _ if connection.reactor().failure().is_some() => {
                    let error = connection.reactor().failure().unwrap_or_else(|| io::ErrorKind::Other.into());
                    return Poll::Ready(Err(failed(error)));
                }
                Some(Segment::Borrowed(slice)) if self.bug == Bug::SplicesBorrowed => {
                    connection.send(Mechanism::Splice, Proof::Copied, [], || self.splice(connection, slice))
                }
                Some(Segment::Borrowed(slice)) => {
                    connection.send_copy(&[io::IoSlice::new(slice)], false, Refusal::Borrowed)
                }
                Some(Segment::Owned(memory)) => {
                    let memory = memory.clone();
                    self.splice(connection, &memory)
                        .and_then(|sent| self.keep(connection, memory.slice(..sent)).map(|()| sent))
                }
            };
            match sent {
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx, mark)).map_err(failed)?;
                }
                Err(error) => return Poll::Ready(Err(failed(error))),
            }
        }
    }
}
