//! A sink that counts where the bytes came from that it was offered: what the kernel then does with them is another matter.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpListener, TcpStream},
};
use zerosink::{
    AutoSink, IntoSink, Mechanism, Path, Position, ReleaseError, Segment, SendError, SendQueue, SinkConfig, SinkStats,
    ZeroCopySink, hyper::Accept, region::facts_of,
};

/// Bytes that all connections of a listener have accepted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    owned: AtomicU64,
    stray: AtomicU64,
    copied: AtomicU64,
    partial: AtomicU64,
    stats: Mutex<Vec<SinkStats>>,
}

impl Counts {
    /// Offered with custody.
    pub(crate) fn owned(&self) -> u64 {
        self.owned.load(Relaxed)
    }

    /// Ring memory that was offered to be copied.
    pub(crate) fn stray(&self) -> u64 {
        self.stray.load(Relaxed)
    }

    /// Everything else.
    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Relaxed)
    }

    /// Segments that were accepted in part.
    pub(crate) fn partial(&self) -> u64 {
        self.partial.load(Relaxed)
    }

    /// The last counters of each connection that has ended.
    pub(crate) fn stats(&self) -> Vec<SinkStats> {
        self.stats.lock().unwrap().clone()
    }
}

pub(crate) struct CountingListener {
    listener: TcpListener,
    pub(crate) counts: Arc<Counts>,
}

impl CountingListener {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), counts: Arc::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

impl Accept for CountingListener {
    type Socket = Counted;
    type Address = SocketAddr;

    async fn accept(&mut self) -> io::Result<(Counted, SocketAddr)> {
        let (socket, peer) = self.listener.accept().await?;
        Ok((Counted(socket, Arc::clone(&self.counts)), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

pub(crate) struct Counted(TcpStream, Arc<Counts>);

/// Marks `IntoSink` of this test.
pub(crate) enum ByCounting {}

impl IntoSink<ByCounting> for Counted {
    type Sink = CountingSink;

    async fn into_sink(self, config: SinkConfig) -> io::Result<CountingSink> {
        Ok(CountingSink { sink: self.0.into_sink(config).await?, counts: self.1 })
    }
}

pub(crate) struct CountingSink {
    sink: AutoSink,
    counts: Arc<Counts>,
}

impl ZeroCopySink for CountingSink {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let offered: Vec<_> = queue
            .segments()
            .iter()
            .map(|segment| {
                let owned = matches!(segment, Segment::Owned(_));
                (segment.as_slice().len(), owned, facts_of(segment.as_slice()).is_some())
            })
            .collect();
        let result = Pin::new(&mut self.sink).poll_send(cx, queue);
        if let Poll::Ready(Ok(accepted)) = result {
            let mut left = accepted;
            for (length, owned, known) in offered {
                let taken = length.min(left);
                left -= taken;
                if taken < length && taken > 0 {
                    self.counts.partial.fetch_add(1, Relaxed);
                }
                let counter = match (owned, known) {
                    (true, _) => &self.counts.owned,
                    (false, true) => &self.counts.stray,
                    (false, false) => &self.counts.copied,
                };
                counter.fetch_add(taken as u64, Relaxed);
            }
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.sink).poll_flush(cx)
    }

    fn position(&self) -> Position {
        self.sink.position()
    }

    fn poll_released(mut self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        Pin::new(&mut self.sink).poll_released(cx, upto)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.sink).poll_close(cx)
    }

    fn mechanism(&self) -> Mechanism {
        self.sink.mechanism()
    }

    fn path(&self) -> Path {
        self.sink.path()
    }

    fn stats(&self) -> SinkStats {
        self.sink.stats()
    }
}

impl AsyncRead for CountingSink {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_read(cx, buffer)
    }
}

impl Drop for CountingSink {
    fn drop(&mut self) {
        self.counts.stats.lock().unwrap().push(self.sink.stats());
    }
}
