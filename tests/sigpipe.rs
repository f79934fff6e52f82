//! A peer that is gone costs an error and not the process: `splice` and `sendfile` raise SIGPIPE, and know no `MSG_NOSIGNAL`.
#![cfg(zerosink_linux)]
#![expect(unsafe_code, reason = "signals are the subject")]

mod harness;
mod support;

use std::{
    env, io, mem,
    net::Shutdown,
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    process::Command,
    ptr,
};

use bytes::Bytes;
use harness::{runtime, within};
use support::{
    filled,
    mapped::{Kind, mapped_ring},
    raw::HastySink,
};
use zerosink::prelude::*;

const BYTES: usize = 64 << 10;

/// Signals as the C library has them at the start of a program. (Rust's run-time ignores SIGPIPE.)
fn default_sigpipe() {
    // SAFETY: SIG_DFL runs no code of ours.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

fn only_sigpipe() -> libc::sigset_t {
    // SAFETY: a signal set is plain data, which the call fills.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is one.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: initialised by the call before.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGPIPE) };
    set
}

fn is_pending() -> bool {
    // SAFETY: as above.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is a signal set.
    unsafe { libc::sigpending(&raw mut set) };
    // SAFETY: filled by the call before.
    unsafe { libc::sigismember(&raw const set, libc::SIGPIPE) == 1 }
}

/// Blocks SIGPIPE on this thread, or says that it is blocked.
fn block() -> bool {
    // SAFETY: as above.
    let mut before = unsafe { mem::zeroed() };
    // SAFETY: both sets are valid.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only_sigpipe(), &raw mut before) };
    assert_eq!(result, 0);
    // SAFETY: filled by the call before.
    unsafe { libc::sigismember(&raw const before, libc::SIGPIPE) == 1 }
}

fn is_blocked() -> bool {
    // SAFETY: as above.
    let mut mask = unsafe { mem::zeroed() };
    // SAFETY: without a new mask the call only writes the present one.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut mask) };
    assert_eq!(result, 0);
    // SAFETY: filled by the call before.
    unsafe { libc::sigismember(&raw const mask, libc::SIGPIPE) == 1 }
}

/// Every way to send, each to a peer that is gone. Twice, for the first send may find out and not fail.
fn send_to_nobody() {
    let gone = |error: &zerosink::SendError| {
        matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    };
    for mechanism in harness::MECHANISMS {
        let (socket, _reader) = harness::connection(None);
        socket.shutdown(Shutdown::Write).unwrap();
        runtime().block_on(async {
            let mut sink = harness::sink_by(*mechanism, socket).await;
            for _ in 0..2 {
                let sent = async {
                    sink.send(vec![0; BYTES]).await?;
                    // A queued send fails later.
                    sink.flush().await
                };
                let error = within("send", sent).await.unwrap_err();
                assert!(gone(&error), "{mechanism}: {error:?}");
            }
        });
    }
    for (mechanism, kind) in [
        (Mechanism::Splice, Kind::Anonymous),
        (Mechanism::Splice, Kind::Memfd),
        (Mechanism::Gift, Kind::Anonymous),
        (Mechanism::Gift, Kind::Memfd),
    ] {
        for unix in [true, false] {
            let ring = mapped_ring(kind, 4 * BYTES, Reuse::FreshPages);
            runtime().block_on(async {
                let config = SinkConfig::new().mechanism(mechanism);
                let mut sink = if unix {
                    UnixStream::pair().unwrap().0.into_sink(config).await.unwrap()
                } else {
                    let (socket, _reader) = harness::connection(None);
                    // As after a reset: every write is one to a closed pipe.
                    socket.shutdown(Shutdown::Write).unwrap();
                    socket.into_sink(config).await.unwrap()
                };
                for _ in 0..2 {
                    let piece = filled(ring.try_reserve(BYTES).unwrap(), 0, BYTES);
                    let error = within("send", sink.send(piece)).await.unwrap_err();
                    assert!(gone(&error), "{error:?}");
                }
                let error = within("send", sink.send(Bytes::from_static(b"copied"))).await.unwrap_err();
                assert!(gone(&error), "{error:?}");
            });
        }
    }
}

#[test]
fn a_peer_that_is_gone_does_not_kill_the_process() {
    if !harness::is_child() {
        let command = Command::new(env::current_exe().unwrap());
        return harness::run_child(command, "a_peer_that_is_gone_does_not_kill_the_process");
    }
    default_sigpipe();
    send_to_nobody();
    assert!(!is_pending() && !is_blocked(), "nothing is left behind");
}

/// Negative control: the same by hand.
#[test]
fn control_splice_by_hand_kills_the_process() {
    const TEST: &str = "control_splice_by_hand_kills_the_process";
    if !harness::is_child() {
        let output = harness::child(Command::new(env::current_exe().unwrap()), TEST);
        assert_eq!(output.status.signal(), Some(libc::SIGPIPE), "{output:?}");
        return;
    }
    default_sigpipe();
    let (socket, _reader) = harness::connection(None);
    socket.shutdown(Shutdown::Write).unwrap();
    let mut sink = HastySink::by_splice(socket).unwrap();
    let error = runtime().block_on(sink.send(Bytes::from(vec![0; BYTES]))).unwrap_err();
    panic!("it lives, and has an error: {error}");
}

/// Somebody who has SIGPIPE blocked gets none of ours, and keeps his.
#[test]
fn a_blocked_or_pending_signal_stays_what_it_was() {
    if !harness::is_child() {
        let command = Command::new(env::current_exe().unwrap());
        return harness::run_child(command, "a_blocked_or_pending_signal_stays_what_it_was");
    }
    default_sigpipe();
    assert!(!block());
    send_to_nobody();
    assert!(is_blocked() && !is_pending(), "ours was taken away");
    // SAFETY: blocked on this thread, so it only becomes pending here.
    unsafe { libc::raise(libc::SIGPIPE) };
    assert!(is_pending());
    send_to_nobody();
    assert!(is_blocked() && is_pending(), "somebody else's stays");
    // SAFETY: the set is valid; nothing is to be written.
    let taken = unsafe { libc::sigwaitinfo(&only_sigpipe(), ptr::null_mut()) };
    assert_eq!((taken, is_pending()), (libc::SIGPIPE, false), "one, as it was");
}
