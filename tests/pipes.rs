//! Pipes that cannot be had, or not as large as wanted: the stream goes on.
#![cfg(zerosink_linux)]

mod harness;
mod support;

use std::{
    env, fs,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::Command,
};

use bytes::Bytes;
use harness::{Peer, read_all, run_child, runtime, within};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    filled,
    mapped::{Kind, mapped_ring},
    pattern::Verdict,
};
use zerosink::{Refusal, prelude::*};

const BYTES: usize = 256 << 10;

/// All descriptors that this process may have.
fn exhaust() -> Vec<OwnedFd> {
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..most }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file.into());
    }
    taken
}

fn piece(ring: &Ring, offset: u64) -> Bytes {
    filled(ring.try_reserve(BYTES).unwrap(), offset, BYTES)
}

/// Alone in its process: no other test may give pipes or descriptors back.
fn alone(test: &str) -> bool {
    if !harness::is_child() {
        run_child(Command::new(env::current_exe().unwrap()), test);
    }
    harness::is_child()
}

fn verdict(received: &harness::Received) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.take(&received.bytes);
    verdict
}

/// Nobody has had a pipe in this process before.
fn comes_back_by(mechanism: Mechanism) {
    let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = Peer::reading(theirs);
    peer.start();
    let sent = runtime().block_on(async {
        // The driver has its descriptors.
        let (other, _peer) = UnixStream::pair().unwrap();
        let _other = other.into_sink(SinkConfig::new().mechanism(Mechanism::Copy)).await.unwrap();
        let taken = exhaust();
        let mut sink = ours.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
        let mut sent = 0;
        for _ in 0..10 {
            within("send", sink.send(piece(&ring, sent))).await.unwrap();
            sent += BYTES as u64;
        }
        let stats = sink.stats();
        assert_eq!((stats.bytes_zero_copy, stats.copied[Refusal::NoDescriptors.index()]), (0, sent), "{stats:?}");
        assert_eq!(stats.refused[mechanism.index()], Some(Refusal::NoDescriptors), "off for a while: {stats:?}");
        drop(taken);
        let back = async {
            while sink.stats().bytes_zero_copy == 0 {
                sink.send(piece(&ring, sent)).await.unwrap();
                sent += BYTES as u64;
                tokio::task::yield_now().await;
            }
        };
        within("the mechanism", back).await;
        assert_eq!(sink.stats().refused[mechanism.index()], None);
        sent
    });
    let received = peer.finish();
    assert!(received.end.is_ok());
    assert_eq!(verdict(&received), Verdict::flawless(sent));
}

#[test]
fn without_descriptors_a_stream_by_splice_goes_on_by_copy_and_comes_back() {
    if alone("without_descriptors_a_stream_by_splice_goes_on_by_copy_and_comes_back") {
        comes_back_by(Mechanism::Splice);
    }
}

#[test]
fn without_descriptors_a_stream_by_gift_goes_on_by_copy_and_comes_back() {
    if alone("without_descriptors_a_stream_by_gift_goes_on_by_copy_and_comes_back") {
        comes_back_by(Mechanism::Gift);
    }
}

/// A user who has as many pages in pipes as he may: pipes cannot grow, and new ones are smaller than usual.
#[test]
fn pipes_that_may_not_grow_are_used_as_they_are() {
    let test = "pipes_that_may_not_grow_are_used_as_they_are";
    if !harness::is_child() {
        if !rustix::process::geteuid().is_root() {
            return harness::skip(test, "it needs root, to become a user without privileges");
        }
        let mut command = Command::new("/proc/self/exe");
        command.uid(65533).gid(65533).current_dir("/");
        return run_child(command, test);
    }
    // That user's own pipes, until the soft limit is reached.
    let mut hoard = Vec::new();
    let refused = loop {
        let (read, write) = rustix::pipe::pipe().unwrap();
        match rustix::pipe::fcntl_setpipe_size(&write, 1 << 20) {
            Ok(_) => hoard.push((read, write)),
            Err(error) => break error,
        }
        assert!(hoard.len() < 400, "this host has no limit of pipe pages");
    };
    assert_eq!(refused, rustix::io::Errno::PERM);
    for mechanism in [Mechanism::Splice, Mechanism::Gift] {
        let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::reading(theirs);
        peer.start();
        let stats = runtime().block_on(async {
            let mut sink = ours.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
            for offset in (0..8 * BYTES as u64).step_by(BYTES) {
                within("send", sink.send(piece(&ring, offset))).await.unwrap();
            }
            sink.stats()
        });
        assert_eq!((stats.bytes_copied, stats.bytes_zero_copy), (0, 8 * BYTES as u64), "{stats:?}");
        assert!(stats.sends_zero_copy > 16, "each went in several calls: {stats:?}");
        assert_eq!(verdict(&peer.finish()), Verdict::flawless(8 * BYTES as u64));
    }
}

/// Control: the same with room for pipes.
#[test]
fn control_pipes_that_grow_take_more_at_once() {
    if !alone("control_pipes_that_grow_take_more_at_once") {
        return;
    }
    let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
    let (ours, theirs) = UnixStream::pair().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(2 * BYTES).unwrap();
    runtime().block_on(async {
        let mut sink = ours.into_sink(SinkConfig::new().mechanism(Mechanism::Splice)).await.unwrap();
        within("send", sink.send(piece(&ring, 0))).await.unwrap();
        assert_eq!(sink.stats().sends_zero_copy, 1, "{:?}", sink.stats());
    });
    assert_eq!(verdict(&read_all(theirs)), Verdict::flawless(BYTES as u64));
}

/// Sends a stream by splice and reads it; whether every byte was right.
fn exchange() -> bool {
    const TOTAL: u64 = 16 << 20;
    let ring = mapped_ring(Kind::Anonymous, BYTES, Reuse::FreshPages);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = Peer::reading(theirs);
    peer.start();
    let sent = runtime().block_on(async {
        let mut sink = ours.into_sink(SinkConfig::new().mechanism(Mechanism::Splice)).await?;
        for offset in (0..TOTAL).step_by(BYTES) {
            sink.send(piece(&ring, offset)).await?;
        }
        std::io::Result::Ok(sink.stats().bytes_zero_copy)
    });
    sent.is_ok_and(|sent| sent == TOTAL) && verdict(&peer.finish()) == Verdict::flawless(TOTAL)
}

/// A pipe that two processes have would mix their streams.
#[test]
fn a_forked_process_does_not_use_its_parents_pipes() {
    if !alone("a_forked_process_does_not_use_its_parents_pipes") {
        return;
    }
    assert!(exchange(), "there is an idle pipe now");
    #[expect(unsafe_code, reason = "std has no fork")]
    // SAFETY: this process does nothing else: no other thread holds a lock that the child would wait for.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    let right = std::panic::catch_unwind(exchange).unwrap_or(false);
    if child == 0 {
        #[expect(unsafe_code, reason = "the test harness is the parent's")]
        // SAFETY: ends the child here and now.
        unsafe {
            libc::_exit(i32::from(!right));
        }
    }
    let pid = rustix::process::Pid::from_raw(child);
    let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!((right, status.exit_status()), (true, Some(0)), "parent and child");
}
