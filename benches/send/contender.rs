//! Who is measured.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use zerosink::{IntoSink, prelude::*};

use crate::{
    by_hand,
    ends::{Reader, Socket},
    store::{self, Memory, Store},
};

/// One way to send, and the memory that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    how: How,
    pub(crate) memory: Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// zerosink, insisting on a mechanism; with the user's word that an `AF_UNIX` peer copies, where it is asked for.
    Sink(Mechanism),
    /// The same system calls by hand.
    ByHand(by_hand::How),
    /// tokio's `write_all`.
    WriteAll,
}

/// When the first send began, and when everything was released.
pub(crate) type Times = (Instant, Instant);

const fn sink(name: &'static str, mechanism: Mechanism, memory: Memory) -> Contender {
    Contender { name, how: How::Sink(mechanism), memory }
}

const fn by_hand(name: &'static str, how: by_hand::How, memory: Memory) -> Contender {
    Contender { name, how: How::ByHand(how), memory }
}

const fn write_all(name: &'static str, memory: Memory) -> Contender {
    Contender { name, how: How::WriteAll, memory }
}

impl Contender {
    pub(crate) const COPY: Self = sink("copy", Mechanism::Copy, Memory::Block);
    pub(crate) const COPY_BY_HAND: Self = by_hand("send loop", by_hand::How::Copy, Memory::Block);
    pub(crate) const WRITE_ALL: Self = write_all("tokio write_all", Memory::Block);
    pub(crate) const ZEROCOPY: Self = sink("msg-zerocopy", Mechanism::MsgZerocopy, Memory::Block);
    pub(crate) const ZEROCOPY_BY_HAND: Self = by_hand("MSG_ZEROCOPY loop", by_hand::How::Zerocopy, Memory::Block);
    pub(crate) const IO_URING: Self = sink("io-uring", Mechanism::IoUring, Memory::Block);
    pub(crate) const IO_URING_BY_HAND: Self = by_hand("SEND_ZC loop", by_hand::How::IoUring, Memory::Block);
    pub(crate) const SPLICE: Self = sink("splice", Mechanism::Splice, Memory::Immutable);
    pub(crate) const SPLICE_BY_HAND: Self = by_hand("vmsplice+splice loop", by_hand::How::Splice, Memory::Immutable);
    pub(crate) const SENDFILE: Self = sink("splice of a memfd", Mechanism::Splice, Memory::Memfd);
    pub(crate) const SENDFILE_BY_HAND: Self = by_hand("sendfile loop", by_hand::How::Sendfile, Memory::Memfd);
    pub(crate) const GIFT: Self = sink("gift", Mechanism::Gift, Memory::FreshPages);
    pub(crate) const GIFT_BY_HAND: Self = by_hand("gift loop", by_hand::How::Gift, Memory::FreshPages);
    pub(crate) const WRITE_ALL_WALKED: Self = write_all("write_all of the same", Memory::Immutable);
    pub(crate) const WRITE_ALL_WRITTEN: Self = write_all("write_all of one buffer", Memory::WrittenBlock);
    pub(crate) const WRITE_ALL_BLOCK: Self = write_all("write_all of the same", Memory::ImmutableBlock);
    pub(crate) const WRITE_ALL_LEASE: Self = write_all("write_all of the same", Memory::Lease);
    pub(crate) const WRITE_ALL_RING: Self = write_all("write_all of the same", Memory::Ring);
    pub(crate) const SPLICE_BLOCK: Self = sink("splice of one block", Mechanism::Splice, Memory::ImmutableBlock);
    pub(crate) const SPLICE_LEASE: Self = sink("splice of one block in place", Mechanism::Splice, Memory::Lease);
    pub(crate) const SPLICE_IN_PLACE: Self = sink("splice of a ring in place", Mechanism::Splice, Memory::Ring);
    pub(crate) const SPLICE_FRESH: Self =
        sink("splice of a ring of fresh pages", Mechanism::Splice, Memory::FreshPages);

    /// False if this build does not have it.
    pub(crate) fn is_built(self) -> bool {
        self != Self::IO_URING || cfg!(zerosink_uring)
    }

    /// The time from the first send until the reader has found the end of file and all memory is released.
    pub(crate) fn run(self, (socket, reader): (Socket, Reader), store: &mut Store, total: u64) -> io::Result<Duration> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.name));
        let times = match self.how {
            How::Sink(mechanism) => on_tokio(store, |mut store| async move {
                let config = SinkConfig::new().mechanism(mechanism).peer_copies();
                let times = match socket {
                    Socket::Tcp(socket) => by_sink(socket, config, &mut store, total).await,
                    Socket::Unix(socket) => by_sink(socket, config, &mut store, total).await,
                };
                (times, store)
            }),
            How::WriteAll => {
                socket.set_nonblocking()?;
                on_tokio(store, |mut store| async move {
                    let times = match socket {
                        Socket::Tcp(socket) => {
                            by_write_all(tokio::net::TcpStream::from_std(socket), &mut store, total).await
                        }
                        Socket::Unix(socket) => {
                            by_write_all(tokio::net::UnixStream::from_std(socket), &mut store, total).await
                        }
                    };
                    (times, store)
                })
            }
            How::ByHand(how) => {
                socket.set_nonblocking()?;
                by_hand::run(how, &socket, store, total)
            }
        };
        let (start, released) = times.map_err(named)?;
        let read = reader.finish(total).map_err(named)?;
        Ok(released.max(read) - start)
    }
}

/// In a task, as services send.
fn on_tokio<F>(store: &mut Store, send: impl FnOnce(Store) -> F) -> io::Result<Times>
where
    F: Future<Output = (io::Result<Times>, Store)> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (times, lent) = runtime.block_on(runtime.spawn(send(mem::replace(store, Store::Buffer(Vec::new())))))?;
    *store = lent;
    times
}

async fn by_sink<S, By>(socket: S, config: SinkConfig, store: &mut Store, total: u64) -> io::Result<Times>
where
    S: IntoSink<By, Sink = AutoSink>,
{
    let mut sink = socket.into_sink(config).await?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        let bytes = match store {
            Store::Ring { ring, chunk } => store::reserve(ring, *chunk).await?,
            _ => store.share()?,
        };
        sent += bytes.len() as u64;
        sink.send(bytes).await?;
    }
    sink.close().await?;
    sink.released(total).await.map_err(io::Error::other)?;
    Ok((start, Instant::now()))
}

async fn by_write_all(socket: io::Result<impl AsyncWrite + Unpin>, store: &mut Store, total: u64) -> io::Result<Times> {
    let mut socket = socket?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        // As services do: what was sent is done with.
        let bytes = match store {
            Store::Buffer(_) => None,
            Store::Ring { ring, chunk } => Some(store::reserve(ring, *chunk).await?),
            Store::Kept { .. } => Some(store.share()?),
        };
        sent += match &bytes {
            Some(bytes) => write(&mut socket, bytes).await?,
            None => write(&mut socket, store.lend()?).await?,
        };
    }
    socket.shutdown().await?;
    Ok((start, Instant::now()))
}

async fn write(socket: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<u64> {
    socket.write_all(bytes).await?;
    Ok(bytes.len() as u64)
}
