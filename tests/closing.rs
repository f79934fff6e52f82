//! However a connection ends: the peer gets right bytes or a reset, memory comes back, and nobody waits for ever.

mod harness;

use std::{
    error::Error,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use harness::{
    MECHANISMS, Peer, Received, SMALL, Tally, connection, cut_after, read_all, runtime, sink_by, stream, until, within,
};
use zerosink::{SendError, prelude::*};

const TOTAL: usize = 512 << 10;
const PIECE: usize = 16 << 10;

/// The error with all its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(cause) = error.source() {
        text = format!("{text}: {cause}");
        error = cause;
    }
    text
}

/// `TOTAL` bytes of the stream, in lent pieces.
fn queue_of(tally: &Tally) -> SendQueue<'static> {
    let mut queue = SendQueue::new();
    for start in (0..TOTAL).step_by(PIECE) {
        queue.push(tally.lend(stream(start as u64, PIECE)));
    }
    queue
}

/// Sends until the socket is full.
async fn fill(sink: &mut AutoSink, queue: &mut SendQueue<'_>) {
    assert!(cut_after(1, || {}, sink.send_queue(queue)).await.is_none(), "the socket took all {TOTAL} bytes");
    assert!(sink.position().accepted > 0);
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

mod dropped_in_flight {
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
            let config =
                SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(Duration::from_millis(300));
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
}

mod runtimes {
    use super::*;

    #[test]
    fn memory_comes_back_after_the_runtime_has_ended() {
        for (mechanism, sink_outlives) in MECHANISMS.iter().flat_map(|m| [(*m, true), (*m, false)]) {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let first = runtime();
            let (sink, accepted) = first.block_on(async {
                let mut sink = sink_by(mechanism, socket).await;
                let mut queue = queue_of(&tally);
                fill(&mut sink, &mut queue).await;
                let accepted = TOTAL - queue.remaining();
                if sink_outlives {
                    (Some(sink), accepted)
                } else {
                    // It goes down with a task of the runtime.
                    tokio::spawn(async move {
                        let _sink = sink;
                        std::future::pending::<()>().await;
                    });
                    tokio::task::yield_now().await;
                    (None, accepted)
                }
            });
            drop(first);
            assert_eq!(tally.out() > 0, mechanism != Mechanism::Copy, "the peer has read nothing yet");
            // Another runtime, with a connection and a driver of its own, is not disturbed, and cannot use the old sink.
            runtime().block_on(async {
                let (socket, reader) = connection(None);
                let mut other = sink_by(mechanism, socket).await;
                within("a send in the second runtime", other.send(Bytes::from(stream(0, PIECE)))).await.unwrap();
                drop(other);
                read_all(reader).is_exactly(PIECE);
            });
            let sink = sink.map(|mut sink| {
                runtime().block_on(async {
                    let sent = within("a send in the wrong runtime", sink.send(Bytes::from(stream(0, PIECE)))).await;
                    if cfg!(zerosink_linux) {
                        let error = sent.unwrap_err();
                        assert_eq!((error.kind(), error.accepted), (ErrorKind::NotConnected, 0));
                        assert!(
                            chain(&error).contains("runtime that this sink was made in has ended"),
                            "{}",
                            chain(&error)
                        );
                    }
                    peer.start();
                    within("release", sink.released(accepted as u64)).await.unwrap();
                    assert_eq!(sink.stats().pinned_bytes, 0);
                });
                sink
            });
            peer.start();
            tally.wait_for_all();
            drop(sink);
            peer.finish().is_exactly(accepted);
        }
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn memory_comes_back_after_many_runtimes_have_ended_one_after_the_other() {
        let tally = Tally::default();
        let peers: Vec<_> = (0..12)
            .map(|_| {
                let (socket, reader) = connection(SMALL);
                let accepted = runtime().block_on(async {
                    let mut sink = sink_by(Mechanism::MsgZerocopy, socket).await;
                    let mut queue = queue_of(&tally);
                    fill(&mut sink, &mut queue).await;
                    TOTAL - queue.remaining()
                });
                (accepted, Peer::reading(reader))
            })
            .collect();
        assert!(tally.out() >= peers.len());
        for (accepted, peer) in peers {
            peer.finish().is_exactly(accepted);
        }
        tally.wait_for_all();
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn the_deadline_is_kept_after_the_runtime_has_ended() {
        let tally = Tally::default();
        let (socket, reader) = connection(SMALL);
        runtime().block_on(async {
            let config =
                SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(Duration::from_millis(300));
            let mut sink = socket.into_sink(config).await.unwrap();
            fill(&mut sink, &mut queue_of(&tally)).await;
        });
        assert!(tally.out() > 0);
        tally.wait_for_all();
        let received = read_all(reader);
        received.is_right();
        assert_eq!(received.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn a_send_that_waits_elsewhere_is_told_that_the_runtime_has_ended() {
        let (socket, _reader) = connection(SMALL);
        let first = runtime();
        let mut sink = first.block_on(sink_by(Mechanism::Copy, socket));
        let error = harness::bounded("a send whose runtime ends", move || {
            runtime().block_on(async {
                let mut first = Some(first);
                let end = || {
                    let first = first.take();
                    drop(tokio::task::spawn_blocking(|| drop(first)));
                };
                let data = Bytes::from(stream(0, TOTAL));
                cut_after(usize::MAX, end, sink.send(data)).await.unwrap().unwrap_err()
            })
        });
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert!(error.accepted > 0);
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn a_sink_made_while_its_runtime_ends_does_not_deadlock() {
        struct MakesASink(Option<TcpStream>);
        impl Drop for MakesASink {
            fn drop(&mut self) {
                let made = ZeroCopySink::auto(self.0.take().unwrap());
                let mut made = std::pin::pin!(made);
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(made.as_mut().poll(&mut cx).is_ready());
            }
        }
        harness::bounded("a runtime that ends", || {
            let (socket, reader) = connection(None);
            let runtime = runtime();
            let guard = MakesASink(Some(socket));
            runtime.spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
            runtime.block_on(tokio::task::yield_now());
            drop(runtime);
            read_all(reader).is_exactly(0);
        });
    }
}

mod peers {
    use super::*;

    #[test]
    fn a_reset_is_an_error_of_the_waiting_send_and_memory_comes_back() {
        for mechanism in MECHANISMS {
            let (socket, mut reader) = connection(SMALL);
            let tally = Tally::default();
            let peer = Peer::doing(move || {
                let mut some = vec![0; 1000];
                reader.read_exact(&mut some).unwrap();
                assert_eq!(some, stream(0, some.len()));
                reset(reader);
            });
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                let mut queue = queue_of(&tally);
                let sending = cut_after(usize::MAX, || peer.start(), sink.send_queue(&mut queue));
                let error = within("a send to a peer that resets", sending).await.unwrap().unwrap_err();
                assert_reset(&error);
                let accepted = sink.position().accepted;
                assert_eq!((error.accepted, queue.remaining()), (accepted as usize, TOTAL - accepted as usize));
                drop(queue);
                within("release after a reset", sink.released(accepted)).await.unwrap();
                assert_eq!((sink.stats().pinned_bytes, sink.stats().quarantined_bytes, tally.out()), (0, 0, 0));
                let error = within("a send after a reset", sink.send(Bytes::from(stream(0, 10)))).await.unwrap_err();
                assert_reset(&error);
                within("close after a reset", sink.close()).await.unwrap();
            });
            peer.finish();
        }
    }

    fn assert_reset(error: &SendError) {
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{}", chain(error));
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn a_reset_wakes_whoever_waits_for_release() {
        let (socket, reader) = connection(SMALL);
        let (tally, peer) = (Tally::default(), Peer::doing(move || reset(reader)));
        runtime().block_on(async {
            let mut sink = sink_by(Mechanism::MsgZerocopy, socket).await;
            fill(&mut sink, &mut queue_of(&tally)).await;
            let accepted = sink.position().accepted;
            let waiting = cut_after(usize::MAX, || peer.start(), sink.released(accepted));
            within("release after a reset", waiting).await.unwrap().unwrap();
            assert_eq!(tally.out(), 0);
        });
        peer.finish();
    }

    #[test]
    fn a_peer_that_has_closed_its_sending_side_still_gets_everything() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(SMALL);
            reader.shutdown(Shutdown::Write).unwrap();
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                let mut byte = [0];
                let read = within("end of file", tokio::io::AsyncReadExt::read(&mut sink, &mut byte)).await.unwrap();
                assert_eq!(read, 0);
                peer.start();
                within("send", sink.send_queue(&mut queue_of(&tally))).await.unwrap();
                within("release", sink.released(TOTAL as u64)).await.unwrap();
                assert_eq!(tally.out(), 0);
            });
            peer.finish().is_exactly(TOTAL);
        }
    }

    #[test]
    fn after_close_the_sink_still_reads() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(SMALL);
            let tally = Tally::default();
            let peer = Peer::doing(move || {
                let received = read_all(&reader);
                (&reader).write_all(b"all of it").unwrap();
                received
            });
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                peer.start();
                within("send", sink.send_queue(&mut queue_of(&tally))).await.unwrap();
                within("close", sink.close()).await.unwrap();
                let error = within("a send after close", sink.send(Bytes::from_static(b"more"))).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                let mut answer = String::new();
                within("answer", tokio::io::AsyncReadExt::read_to_string(&mut sink, &mut answer)).await.unwrap();
                assert_eq!(answer, "all of it");
                within("release", sink.released(TOTAL as u64)).await.unwrap();
                assert_eq!(tally.out(), 0);
            });
            peer.finish().is_exactly(TOTAL);
        }
    }

    #[cfg(zerosink_linux)]
    #[test]
    fn a_peer_that_never_reads_is_revoked_at_the_deadline() {
        let deadline = Duration::from_millis(500);
        for waits_in_send in [true, false] {
            let (socket, reader) = connection(SMALL);
            let tally = Tally::default();
            runtime().block_on(async {
                let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(deadline);
                let mut sink = socket.into_sink(config).await.unwrap();
                let mut queue = queue_of(&tally);
                let start = std::time::Instant::now();
                fill(&mut sink, &mut queue).await;
                let accepted = sink.position().accepted;
                assert!(sink.stats().pinned_bytes > 0);
                if waits_in_send {
                    let error = within("a send to a silent peer", sink.send_queue(&mut queue)).await.unwrap_err();
                    assert_timed_out(&error);
                }
                within("release", sink.released(accepted)).await.unwrap();
                assert!(start.elapsed() >= deadline, "cut off after {:?}", start.elapsed());
                assert_eq!((sink.stats().pinned_bytes, sink.stats().quarantined_bytes), (0, 0));
                assert_timed_out(&within("a send after the revoke", sink.send_queue(&mut queue)).await.unwrap_err());
                assert_timed_out(&within("close after the revoke", sink.close()).await.unwrap_err());
                drop(queue);
                assert_eq!(tally.out(), 0);
            });
            let received = read_all(reader);
            received.is_right();
            assert_eq!(received.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }

    #[cfg(zerosink_linux)]
    fn assert_timed_out(error: &SendError) {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{}", chain(error));
        assert!(chain(error).contains("the peer made no progress for 500ms"), "{}", chain(error));
    }

    /// 128 KiB/s is about 1 Mbit/s. The whole takes several times the deadline; the deadline counts time without progress.
    #[cfg(zerosink_linux)]
    #[test]
    fn a_slow_honest_client_is_not_cut_off() {
        const RATE: usize = 128 << 10;
        let deadline = Duration::from_millis(1500);
        let (socket, mut reader) = connection(SMALL);
        let tally = Tally::default();
        let start = std::time::Instant::now();
        let peer = Peer::doing(move || {
            // The pace is the client's nature here, nobody waits for it.
            let mut received = Vec::new();
            let mut piece = vec![0; 4096];
            let start = std::time::Instant::now();
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => return Received { bytes: received, end: Ok(()) },
                    Ok(bytes) => received.extend_from_slice(&piece[..bytes]),
                    Err(error) => return Received { bytes: received, end: Err(error) },
                }
                let due = Duration::from_secs_f64(received.len() as f64 / RATE as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        });
        peer.start();
        runtime().block_on(async {
            let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(deadline);
            let mut sink = socket.into_sink(config).await.unwrap();
            within("send", sink.send_queue(&mut queue_of(&tally))).await.unwrap();
            within("release", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!((sink.stats().quarantined_bytes, tally.out()), (0, 0));
            assert!(start.elapsed() > 2 * deadline, "too fast to say anything: {:?}", start.elapsed());
        });
        peer.finish().is_exactly(TOTAL);
    }

    #[test]
    fn dropping_the_read_half_or_the_sink_leaves_the_other() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(SMALL);
            let tally = Tally::default();
            let peer = Peer::reading(reader.try_clone().unwrap());
            runtime().block_on(async {
                let (read, mut sink) = sink_by(*mechanism, socket).await.into_split().unwrap();
                drop(read);
                peer.start();
                within("send", sink.send_queue(&mut queue_of(&tally))).await.unwrap();
                within("release", sink.released(TOTAL as u64)).await.unwrap();
                let accepted = sink.position().accepted;
                let (mut read, sink) = sink.into_split().unwrap();
                drop(sink);
                tokio::task::spawn_blocking(|| peer.finish()).await.unwrap().is_exactly(accepted as usize);
                (&reader).write_all(b"to the read half").unwrap();
                drop(reader);
                let mut answer = String::new();
                within("read", tokio::io::AsyncReadExt::read_to_string(&mut read, &mut answer)).await.unwrap();
                assert_eq!(answer, "to the read half");
            });
            tally.wait_for_all();
        }
    }

    #[test]
    fn a_full_socket_wakes_its_writer_when_the_peer_reads() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(SMALL);
            let peer = Peer::reading(reader);
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                let mut queue = SendQueue::from(Bytes::from(stream(0, TOTAL)));
                fill(&mut sink, &mut queue).await;
                let mut polls = 0;
                let sending = std::future::poll_fn(|cx| {
                    polls += 1;
                    peer.start();
                    while !queue.is_empty() {
                        std::task::ready!(Pin::new(&mut sink).poll_send(cx, &mut queue)).unwrap();
                    }
                    std::task::Poll::Ready(())
                });
                within("send", sending).await;
                // Each wake-up stands for room in the socket: no spin.
                assert!(polls <= TOTAL / 1024, "{polls} polls for {TOTAL} bytes");
                drop(sink);
            });
            peer.finish().is_exactly(TOTAL);
        }
    }

    #[test]
    fn closing_twice_and_an_idle_close_are_no_errors() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(None);
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                for _ in 0..2 {
                    within("close", sink.close()).await.unwrap();
                }
                read_all(reader).is_exactly(0);
                until("release", || sink.position().released == 0).await;
            });
        }
    }
}

