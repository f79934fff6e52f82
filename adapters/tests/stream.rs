//! What a write answers, told by a sink that does as it is told.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zerosink_adapters::stream::ZeroCopyStream;
use zerosink_core::{
    Mechanism, Path, ReleaseError, Segment, SendError, SendQueue, SinkStats, ZeroCopySink, ring::Ring, sink::Position,
};

/// What the sink does with the next offer.
#[derive(Debug, Clone, Copy)]
enum Does {
    Accept(usize),
    Wait,
    Fail,
    /// Accepts some and fails in the same call.
    FailAfter(usize),
}

/// Each offer: per segment its bytes and whether it came with custody.
type Offers = Vec<Vec<(usize, bool)>>;

#[derive(Default)]
struct Scripted {
    script: VecDeque<Does>,
    offers: Arc<Mutex<Offers>>,
}

impl Scripted {
    fn stream(script: impl IntoIterator<Item = Does>) -> ZeroCopyStream<Self> {
        ZeroCopyStream::new(Self { script: script.into_iter().collect(), offers: Arc::default() })
    }
}

fn failure() -> SendError {
    SendError::new(Mechanism::Copy, "send", io::ErrorKind::ConnectionReset.into())
}

impl ZeroCopySink for Scripted {
    fn poll_send(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let offer = queue.segments().iter().map(|s| (s.as_slice().len(), matches!(s, Segment::Owned(_)))).collect();
        self.offers.lock().unwrap().push(offer);
        match self.script.pop_front().expect("the script has no more") {
            Does::Accept(bytes) => {
                queue.advance(bytes);
                Poll::Ready(Ok(bytes))
            }
            Does::Wait => Poll::Pending,
            Does::Fail => Poll::Ready(Err(failure())),
            Does::FailAfter(bytes) => {
                queue.advance(bytes);
                Poll::Ready(Err(failure().after(bytes)))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn poll_released(self: Pin<&mut Self>, _cx: &mut Context<'_>, _upto: u64) -> Poll<Result<(), ReleaseError>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism::Copy
    }

    fn path(&self) -> Path {
        Path::Unknown
    }

    fn stats(&self) -> SinkStats {
        SinkStats::default()
    }
}

/// One poll of a write.
async fn write(stream: &mut ZeroCopyStream<Scripted>, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
    let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))).await
}

#[tokio::test]
async fn a_write_goes_on_until_everything_is_accepted() {
    let mut stream = Scripted::stream([Does::Accept(3), Does::Accept(7)]);
    assert!(matches!(write(&mut stream, &[b"head", b"body!!"]).await, Poll::Ready(Ok(10))));
    let offers = stream.get_ref().offers.lock().unwrap().clone();
    assert_eq!(offers, [vec![(4, false), (6, false)], vec![(1, false), (6, false)]]);
}

#[tokio::test]
async fn a_write_that_accepted_something_does_not_wait() {
    let mut stream = Scripted::stream([Does::Accept(3), Does::Wait, Does::Wait]);
    assert!(matches!(write(&mut stream, &[b"head", b"body"]).await, Poll::Ready(Ok(3))));
    assert!(write(&mut stream, &[b"d", b"body"]).await.is_pending(), "nothing was accepted");
}

#[tokio::test]
async fn a_failure_after_accepted_bytes_comes_with_the_next_call() {
    for script in [vec![Does::Accept(3), Does::Fail], vec![Does::FailAfter(3)]] {
        let mut stream = Scripted::stream(script.clone());
        assert!(matches!(write(&mut stream, &[b"head"]).await, Poll::Ready(Ok(3))));
        let Poll::Ready(Err(error)) = write(&mut stream, &[b"d"]).await else { panic!("the failure is lost") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // The same told to a flush and a shutdown: who writes no more must learn of it.
        let mut stream = Scripted::stream(script.clone());
        assert!(matches!(write(&mut stream, &[b"head"]).await, Poll::Ready(Ok(3))));
        assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut stream = Scripted::stream(script);
        assert!(matches!(write(&mut stream, &[b"head"]).await, Poll::Ready(Ok(3))));
        assert_eq!(stream.shutdown().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    let mut stream = Scripted::stream([Does::Fail]);
    assert!(matches!(write(&mut stream, &[b"head"]).await, Poll::Ready(Err(_))), "nothing was accepted before");
}

#[tokio::test]
async fn an_empty_write_is_no_offer() {
    let mut stream = Scripted::stream([]);
    assert!(matches!(write(&mut stream, &[]).await, Poll::Ready(Ok(0))));
    assert!(matches!(write(&mut stream, &[b"", b""]).await, Poll::Ready(Ok(0))));
    assert!(matches!(poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, b""))).await, Poll::Ready(Ok(0))));
}

#[tokio::test]
async fn a_lease_is_offered_with_custody_and_what_has_no_owner_without() {
    let ring = Ring::builder().capacity(64 << 10).build().unwrap();
    let mut grant = ring.reserve(16 << 10).await.unwrap();
    bytes_of(&mut grant);
    let lease = grant.commit();
    let heap = vec![0; 16 << 10];
    let mut stream = Scripted::stream([Does::Accept((32 << 10) + 1124)]);
    let offered: [&[u8]; 4] = [b"head", &lease, &heap, &lease[..1120]];
    assert!(matches!(write(&mut stream, &offered).await, Poll::Ready(Ok(_))));
    let offers = stream.get_ref().offers.lock().unwrap().clone();
    assert_eq!(offers, [vec![(4, false), (16 << 10, true), (16 << 10, false), (1120, true)]]);
}

fn bytes_of(grant: &mut zerosink_core::ring::Grant) {
    grant.as_mut_slice().fill(7);
    grant.fill(16 << 10).unwrap();
}

#[tokio::test]
async fn an_endless_writer_lets_other_tasks_run() {
    let mut stream = Scripted::stream(std::iter::repeat_n(Does::Accept(1), 10_000));
    let waits = tokio::spawn(async move {
        for _ in 0..10_000 {
            if write(&mut stream, &[b"x"]).await.is_pending() {
                return true;
            }
        }
        false
    });
    assert!(waits.await.unwrap(), "10,000 writes and not one yield");
}

#[tokio::test]
async fn the_halves_of_a_split_stream_go_on_in_two_tasks() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let sink = zerosink_backends::AutoSink::auto(ours).await.unwrap();
    let (mut read, mut write) = tokio::io::split(ZeroCopyStream::new(sink));
    let (mut their_read, mut their_write) = theirs.into_split();
    const BYTES: usize = 4 << 20;
    // Each side reads only after it has written all: whoever waits to read must not keep the other half from writing.
    let out = tokio::spawn(async move {
        write.write_all(&vec![1; BYTES]).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let back = tokio::spawn(async move {
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        received
    });
    let mut received = Vec::new();
    their_read.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), BYTES);
    // Our sending direction is closed, theirs is open.
    their_write.write_all(&vec![2; BYTES]).await.unwrap();
    drop(their_write);
    drop(their_read);
    assert_eq!(back.await.unwrap(), vec![2; BYTES]);
    out.await.unwrap();
}
