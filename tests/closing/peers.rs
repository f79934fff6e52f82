//! Peers that reset, close, stall, or are merely slow.

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
            match within("close after a reset", sink.close()).await {
                Ok(()) => assert_eq!(sink.position().flushed, accepted),
                // A queued send was cut off: its bytes will never be in the socket.
                Err(error) => {
                    assert_reset(&error);
                    assert!(sink.position().flushed < accepted, "{mechanism}: all was flushed");
                }
            }
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

/// Nothing is in custody of a sink that copies, but whatever the writer holds is kept by the peer all the same.
#[cfg(zerosink_linux)]
#[test]
fn a_writer_that_waits_for_a_silent_peer_is_cut_off_at_the_deadline() {
    let deadline = Duration::from_millis(500);
    let config = SinkConfig::new().mechanism(Mechanism::Copy).release_timeout(deadline);
    runtime().block_on(async {
        let (tcp, tcp_peer) = connection(SMALL);
        let (unix, unix_peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let sinks = [tcp.into_sink(config.clone()).await.unwrap(), unix.into_sink(config).await.unwrap()];
        for mut sink in sinks {
            let start = std::time::Instant::now();
            let stream = Bytes::from(stream(0, 16 << 20));
            let error = within("a send to a silent peer", sink.send(stream.clone())).await.unwrap_err();
            assert_timed_out(&error);
            assert!(start.elapsed() >= deadline, "cut off after {:?}", start.elapsed());
            assert_timed_out(&within("a send after the revoke", sink.send(stream)).await.unwrap_err());
        }
        drop((tcp_peer, unix_peer));
    });
}

#[cfg(zerosink_linux)]
#[test]
fn a_connection_that_was_full_once_may_be_idle_for_longer_than_the_deadline() {
    let deadline = Duration::from_millis(200);
    let (socket, reader) = connection(SMALL);
    let peer = Peer::reading(reader);
    runtime().block_on(async {
        let config = SinkConfig::new().mechanism(Mechanism::Copy).release_timeout(deadline);
        let mut sink = socket.into_sink(config).await.unwrap();
        let mut queue = SendQueue::from(stream(0, TOTAL));
        fill(&mut sink, &mut queue).await;
        assert!(!queue.is_empty(), "the socket was never full");
        peer.start();
        within("send", sink.send_queue(&mut queue)).await.unwrap();
        // Time is the subject here.
        tokio::time::sleep(4 * deadline).await;
        within("a send after idleness", sink.send(stream(TOTAL as u64, 100))).await.unwrap();
        within("close", sink.close()).await.unwrap();
    });
    peer.finish().is_exactly(TOTAL + 100);
}

/// 128 KiB/s is about 1 Mbit/s. The whole takes several times the deadline; the deadline counts time without progress.
#[cfg(zerosink_linux)]
#[test]
fn a_slow_honest_client_is_not_cut_off() {
    // Custody waits for the client here, and the writer there.
    std::thread::scope(|scope| {
        scope.spawn(|| serve_slow_client(Mechanism::MsgZerocopy));
        scope.spawn(|| serve_slow_client(Mechanism::Copy));
    });
}

#[cfg(zerosink_linux)]
fn serve_slow_client(mechanism: Mechanism) {
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
        let config = SinkConfig::new().mechanism(mechanism).release_timeout(deadline);
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
