//! `kernel.io_uring_disabled`, a switch of the whole host: the only test of its binary, and turned back however it ends.
#![cfg(zerosink_uring)]

mod harness;
mod support;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use harness::{Peer, connection, runtime, stream, within};
use support::events::Events;
use zerosink::{Path, Refusal, prelude::*};

const TEST: &str = "a_host_that_disables_io_uring_sends_by_another_mechanism_and_says_why";
const KNOB: &str = "/proc/sys/kernel/io_uring_disabled";
const TOTAL: usize = 256 << 10;

/// Turns the switch, and back when it is dropped, or when this process is gone: another one waits for that.
struct Switched(Child);

impl Switched {
    fn to(value: &str) -> std::io::Result<Self> {
        let before = fs::read_to_string(KNOB)?;
        let turn_back = format!("cat >/dev/null; echo {} >{KNOB}", before.trim());
        let keeper = Command::new("sh").args(["-c", &turn_back]).stdin(Stdio::piped()).spawn()?;
        let switched = Self(keeper);
        fs::write(KNOB, value)?;
        Ok(switched)
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let turned_back = self.0.wait().is_ok_and(|status| status.success());
        assert!(turned_back || std::thread::panicking(), "{KNOB} is not what it was");
    }
}

#[test]
fn a_host_that_disables_io_uring_sends_by_another_mechanism_and_says_why() {
    if harness::is_child() {
        return sends_without_io_uring();
    }
    if !rustix::process::geteuid().is_root() {
        return harness::skip(TEST, "it needs root, to turn a switch of the host");
    }
    if !fs::exists(KNOB).unwrap() {
        return harness::skip(TEST, "this kernel has no io_uring_disabled (Linux 6.6)");
    }
    let before = fs::read_to_string(KNOB).unwrap();
    // For whoever has no privileges.
    let mut command = Command::new("/proc/self/exe");
    command.uid(65120).gid(65120).current_dir("/");
    let switched = Switched::to("1").unwrap();
    harness::run_child(command, TEST);
    drop(switched);
    // For everybody.
    let switched = Switched::to("2").unwrap();
    harness::run_child(Command::new(std::env::current_exe().unwrap()), TEST);
    drop(switched);
    assert_eq!(fs::read_to_string(KNOB).unwrap(), before);
}

fn sends_without_io_uring() {
    let events = Events::recorded();
    let (socket, reader) = connection(None);
    let peer = Peer::reading(reader);
    peer.start();
    runtime().block_on(async {
        let config = SinkConfig::new().path(Path::OffHost).copy_threshold(0);
        let mut sink = socket.into_sink(config).await.unwrap();
        within("send", sink.send(Bytes::from(stream(0, TOTAL)))).await.unwrap();
        let stats = sink.stats();
        assert_eq!(stats.refused[Mechanism::IoUring.index()], Some(Refusal::Forbidden), "{stats:?}");
        assert_eq!(stats.sent[Mechanism::IoUring.index()], 0, "{stats:?}");
        let (socket, _reader) = connection(None);
        let error = socket.into_sink(SinkConfig::new().mechanism(Mechanism::IoUring)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
    });
    peer.finish().is_exactly(TOTAL);
    for told in [
        ["INFO", "mechanism stepped down", "mechanism=io-uring", "reason=forbidden"],
        ["WARN", "io-uring probe could not tell", "io_uring_setup", "kernel.io_uring_disabled"],
    ] {
        assert_eq!(events.count(&told), 1, "{told:?}: {:#?}", events.all());
    }
}
