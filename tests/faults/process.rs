//! What happens to whole processes and runtimes in mid-stream.

use std::{
    env,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::{Command, Stdio},
};

use bytes::Bytes;
use rustix::process::{Pid, WaitOptions, waitpid};
use zerosink::{SendError, mapped::Replacement, prelude::*};

use super::{
    alone,
    harness::{self, MECHANISMS, POISON, Peer, SMALL, Tally, cut_after, runtime, sink_by, stream, within},
    transfer::{Memory, Socket, TOTAL, Way},
};

const ADDRESS: &str = "ZEROSINK_TEST_ADDRESS";

const fn by(mechanism: Mechanism, unix: bool, memory: Memory) -> Way {
    Way { name: "in mid-stream", mechanism: Some(mechanism), unix, memory }
}

/// Ways that need nobody's word.
fn ways() -> Vec<Way> {
    let anonymous = Memory::Anonymous(Replacement::DontNeed);
    let mut ways: Vec<_> = MECHANISMS.iter().map(|mechanism| by(*mechanism, false, Memory::Heap)).collect();
    ways.extend([
        by(Mechanism::Splice, false, anonymous),
        by(Mechanism::Splice, true, anonymous),
        by(Mechanism::Splice, false, Memory::Memfd),
        by(Mechanism::Gift, false, anonymous),
        by(Mechanism::Gift, true, Memory::Anonymous(Replacement::MapFixed)),
        by(Mechanism::Gift, false, Memory::Memfd),
    ]);
    ways
}

/// A child that shares all memory and descriptors until it ends, while the ring goes round. What it writes is its own, except into a
/// memfd: a page that a socket refers to is not written in place.
#[test]
fn a_fork_in_mid_stream_changes_nothing() {
    if !alone("process::a_fork_in_mid_stream_changes_nothing") {
        return;
    }
    for way in ways() {
        let (told, tell) = io::pipe().unwrap();
        let (written, write) = io::pipe().unwrap();
        let mut child = 0;
        let fork = |sent: &[std::ops::Range<usize>]| {
            #[expect(unsafe_code, reason = "std has no fork")]
            // SAFETY: the child writes memory, makes three system calls and ends: it takes no lock that another thread may have had.
            unsafe {
                child = libc::fork();
            }
            if child == 0 {
                for range in sent.iter().filter(|_| way.memory != Memory::Memfd) {
                    #[expect(unsafe_code, reason = "it is the parent's memory that this must not reach")]
                    // SAFETY: private memory of this process, which does nothing with it any more.
                    unsafe {
                        std::ptr::with_exposed_provenance_mut::<u8>(range.start).write_bytes(POISON, range.len());
                    }
                }
                rustix::io::write(&write, &[0]).ok();
                rustix::io::read(&told, &mut [0; 1]).ok();
                #[expect(unsafe_code, reason = "the test harness is the parent's")]
                // SAFETY: ends the child here and now.
                unsafe {
                    libc::_exit(0);
                }
            }
            rustix::io::read(&written, &mut [0; 1]).unwrap();
        };
        // The peer reads end of file although the child still has the socket.
        let outcome = way.transfer_with(|| {}, fork, || {});
        assert!(child > 0, "fork");
        (&tell).write_all(&[0]).unwrap();
        let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!((outcome.is_whole(), status.exit_status()), (true, Some(0)), "{way:?}: {outcome:?}");
        assert_eq!(outcome.stats.bytes_copied == 0, way.mechanism != Some(Mechanism::Copy), "{way:?}: {outcome:?}");
    }
}

fn is_gone(error: &SendError) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// The peer's process is killed while the sender waits for it.
#[test]
fn a_killed_peer_is_an_error_and_memory_comes_back() {
    for way in ways() {
        let (socket, reader): (Socket, OwnedFd) = if way.unix {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (Socket::Unix(ours), theirs.into())
        } else {
            let (ours, theirs) = harness::connection(SMALL);
            (Socket::Tcp(ours), theirs.into())
        };
        let mut peer = Command::new("sleep").arg("600").stdin(Stdio::from(reader)).spawn().unwrap();
        let (ring, tally) = (way.ring(), Tally::default());
        runtime().block_on(async {
            let mut sink = socket.into_sink(way.config()).await.unwrap();
            let error = loop {
                let mut queue = way.piece(sink.position().accepted as usize, ring.as_ref(), &tally).await;
                match cut_after(1, || {}, sink.send_queue(&mut queue)).await {
                    Some(sent) => sent.unwrap(),
                    None => {
                        peer.kill().unwrap();
                        peer.wait().unwrap();
                        break within("the error", sink.send_queue(&mut queue)).await.unwrap_err();
                    }
                }
                assert!(sink.position().accepted < 64 << 20, "it reads");
            };
            assert!(is_gone(&error), "{way:?}: {error:?}");
            within("release", sink.released(sink.position().accepted)).await.unwrap();
            assert_eq!((sink.stats().pinned_bytes, sink.stats().abandoned_bytes), (0, 0), "{way:?}");
        });
        tally.wait_for_all();
        if let Some(ring) = ring {
            let stats = ring.stats();
            assert_eq!((stats.free, stats.quarantined), (stats.capacity, 0), "{way:?}: {stats:?}");
        }
    }
}

