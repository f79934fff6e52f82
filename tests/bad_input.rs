//! What cannot work is refused, with a reason and what to do. And what can be made a sink of works.

mod harness;

use std::{
    error::Error,
    io::{self, ErrorKind},
    net::{Ipv6Addr, TcpListener, TcpStream},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::{BufMut as _, Bytes};
use harness::{MECHANISMS, POISON, bounded, connection, read_all, runtime, sink_by, stream, within};
use tokio::io::AsyncReadExt as _;
use zerosink::{Address, Ring, prelude::*, ring::RingError};

/// What `socket` is refused with.
fn refused(socket: TcpStream) -> io::Error {
    runtime().block_on(within("auto", ZeroCopySink::auto(socket))).unwrap_err()
}

mod sockets {
    use super::*;

    #[test]
    fn a_socket_that_is_not_connected_is_refused() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let error = refused(socket.into());
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert!(error.to_string().contains("wait for connect to succeed"), "{error}");
    }

    /// The standard library's type says TCP, the descriptor in it is something else.
    #[cfg(zerosink_linux)]
    mod in_disguise {
        use std::net::{Ipv4Addr, UdpSocket};

        use super::*;

        #[test]
        fn a_datagram_socket_is_refused() {
            let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for connected in [true, false] {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                if connected {
                    socket.connect(peer.local_addr().unwrap()).unwrap();
                }
                let error = refused(TcpStream::from(std::os::fd::OwnedFd::from(socket)));
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains("not a stream socket"), "{error}");
            }
        }

        #[test]
        fn a_listening_socket_is_refused() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let error = refused(TcpStream::from(std::os::fd::OwnedFd::from(listener)));
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("accept a connection"), "{error}");
        }

        #[test]
        fn what_is_no_socket_is_refused() {
            let (read, _write) = io::pipe().unwrap();
            let error = refused(TcpStream::from(std::os::fd::OwnedFd::from(read)));
            assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK), "{error}");
        }
    }

    #[test]
    fn without_a_runtime_it_is_an_error_and_no_panic() {
        let (socket, reader) = connection(None);
        let mut made = pin!(ZeroCopySink::auto(socket));
        let Poll::Ready(made) = made.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits for a runtime that is not there");
        };
        let error = made.unwrap_err().to_string();
        assert!(error.contains("no tokio runtime") && error.contains("make the sink inside one"), "{error}");
        read_all(reader).is_exactly(0);
    }

    /// tokio panics when asked for what the runtime was built without. No other runtime is worse off for it.
    #[test]
    fn a_runtime_without_io_is_an_error_that_says_so_and_harms_nobody() {
        let (socket, reader) = connection(None);
        let without_io = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = without_io.block_on(ZeroCopySink::auto(socket)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("enable_io()"), "{error}");
        read_all(reader).is_exactly(0);
        let (socket, reader) = connection(None);
        bounded("a sink in another runtime", || {
            runtime().block_on(async {
                let mut sink = sink_by(Mechanism::Copy, socket).await;
                sink.send(Bytes::from(stream(0, 10))).await.unwrap();
            });
        });
        read_all(reader).is_exactly(10);
    }
}

mod mechanisms {
    use super::*;

    #[track_caller]
    fn assert_refused(error: &io::Error, mechanism: Mechanism) {
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{message}");
        let reason = message.strip_prefix(&format!("{mechanism} is refused: ")).unwrap_or_default();
        assert!(reason.len() > 10, "no reason in {message:?}");
    }

    #[test]
    fn a_forced_mechanism_that_this_build_has_not_is_refused_with_the_reason() {
        let missing: &[Mechanism] = if cfg!(zerosink_linux) {
            &[]
        } else {
            &[Mechanism::Splice, Mechanism::Gift, Mechanism::MsgZerocopy, Mechanism::IoUring]
        };
        for mechanism in missing {
            let (socket, reader) = connection(None);
            let config = SinkConfig::new().mechanism(*mechanism);
            let error = runtime().block_on(within("refusal", socket.into_sink(config))).unwrap_err();
            assert_refused(&error, *mechanism);
            // The socket is closed, not leaked.
            read_all(reader).is_exactly(0);
        }
    }

