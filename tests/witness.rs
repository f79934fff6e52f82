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
    mapped::{Kind, mapped_ring},
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

/// One successful call on the socket to the peer, or one that put pages into a pipe.
#[derive(Debug)]
struct Call {
    name: String,
    zero_copy: bool,
    gift: bool,
    bytes: u64,
}

/// What a child did.
#[derive(Debug, Default)]
struct Seen {
    to_peer: Vec<Call>,
    to_pipes: Vec<Call>,
}

const RING: usize = 256 << 10;

fn in_place() -> Ring {
    poisoned_ring(RING)
}

fn fresh_pages() -> Ring {
    mapped_ring(Kind::Anonymous, RING, Reuse::FreshPages)
}

fn fresh_pages_of_a_file() -> Ring {
    mapped_ring(Kind::Memfd, RING, Reuse::FreshPages)
}

/// Why there is no witness. A host without strace is no failure, except where the tests must be complete.
fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "this test needs strace here: {why}");
    eprintln!("\n*** skipped: {why} ***\n");
}

/// Sends the stream, in the child.
fn send(peer: SocketAddr, mechanism: Mechanism, ring: fn() -> Ring) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(peer).await.unwrap();
        let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
        send_stream(&mut sink, &ring(), TOTAL).await;
        sink.released(TOTAL).await.unwrap();
    });
}

/// What a traced child did on its connection to us; `None` if there can be no witness. In the child itself: sends.
fn witnessed(test: &str, mechanism: Mechanism, ring: fn() -> Ring) -> Option<Seen> {
    if let Ok(peer) = env::var(CHILD) {
        send(peer.parse().unwrap(), mechanism, ring);
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

    let mut seen = Seen::default();
    for thread in fs::read_dir(&directory).unwrap() {
        let log = fs::read_to_string(thread.unwrap().path()).unwrap();
        seen.to_peer.extend(log.lines().filter(|line| is_to(address, line)).filter_map(call));
        seen.to_pipes.extend(log.lines().filter_map(call).filter(|call| call.name == "vmsplice"));
    }
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(seen.to_peer.iter().map(|call| call.bytes).sum::<u64>(), TOTAL, "strace saw every byte: {seen:?}");
    Some(seen)
}

/// `sendmsg(9<TCP:[127.0.0.1:40000->127.0.0.1:50000]>, {..}, MSG_..|MSG_ZEROCOPY) = 65536`, to that peer or not.
fn is_to(peer: SocketAddr, line: &str) -> bool {
    line.contains(&format!("->{peer}]>"))
}

/// The call in such a line, if it moved bytes.
fn call(line: &str) -> Option<Call> {
    let (call, result) = line.rsplit_once(" = ")?;
    let bytes = result.split_whitespace().next()?.parse().ok()?;
    let name = call.split('(').next()?.to_owned();
    let has = |flag| call.contains(flag);
    Some(Call { name, zero_copy: has("MSG_ZEROCOPY"), gift: has("SPLICE_F_GIFT"), bytes })
}

#[test]
fn forced_msg_zerocopy_sends_every_byte_with_the_flag() {
    let name = "forced_msg_zerocopy_sends_every_byte_with_the_flag";
    let Some(seen) = witnessed(name, Mechanism::MsgZerocopy, in_place) else { return };
    assert!(seen.to_peer.iter().all(|call| call.zero_copy && call.name == "sendmsg"), "{seen:?}");
}

/// Also the control of the other tests: the same witness tells them apart.
#[test]
fn forced_copy_sends_no_byte_with_the_flag_and_none_by_a_pipe() {
    let name = "forced_copy_sends_no_byte_with_the_flag_and_none_by_a_pipe";
    let Some(seen) = witnessed(name, Mechanism::Copy, fresh_pages) else { return };
    assert!(
        seen.to_peer.iter().all(|call| !call.zero_copy && ["sendto", "sendmsg"].contains(&call.name.as_str())),
        "{seen:?}"
    );
    assert!(seen.to_pipes.is_empty(), "{seen:?}");
}

#[test]
fn forced_splice_sends_every_byte_by_a_pipe() {
    let name = "forced_splice_sends_every_byte_by_a_pipe";
    let Some(seen) = witnessed(name, Mechanism::Splice, fresh_pages) else { return };
    assert!(seen.to_peer.iter().all(|call| call.name == "splice"), "{seen:?}");
    // A full socket leaves pages in the pipe, which are thrown away and put there again.
    assert!(seen.to_pipes.iter().map(|call| call.bytes).sum::<u64>() >= TOTAL, "{seen:?}");
    assert!(seen.to_pipes.iter().all(|call| !call.gift), "{seen:?}");
}

#[test]
fn forced_splice_of_a_file_sends_every_byte_by_sendfile() {
    let name = "forced_splice_of_a_file_sends_every_byte_by_sendfile";
    let Some(seen) = witnessed(name, Mechanism::Splice, fresh_pages_of_a_file) else { return };
    assert!(seen.to_peer.iter().all(|call| call.name == "sendfile"), "{seen:?}");
}

#[test]
fn forced_gift_sends_every_byte_as_a_gift() {
    let name = "forced_gift_sends_every_byte_as_a_gift";
    let Some(seen) = witnessed(name, Mechanism::Gift, fresh_pages) else { return };
    assert!(seen.to_peer.iter().all(|call| call.name == "splice"), "{seen:?}");
    // One byte goes by when the host is probed.
    let large = seen.to_pipes.iter().filter(|call| call.bytes > 1);
    assert!(large.clone().map(|call| call.bytes).sum::<u64>() >= TOTAL, "{seen:?}");
    assert!(large.clone().all(|call| call.gift), "{seen:?}");
}

#[test]
fn control_the_witness_reads_what_strace_writes() {
    let peer = "127.0.0.1:50000".parse().unwrap();
    let line = |line: &str| {
        call(line).filter(|_| is_to(peer, line)).map(|call| (call.name, call.zero_copy, call.gift, call.bytes))
    };
    let seen = |name: &str, zero_copy, bytes| Some((name.to_owned(), zero_copy, false, bytes));
    let socket = "9<TCP:[127.0.0.1:40000->127.0.0.1:50000]>";
    let stranger = "9<TCP:[127.0.0.1:40000->127.0.0.1:50001]>";
    let zero_copy = "{msg_iov=[{iov_len=7}]}, MSG_DONTWAIT|MSG_ZEROCOPY";
    assert_eq!(line(&format!("sendmsg({socket}, {zero_copy}) = 7")), seen("sendmsg", true, 7));
    assert_eq!(line(&format!("sendmsg({socket}, {{}}, MSG_DONTWAIT) = 5")), seen("sendmsg", false, 5));
    assert_eq!(line(&format!("splice(4<pipe:[1]>, NULL, {socket}, NULL, 9, 0) = 9")), seen("splice", false, 9));
    assert_eq!(line(&format!("sendmsg({stranger}, {zero_copy}) = 7")), None);
    assert_eq!(line(&format!("sendmsg({socket}, {zero_copy}) = -1 EAGAIN (Resource temporarily unavailable)")), None);
    let gift = call("vmsplice(5<pipe:[1]>, [{iov_len=8}], 1, SPLICE_F_NONBLOCK|SPLICE_F_GIFT) = 8").unwrap();
    assert_eq!((gift.name.as_str(), gift.gift, gift.bytes), ("vmsplice", true, 8));
}
