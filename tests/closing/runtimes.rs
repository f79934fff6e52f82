//! Runtimes that end with memory in custody.

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
        let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(Duration::from_millis(300));
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

/// tokio's stream is of no use then; the sink made of it is.
#[cfg(zerosink_linux)]
#[test]
fn a_socket_whose_runtime_has_ended_is_driven_by_the_sinks_own() {
    for mechanism in MECHANISMS {
        let (socket, mut far) = connection(SMALL);
        socket.set_nonblocking(true).unwrap();
        let first = runtime();
        let socket = first.block_on(async { tokio::net::TcpStream::from_std(socket).unwrap() });
        drop(first);
        far.write_all(b"ready").unwrap();
        let peer = Peer::reading(far);
        runtime().block_on(async {
            let mut sink = socket.into_sink(SinkConfig::new().mechanism(*mechanism)).await.unwrap();
            let mut word = [0; 5];
            within("read", tokio::io::AsyncReadExt::read_exact(&mut sink, &mut word)).await.unwrap();
            assert_eq!(&word, b"ready");
            let mut queue = SendQueue::from(Bytes::from(stream(0, TOTAL)));
            fill(&mut sink, &mut queue).await;
            peer.start();
            within("send", sink.send_queue(&mut queue)).await.unwrap();
        });
        peer.finish().is_exactly(TOTAL);
    }
}