    /// Memory that is reused in place, without the user's word about the peer.
    #[cfg(zerosink_linux)]
    #[test]
    fn a_forced_mechanism_copies_what_it_must_not_refer_to_and_says_why() {
        use zerosink::Refusal::{NotFreshPages, PeerNotTrusted};
        for (mechanism, why) in [(Mechanism::Splice, PeerNotTrusted), (Mechanism::Gift, NotFreshPages)] {
            let (socket, reader) = connection(None);
            runtime().block_on(async {
                let mut sink = sink_by(mechanism, socket).await;
                within("send", sink.send(stream(0, 100_000))).await.unwrap();
                let stats = sink.stats();
                assert_eq!(stats.bytes_zero_copy, 0, "{stats:?}");
                assert_eq!(stats.copied_by().collect::<Vec<_>>(), [(why, 100_000)]);
            });
            read_all(reader).is_exactly(100_000);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_only_tcp_has_is_refused_on_unix_sockets() {
        for mechanism in [Mechanism::MsgZerocopy, Mechanism::IoUring] {
            let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
            let config = SinkConfig::new().mechanism(mechanism);
            let error = runtime().block_on(within("refusal", socket.into_sink(config))).unwrap_err();
            assert_refused(&error, mechanism);
        }
    }

    /// Negative control: what this build has is not refused.
    #[test]
    fn control_a_forced_mechanism_that_is_permitted_is_used() {
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(None);
            runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                assert_eq!(sink.mechanism(), *mechanism);
                within("send", sink.send(Bytes::from(stream(0, 100)))).await.unwrap();
                assert_eq!(sink.stats().bytes_zero_copy > 0, *mechanism != Mechanism::Copy);
            });
            read_all(reader).is_exactly(100);
        }
    }
}

#[test]
fn an_empty_queue_is_ok_0_at_once() {
    for mechanism in MECHANISMS {
        let (socket, reader) = connection(None);
        runtime().block_on(async {
            let mut sink = sink_by(*mechanism, socket).await;
            let mut queue = SendQueue::new();
            queue.push(Bytes::new());
            queue.push_borrowed(b"");
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(sent) = Pin::new(&mut sink).poll_send(&mut cx, &mut queue) else { panic!("it waits") };
            assert_eq!(sent.unwrap(), 0);
            sink.send(Bytes::new()).await.unwrap();
            sink.send_queue(&mut queue).await.unwrap();
            sink.released(0).await.unwrap();
            assert_eq!((sink.position().accepted, sink.stats().sends_zero_copy, sink.stats().sends_copied), (0, 0, 0));
        });
        read_all(reader).is_exactly(0);
    }
}

#[test]
fn zero_length_segments_between_others_change_nothing() {
    for mechanism in MECHANISMS {
        let (socket, reader) = connection(None);
        let data = stream(0, 3000);
        runtime().block_on(async {
            let mut sink = sink_by(*mechanism, socket).await;
            let mut queue = SendQueue::new();
            for (index, piece) in data.chunks(100).enumerate() {
                queue.push(Bytes::new());
                if index % 3 == 0 {
                    queue.push_borrowed(piece)
                } else {
                    queue.push(Bytes::copy_from_slice(piece))
                }
                queue.push_borrowed(b"");
            }
            within("send", sink.send_queue(&mut queue)).await.unwrap();
            within("release", sink.released(3000)).await.unwrap();
        });
        read_all(reader).is_exactly(3000);
    }
}

mod rings {
    use super::*;

    /// The message of the error and of its causes says `what`.
    #[track_caller]
    fn says(error: &RingError, what: &str) {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let message = format!("{error}: {cause}");
        assert!(message.contains(what), "{what:?} is not in {message:?}");
        io::Error::from(*error).to_string();
    }

    #[test]
    fn a_ring_of_nothing_is_refused() {
        let error = Ring::builder().capacity(0).build().unwrap_err();
        assert_eq!(error, RingError::ZeroCapacity);
        says(&error, "set a capacity");
        says(&Ring::builder().build().unwrap_err(), "set a capacity");
    }

    #[test]
    fn a_ring_of_more_memory_than_there_is_is_refused() {
        for capacity in [usize::MAX, usize::MAX / 2, usize::MAX / 2 + 1, isize::MAX as usize - 4096, 1 << 46] {
            let error = Ring::builder().capacity(capacity).build().unwrap_err();
            assert!(matches!(error, RingError::TooLarge { .. } | RingError::Memory(_)), "{capacity}: {error:?}");
            assert!(error.source().is_some() || error.to_string().contains("use one of at most"), "{error}");
        }
    }

    #[test]
    fn a_discipline_that_the_memory_cannot_keep_is_refused() {
        for reuse in [Reuse::FreshPages, Reuse::Immutable] {
            let error = Ring::builder().capacity(4096).reuse(reuse).build().unwrap_err();
            assert!(matches!(error, RingError::CannotKeep { .. }), "{error:?}");
            says(&error, "ask for in-place");
        }
    }