/// Packets that wait in a queue of the network keep their memory even when the connection is revoked.
#[cfg(zerosink_linux)]
#[test]
fn what_a_revoke_does_not_free_is_quarantined_and_counted_until_it_is() {
    let name = "what_a_revoke_does_not_free_is_quarantined_and_counted_until_it_is";
    if !harness::is_child() {
        return harness::run_in_network_namespace(name);
    }
    let run = |command: &str| {
        let mut words = command.split(' ');
        std::process::Command::new(words.next().unwrap()).args(words).output().is_ok_and(|out| out.status.success())
    };
    assert!(run("ip link set lo mtu 1500"));
    let (socket, reader) = connection(None);
    // A few packets, and then one in twelve seconds.
    if !run("tc qdisc add dev lo root tbf rate 1kbit burst 6000 limit 10000000") {
        return harness::skip(name, "this kernel has no token bucket filter");
    }
    let tally = Tally::default();
    runtime().block_on(async {
        let timeout = Duration::from_millis(300);
        let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(timeout);
        let mut sink = socket.into_sink(config).await.unwrap();
        let mut queue = queue_of(&tally);
        drop(cut_after(1, || {}, sink.send_queue(&mut queue)).await);
        drop(queue);
        let accepted = sink.position().accepted;
        let error = within("release", sink.released(accepted)).await.unwrap_err();
        assert!(error.quarantined > 0 && error.to_string().contains("will not be reused"), "{error}");
        assert_eq!(sink.stats().quarantined_bytes, error.quarantined);
        assert_eq!(sink.stats().pinned_bytes, error.quarantined);
        assert!(tally.out() > 0, "not given back: somebody still reads it");
        // Asked again, it says so again, and at once.
        assert_eq!(within("release", sink.released(accepted)).await.unwrap_err(), error);
        assert!(run("tc qdisc del dev lo root"));
        until("proof", || sink.stats().quarantined_bytes == 0).await;
        within("release", sink.released(accepted)).await.unwrap();
        assert_eq!((sink.stats().pinned_bytes, sink.stats().strays, tally.out()), (0, 0, 0));
    });
    // The reset was in that queue also: what has come is all that comes.
    reader.set_nonblocking(true).unwrap();
    read_all(reader).is_right();
}