fn queue_of(tally: &Tally) -> SendQueue<'static> {
    let mut queue = SendQueue::new();
    queue.push(tally.lend(stream(0, TOTAL)));
    queue
}

/// A runtime whose threads drive the sink, while another one polls it.
#[test]
fn a_sink_is_sent_on_from_another_runtime_while_its_own_runs() {
    for mechanism in MECHANISMS {
        let (socket, reader) = harness::connection(SMALL);
        let (tally, peer) = (Tally::default(), Peer::reading(reader));
        let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut sink = own.block_on(sink_by(*mechanism, socket));
        runtime().block_on(async {
            let mut queue = queue_of(&tally);
            let sent = cut_after(usize::MAX, || peer.start(), sink.send_queue(&mut queue));
            within("a send in another runtime", sent).await.unwrap().unwrap();
            within("release in another runtime", sink.released(TOTAL as u64)).await.unwrap();
        });
        drop(sink);
        peer.finish().is_exactly(TOTAL);
        tally.wait_for_all();
    }
}

#[test]
fn a_task_that_panics_in_mid_send_gives_its_memory_back_and_the_peer_what_was_accepted() {
    for mechanism in MECHANISMS {
        let (socket, reader) = harness::connection(SMALL);
        let (tally, peer) = (Tally::default(), Peer::reading(reader));
        let runtime = runtime();
        let accepted = runtime.block_on(async {
            let (say, said) = tokio::sync::oneshot::channel();
            let lent = tally.clone();
            let sink = sink_by(*mechanism, socket).await;
            let task = tokio::spawn(async move {
                let mut sink = sink;
                let mut queue = queue_of(&lent);
                drop(cut_after(1, || {}, sink.send_queue(&mut queue)).await);
                say.send(sink.position().accepted).unwrap();
                std::panic::resume_unwind(Box::new("in mid-send"));
            });
            assert!(within("the task", task).await.unwrap_err().is_panic());
            peer.start();
            // The runtime goes on, and so does its driver.
            harness::until("memory", || tally.out() == 0).await;
            said.await.unwrap()
        });
        assert!(accepted > 0);
        peer.finish().is_exactly(accepted as usize);
    }
}

/// `panic = "abort"`: the process is gone at once, whatever the kernel still has to send.
#[test]
fn a_process_that_aborts_in_mid_send_has_sent_no_wrong_byte() {
    const TEST: &str = "process::a_process_that_aborts_in_mid_send_has_sent_no_wrong_byte";
    if let Ok(address) = env::var(ADDRESS) {
        return send_and_abort(address.parse().unwrap());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ADDRESS, listener.local_addr().unwrap().to_string());
    let peers = std::thread::spawn(move || {
        let accept = |_: &Mechanism| listener.accept().unwrap().0;
        MECHANISMS.iter().map(accept).collect::<Vec<_>>()
    });
    let output = harness::child(command, TEST);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    for peer in peers.join().unwrap() {
        let received = harness::read_all(peer);
        received.is_right();
        assert!(!received.bytes.is_empty(), "{received:?}");
    }
}

fn send_and_abort(address: SocketAddr) {
    runtime().block_on(async {
        let mut sinks = Vec::new();
        for mechanism in MECHANISMS {
            let mut sink = sink_by(*mechanism, TcpStream::connect(address).unwrap()).await;
            drop(cut_after(1, || {}, sink.send(Bytes::from(stream(0, 8 << 20)))).await);
            assert!(sink.position().accepted > 0);
            sinks.push(sink);
        }
        std::panic::set_hook(Box::new(|_| std::process::abort()));
        panic!("in mid-send");
    });
}
