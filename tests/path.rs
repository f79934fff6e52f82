//! Where the packets go, as far as a sink can know it on one host. What completions without copies say is tested where a clock and
//! a kernel can be injected: in the oracle's own tests.
#![cfg(zerosink_linux)]

mod harness;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    process::Command,
};

use bytes::Bytes;
use harness::{Peer, connection, run_child, runtime, skip, within};
use zerosink::{Path, SinkStats, prelude::*};

const PIECE: usize = 64 << 10;
/// More than a window of completions.
const SENDS: usize = 40;

/// Sends by notification, and releases each send before the next. The path before and after.
async fn watched(mut sink: AutoSink) -> (Path, Path, SinkStats) {
    let before = sink.path();
    for _ in 0..SENDS {
        within("send", sink.send(Bytes::from(vec![0; PIECE]))).await.unwrap();
        within("release", sink.released(sink.position().accepted)).await.unwrap();
    }
    (before, sink.path(), sink.stats())
}

#[test]
fn loopback_and_af_unix_are_on_this_host_from_the_start() {
    runtime().block_on(async {
        let (socket, reader) = connection(None);
        let peer = Peer::reading(reader);
        peer.start();
        let sink = ZeroCopySink::auto(socket).await.unwrap();
        assert_eq!(sink.path(), Path::SameHost);
        // Also when the kernel is asked.
        let (before, after, _) = watched(sink).await;
        assert_eq!((before, after), (Path::SameHost, Path::SameHost));
        peer.finish();
        let sink = ZeroCopySink::auto(UnixStream::pair().unwrap().0).await.unwrap();
        assert_eq!(sink.path(), Path::SameHost);
    });
}

#[test]
fn what_the_user_says_wins() {
    for path in [Path::OffHost, Path::Unknown, Path::SameHost] {
        let (socket, reader) = connection(None);
        let peer = Peer::reading(reader);
        peer.start();
        let (before, after, stats) = runtime().block_on(async {
            let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).path(path);
            watched(socket.into_sink(config).await.unwrap()).await
        });
        assert_eq!((before, after), (path, path));
        assert_eq!(stats.notified_copied, SENDS as u64, "the kernel says something else: {stats:?}");
        peer.finish();
    }
}

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const DEVICES: &str = "ip link set lo up && ip link add veth0 type veth peer name veth1 && \
                       ip addr add 10.88.0.1/24 dev veth0 && ip addr add 10.88.0.2/24 dev veth1 && \
                       ip link set veth0 up && ip link set veth1 up";

/// Runs a test in a process that has two virtual devices, and whatever else `set_up` does. True in that process.
fn between_devices(test: &str, set_up: &str) -> bool {
    if harness::is_child() {
        return true;
    }
    let set_up = format!("{DEVICES} && {set_up}");
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", "sh", "-c"]);
    match Command::new("unshare").args(["-n", "-m", "sh", "-c", &set_up]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(test, &format!("unshare: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return false;
        }
        Err(error) => {
            skip(test, &format!("unshare: {error}"));
            return false;
        }
    }
    command.arg(format!("{set_up} && exec \"$0\" \"$@\"")).arg(std::env::current_exe().unwrap());
    run_child(command, test);
    false
}

/// A connection between the two devices. The path before and after.
fn watched_between_devices() -> (Path, Path, SinkStats) {
    let listener = TcpListener::bind((FAR, 0)).unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((NEAR, 0)).into()).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let peer = Peer::reading(listener.accept().unwrap().0);
    peer.start();
    let result = runtime().block_on(async {
        let socket = std::net::TcpStream::from(socket);
        watched(socket.into_sink(SinkConfig::new().copy_threshold(0)).await.unwrap()).await
    });
    peer.finish();
    let stats = &result.2;
    assert!(stats.notified >= 16 && stats.notified == stats.notified_copied, "the kernel was asked: {stats:?}");
    assert!(stats.bytes_copied > 0, "and believed: {stats:?}");
    result
}

/// As in a container, whose sysfs shows its own devices.
#[test]
fn a_virtual_device_is_a_hint_and_copied_completions_confirm_it() {
    if between_devices("a_virtual_device_is_a_hint_and_copied_completions_confirm_it", "mount -t sysfs sysfs /sys") {
        let (before, after, _) = watched_between_devices();
        assert_eq!((before, after), (Path::SameHost, Path::SameHost));
    }
}

/// A real device would be missing there, too.
#[test]
fn a_device_that_sysfs_does_not_show_is_no_hint_and_copied_completions_tell() {
    let test = "a_device_that_sysfs_does_not_show_is_no_hint_and_copied_completions_tell";
    if between_devices(test, "test ! -e /sys/class/net/veth0") {
        let (before, after, _) = watched_between_devices();
        assert_eq!((before, after), (Path::Unknown, Path::SameHost));
    }
}
