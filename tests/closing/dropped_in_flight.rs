//! Sinks that are dropped with memory in custody.

use zerosink::Ring;

use super::*;
use crate::harness::POISON;

/// Takes as much of the ring as is free now, and writes over it.
fn overwrite(ring: &Ring, taken: &mut Vec<Bytes>) {
    while let Ok(mut grant) = ring.try_reserve(PIECE) {
        grant.as_mut_slice().fill(POISON);
        grant.fill(PIECE).unwrap();
        taken.push(grant.commit());
    }
}

/// Fills the socket out of a ring, drops the sink, and at once overwrites what the ring gives back, while the peer has
/// read nothing. Then the peer reads. Returns how many bytes were accepted, and what it got.
pub(super) fn run(make: impl AsyncFnOnce(TcpStream) -> AutoSink, reads_at_once: bool) -> (usize, Received) {
    let (socket, reader) = connection(SMALL);
    let peer = Peer::reading(reader);
    let ring = Ring::builder().capacity(TOTAL).poison(POISON).build().unwrap();
    let accepted = runtime().block_on(async {
        let mut sink = make(socket).await;
        let mut queue = SendQueue::new();
        for start in (0..TOTAL).step_by(PIECE) {
            let mut grant = ring.try_reserve(PIECE).unwrap();
            grant.as_mut_slice().copy_from_slice(&stream(start as u64, PIECE));
            grant.fill(PIECE).unwrap();
            queue.push(grant.commit());
        }
        assert!(cut_after(1, || {}, sink.send_queue(&mut queue)).await.is_none());
        let accepted = TOTAL - queue.remaining();
        drop(queue);
        drop(sink);
        let mut taken = Vec::new();
        overwrite(&ring, &mut taken);
        if reads_at_once {
            peer.start();
        }
        // All of it comes back in the end, and each piece is overwritten as soon as it does.
        while taken.len() < TOTAL / PIECE {
            let mut grant = within("memory of the dropped sink", ring.reserve(PIECE)).await.unwrap();
            grant.as_mut_slice().fill(POISON);
            grant.fill(PIECE).unwrap();
            taken.push(grant.commit());
        }
        assert_eq!(ring.stats().quarantined, 0);
        accepted
    });
    (accepted, peer.finish())
}

#[test]
fn memory_of_a_dropped_sink_is_overwritten_at_once_and_the_peer_gets_the_right_bytes() {
    for mechanism in MECHANISMS {
        let (accepted, received) = run(async |socket| sink_by(*mechanism, socket).await, true);
        received.is_exactly(accepted);
    }
}

#[cfg(zerosink_linux)]
#[test]
fn a_dropped_sink_whose_peer_never_reads_is_reset_without_a_wrong_byte() {
    let make = async |socket: TcpStream| {
        let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(Duration::from_millis(300));
        socket.into_sink(config).await.unwrap()
    };
    let (accepted, received) = run(make, false);
    received.is_right();
    assert_eq!(received.end.as_ref().unwrap_err().kind(), ErrorKind::ConnectionReset, "{received:?}");
    assert!(received.bytes.len() < accepted);
}

/// Negative control: a backend that sends zero-copy and forgets custody.
#[cfg(zerosink_linux)]
mod control {
    use std::{
        sync::Arc,
        task::{Context, Poll},
    };

    use async_trait::async_trait;
    use zerosink::{AttachError, Backend, Connection, Path, Position, ReleaseError, SendError, SinkStats, Support};

    use super::*;

    #[derive(Debug)]
    struct Forgetful;

    struct ForgetfulSink(Arc<Connection>);

    #[async_trait]
    impl Backend for Forgetful {
        fn mechanism(&self) -> Mechanism {
            Mechanism::MsgZerocopy
        }

        fn probe(&self) -> Support {
            Support::Yes
        }

        async fn attach(
            &self,
            connection: &Arc<Connection>,
            config: &SinkConfig,
        ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
            // The real one switches SO_ZEROCOPY on.
            drop(zerosink::backends::MsgZerocopy.attach(connection, config).await?);
            Ok(Box::new(ForgetfulSink(Arc::clone(connection))))
        }
    }

    impl ZeroCopySink for ForgetfulSink {
        fn poll_send(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            queue: &mut SendQueue<'_>,
        ) -> Poll<Result<usize, SendError>> {
            let mark = self.0.reactor().mark();
            let fd = self.0.as_fd();
            let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match socket2::SockRef::from(&fd).send_with_flags(queue.segments()[0].as_slice(), flags) {
                Ok(bytes) => {
                    queue.advance(bytes);
                    Poll::Ready(Ok(bytes))
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    assert!(self.0.poll_writable(cx, mark).is_pending());
                    Poll::Pending
                }
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            Poll::Ready(Ok(()))
        }

        fn position(&self) -> Position {
            self.0.position()
        }

        fn poll_released(self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
            self.0.poll_released(cx, upto)
        }

        fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            Poll::Ready(Ok(()))
        }

        fn mechanism(&self) -> Mechanism {
            Mechanism::MsgZerocopy
        }

        fn path(&self) -> Path {
            self.0.path()
        }

        fn stats(&self) -> SinkStats {
            self.0.stats()
        }
    }

    #[test]
    fn control_a_backend_that_forgets_custody_is_caught_by_wrong_bytes() {
        let make = async |socket: TcpStream| {
            let sink = socket.into_sink(SinkConfig::new()).await.unwrap();
            sink.with_backend(&Forgetful, &SinkConfig::new()).await.unwrap()
        };
        let (accepted, received) = run(make, true);
        assert_eq!(received.bytes.len(), accepted);
        assert!(harness::first_wrong_byte(&received.bytes).is_some(), "{received:?}");
    }
}
