//! The mechanism really ran, as witnessed from outside: `strace` reads the child's system calls, and this process is the peer.
#![cfg(zerosink_linux)]

mod support;

use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use support::{
    pattern::Verdict,
    peer::{Pace, Peer},
    poisoned_ring, send_stream,
};
use zerosink::prelude::*;

const TOTAL: u64 = (3 << 20) + 12_345;
const CHILD: &str = "ZEROSINK_WITNESS_PEER";
/// Every call that can put bytes on a socket.
const CALLS: &str =
    "trace=sendmsg,sendto,sendmmsg,write,writev,pwrite64,pwritev,pwritev2,splice,vmsplice,tee,sendfile,io_uring_enter";

/// One successful call on the socket to the peer.
#[derive(Debug)]
struct Call {
    name: String,
    zero_copy: bool,
    bytes: u64,
}

/// Why there is no witness. A host without strace is no failure, except where the tests must be complete.
fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "this test needs strace here: {why}");
    eprintln!("\n*** skipped: {why} ***\n");
}

/// Sends the stream, in the child.
fn send(peer: SocketAddr, mechanism: Mechanism) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(peer).await.unwrap();
        let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
        send_stream(&mut sink, &poisoned_ring(256 << 10), TOTAL).await;
        sink.released(TOTAL).await.unwrap();
    });
}

/// What a traced child did on its connection to us; `None` if there can be no witness. In the child itself: sends.
fn witnessed(test: &str, mechanism: Mechanism) -> Option<Vec<Call>> {
    if let Ok(peer) = env::var(CHILD) {
        send(peer.parse().unwrap(), mechanism);
        return None;
    }
    let strace = |arguments: &[&str]| Command::new("strace").args(arguments).stdin(Stdio::null()).output();
    match strace(&["-o", "/dev/null", "true"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(&format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Err(_) => {
            skip("strace is not installed");
            return None;
        }
    }
    let peer = Peer::start(Pace::default());
    let address = peer.address();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("witness-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let output = Command::new("strace")
        // A file per thread, so that no call is torn; descriptors with their connection, so that each call has its peer.
        .args(["-ff", "-yy", "-s", "0", "-e", CALLS, "-e", "signal=none", "-o"])
        .arg(directory.join("thread"))
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, address.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(peer.verdict(), Verdict::flawless(TOTAL));

    let mut calls = Vec::new();
    for thread in fs::read_dir(&directory).unwrap() {
        let log = fs::read_to_string(thread.unwrap().path()).unwrap();
        calls.extend(log.lines().filter_map(|line| call_to(address, line)));
    }
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(calls.iter().map(|call| call.bytes).sum::<u64>(), TOTAL, "strace saw every byte: {calls:?}");
    Some(calls)
}

/// `sendmsg(9<TCP:[127.0.0.1:40000->127.0.0.1:50000]>, {..}, MSG_..|MSG_ZEROCOPY) = 65536`, if it is to that peer and put
/// bytes on the stream.
fn call_to(peer: SocketAddr, line: &str) -> Option<Call> {
    if !line.contains(&format!("->{peer}]>")) {
        return None;
    }
    let (call, result) = line.rsplit_once(" = ")?;
    let bytes = result.split_whitespace().next()?.parse().ok()?;
    let name = call.split('(').next()?.to_owned();
    Some(Call { name, zero_copy: call.contains("MSG_ZEROCOPY"), bytes })
}

#[test]
fn forced_msg_zerocopy_sends_every_byte_with_the_flag() {
    let name = "forced_msg_zerocopy_sends_every_byte_with_the_flag";
    let Some(calls) = witnessed(name, Mechanism::MsgZerocopy) else { return };
    assert!(calls.iter().all(|call| call.zero_copy && call.name == "sendmsg"), "{calls:?}");
}

/// Also the control of the test above: the same witness tells them apart.
#[test]
fn forced_copy_sends_no_byte_with_the_flag() {
    let Some(calls) = witnessed("forced_copy_sends_no_byte_with_the_flag", Mechanism::Copy) else { return };
    assert!(calls.iter().all(|call| !call.zero_copy && call.name == "sendmsg"), "{calls:?}");
}

#[test]
fn control_the_witness_reads_what_strace_writes() {
    let peer = "127.0.0.1:50000".parse().unwrap();
    let line = |call: &str| call_to(peer, call).map(|call| (call.zero_copy, call.bytes));
    let socket = "9<TCP:[127.0.0.1:40000->127.0.0.1:50000]>";
    let stranger = "9<TCP:[127.0.0.1:40000->127.0.0.1:50001]>";
    let zero_copy = "{msg_iov=[{iov_len=7}]}, MSG_DONTWAIT|MSG_ZEROCOPY";
    assert_eq!(line(&format!("sendmsg({socket}, {zero_copy}) = 7")), Some((true, 7)));
    assert_eq!(line(&format!("sendmsg({socket}, {{}}, MSG_DONTWAIT) = 5")), Some((false, 5)));
    assert_eq!(line(&format!("sendmsg({stranger}, {zero_copy}) = 7")), None);
    assert_eq!(line(&format!("sendmsg({socket}, {zero_copy}) = -1 EAGAIN (Resource temporarily unavailable)")), None);
}