    #[tokio::test]
    async fn reservations_that_can_never_be_are_refused_at_once() {
        let ring = Ring::builder().capacity(4096).build().unwrap();
        for reserved in [within("reserve", ring.reserve(0)).await, ring.try_reserve(0)] {
            assert_eq!(reserved.as_ref().unwrap_err(), &RingError::ZeroReserve);
            says(&reserved.unwrap_err(), "reserve at least one");
        }
        for bytes in [ring.capacity() + 1, usize::MAX] {
            for reserved in [within("reserve", ring.reserve(bytes)).await, ring.try_reserve(bytes)] {
                let error = reserved.unwrap_err();
                assert!(matches!(error, RingError::TooLong { asked, longest: 4096 } if asked == bytes), "{error:?}");
                says(&error, "reserve less or build a larger ring");
            }
        }
        // Negative control: all of it can be had, and then nothing.
        let all = within("reserve", ring.reserve(ring.capacity())).await.unwrap();
        says(&ring.try_reserve(1).unwrap_err(), "wait with reserve");
        drop(all);
        drop(ring.try_reserve(ring.capacity()).unwrap());
    }

    #[test]
    fn a_grant_that_is_filled_less_than_reserved_never_sends_an_old_byte() {
        const SIZE: usize = 4096;
        for mechanism in MECHANISMS {
            let (socket, reader) = connection(None);
            let ring = Ring::builder().capacity(SIZE).build().unwrap();
            let sent = runtime().block_on(async {
                let mut sink = sink_by(*mechanism, socket).await;
                let mut sent = 0;
                for filled in [1, 100, SIZE / 2, SIZE - 1] {
                    // The lap before leaves its bytes everywhere.
                    let mut before = within("reserve", ring.reserve(SIZE)).await.unwrap();
                    before.put_bytes(POISON, SIZE);
                    drop(before.commit());
                    let mut grant = within("reserve", ring.reserve(SIZE)).await.unwrap();
                    grant.put_slice(&stream(sent, filled));
                    let lease = grant.commit();
                    assert_eq!(lease.len(), filled);
                    within("send", sink.send(lease)).await.unwrap();
                    sent += filled as u64;
                }
                sent
            });
            read_all(reader).is_exactly(sent as usize);
        }
    }

    #[test]
    fn a_wrong_count_sends_zeroes_or_is_refused() {
        let ring = Ring::builder().capacity(4096).build().unwrap();
        let mut before = ring.try_reserve(4096).unwrap();
        before.put_bytes(POISON, 4096);
        drop(before.commit());
        let mut grant = ring.try_reserve(4096).unwrap();
        let error = grant.fill(10).unwrap_err();
        assert_eq!(error, RingError::NotWritten { asked: 10, written: 0 });
        says(&error, "count what was written");
        grant.as_mut_slice()[..5].fill(1);
        // More than was written: zeroes, and not the lap before.
        grant.fill(100).unwrap();
        assert!(grant.fill(usize::MAX).is_err());
        let lease = grant.commit();
        assert_eq!(lease, [vec![1; 5], vec![0; 95]].concat());
    }

    #[test]
    fn a_grant_with_nothing_filled_is_an_empty_send() {
        let (socket, reader) = connection(None);
        let ring = Ring::builder().capacity(4096).build().unwrap();
        runtime().block_on(async {
            let mut sink = sink_by(Mechanism::Copy, socket).await;
            within("send", sink.send(ring.try_reserve(4096).unwrap().commit())).await.unwrap();
        });
        assert_eq!(ring.stats().free, 4096);
        read_all(reader).is_exactly(0);
    }
}

/// Every kind of socket that `auto` takes.
mod kinds {
    use super::*;

    /// Sends, and is asked and answered, over a whole socket.
    async fn sends_and_reads(sink: AutoSink, mut peer: impl io::Read + io::Write + Send + 'static) {
        let peer = std::thread::spawn(move || {
            peer.write_all(b"question").unwrap();
            let received = read_all(&mut peer);
            peer.write_all(b" and the rest").unwrap();
            received
        });
        let mut sink = sink;
        let mut question = [0; 8];
        within("read", sink.read_exact(&mut question)).await.unwrap();
        assert_eq!(&question, b"question");
        let (mut read, mut sink) = sink.into_split().unwrap();
        within("send", sink.send(Bytes::from(stream(0, 100_000)))).await.unwrap();
        within("close", sink.close()).await.unwrap();
        let mut rest = String::new();
        within("read", read.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, " and the rest");
        within("release", sink.released(100_000)).await.unwrap();
        peer.join().unwrap().is_exactly(100_000);
    }

    /// Sends by a write half, whose reading side stays with tokio.
    async fn sends_by_half(
        mut sink: AutoSink,
        mut read: impl tokio::io::AsyncRead + Unpin,
        mut peer: impl io::Read + io::Write + Send + 'static,
    ) {
        let peer = std::thread::spawn(move || {
            let received = read_all(&mut peer);
            peer.write_all(b"answer").unwrap();
            received
        });
        let error = within("read", sink.read_u8()).await.unwrap_err();
        assert!(error.to_string().contains("OwnedReadHalf"), "{error}");
        within("send", sink.send(Bytes::from(stream(0, 100_000)))).await.unwrap();
        within("release", sink.released(100_000)).await.unwrap();
        // No close: dropping the half ends the stream, as with tokio's own.
        drop(sink);
        let mut answer = String::new();
        within("read", read.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "answer");
        peer.join().unwrap().is_exactly(100_000);
    }

    fn tokio_tcp(socket: TcpStream) -> tokio::net::TcpStream {
        socket.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(socket).unwrap()
    }

    #[tokio::test]
    async fn std_tcp() {
        let (socket, peer) = connection(None);
        let (local, remote) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
        let sink = ZeroCopySink::auto(socket).await.unwrap();
        assert_eq!((sink.local_addr().unwrap(), sink.peer_addr().unwrap()), (local.into(), remote.into()));
        assert_eq!(sink.peer_addr().unwrap().to_string(), remote.to_string());
        sends_and_reads(sink, peer).await;
    }

    #[tokio::test]
    async fn tokio_tcp_whole() {
        let (socket, peer) = connection(None);
        let sink = ZeroCopySink::auto(tokio_tcp(socket)).await.unwrap();
        assert_eq!(sink.peer_addr().unwrap(), Address::Tcp(peer.local_addr().unwrap()));
        sends_and_reads(sink, peer).await;
    }

    #[tokio::test]
    async fn tokio_tcp_half() {
        let (socket, peer) = connection(None);
        let (read, write) = tokio_tcp(socket).into_split();
        let sink = ZeroCopySink::auto(write).await.unwrap();
        assert_eq!(sink.peer_addr().unwrap(), Address::Tcp(peer.local_addr().unwrap()));
        sends_by_half(sink, read, peer).await;
    }

    #[tokio::test]
    async fn a_write_half_has_no_reading_side_to_split_off() {
        let (socket, _peer) = connection(None);
        let (_read, write) = tokio_tcp(socket).into_split();
        let error = ZeroCopySink::auto(write).await.unwrap().into_split().unwrap_err();
        assert!(error.to_string().contains("OwnedReadHalf"), "{error}");
    }

    #[tokio::test]
    async fn tcp_over_ipv6() {
        let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
            return harness::skip("tcp_over_ipv6", "this host has no IPv6");
        };
        for mechanism in MECHANISMS {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (peer, _) = listener.accept().unwrap();
            let sink = sink_by(*mechanism, socket).await;
            assert_eq!(sink.peer_addr().unwrap(), Address::Tcp(listener.local_addr().unwrap()));
            sends_and_reads(sink, peer).await;
        }
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::net::{UnixListener, UnixStream};

        use super::*;

        #[tokio::test]
        async fn std_unix() {
            let (socket, peer) = UnixStream::pair().unwrap();
            let sink = ZeroCopySink::auto(socket).await.unwrap();
            assert_eq!(sink.peer_addr().unwrap(), Address::Unix(None));
            assert_eq!(sink.local_addr().unwrap().to_string(), "unix:(unnamed)");
            sends_and_reads(sink, peer).await;
        }

        #[tokio::test]
        async fn tokio_unix_whole_by_name() {
            let path = std::env::temp_dir().join(format!("zerosink-bad-input-{}.sock", std::process::id()));
            let listener = UnixListener::bind(&path).unwrap();
            let socket = tokio::net::UnixStream::connect(&path).await.unwrap();
            let (peer, _) = listener.accept().unwrap();
            std::fs::remove_file(&path).unwrap();
            let sink = ZeroCopySink::auto(socket).await.unwrap();
            assert_eq!(sink.peer_addr().unwrap(), Address::Unix(Some(path)));
            sends_and_reads(sink, peer).await;
        }

        #[tokio::test]
        async fn tokio_unix_half() {
            let (socket, peer) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            let (read, write) = tokio::net::UnixStream::from_std(socket).unwrap().into_split();
            let sink = ZeroCopySink::auto(write).await.unwrap();
            sends_by_half(sink, read, peer).await;
        }
    }
}
