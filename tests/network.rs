//! The networks that other tests stand on do what they say.
#![cfg(zerosink_linux)]

mod harness;
mod support;
mod wire;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use support::pattern::{self, Verdict};
use wire::{
    conditions::{Conditions, Fates},
    network::{Link, Network},
    raw_peer::RawPeer,
    tap::Offloads,
};

/// Says why there is no network here, if so.
#[track_caller]
fn skipped(test: &str) -> bool {
    let missing = wire::missing();
    missing.inspect(|why| harness::skip(test, why)).is_some()
}

fn written(offset: u64, bytes: usize) -> Vec<u8> {
    let mut stream = vec![0; bytes];
    pattern::fill(offset, &mut stream);
    stream
}

/// Sends the stream `0 .. total` from one end to the other, and reads it there.
fn cross((mut near, mut far): (TcpStream, TcpStream), total: u64) -> Verdict {
    far.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // All at once, so that the network decides the pace.
    let stream = written(0, total as usize);
    let sender = thread::spawn(move || {
        near.write_all(&stream).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        near
    });
    let mut verdict = Verdict::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match far.read(&mut buffer).unwrap() {
            0 => break,
            bytes => verdict.take(&buffer[..bytes]),
        }
    }
    drop(sender.join().unwrap());
    verdict
}

#[test]
fn a_wire_takes_its_time_and_loses_nothing() {
    const TOTAL: u64 = 2 << 20;
    if skipped("a_wire_takes_its_time_and_loses_nothing") {
        return;
    }
    for offloads in [Offloads::All, Offloads::Checksums, Offloads::None] {
        let link = Link { offloads, ..Link::default() };
        let network = Network::by_wire(link).unwrap();
        let (mut near, mut far) = network.connection().unwrap();
        let asked = Instant::now();
        near.write_all(b"?").unwrap();
        far.read_exact(&mut [0]).unwrap();
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0]).unwrap();
        assert!(asked.elapsed() >= Duration::from_millis(10), "{:?}", asked.elapsed());
        assert_eq!(cross((near, far), TOTAL), Verdict::flawless(TOTAL));
        let [forth, back] = network.wire().tally();
        assert!(forth.bytes > TOTAL && back.carried > 0, "the stream went this way: {forth:?} {back:?}");
        let large = forth.bytes / forth.carried > 2000;
        assert_eq!(large, link.offloads == Offloads::All, "{:?}: {forth:?}", link.offloads);
        for direction in [forth, back] {
            assert_eq!((direction.lost, direction.overflowed, direction.duplicated, direction.reordered), (0, 0, 0, 0));
        }
    }
}

#[test]
fn a_bad_wire_does_everything_to_frames_and_nothing_to_the_stream() {
    const TOTAL: u64 = 1 << 20;
    if skipped("a_bad_wire_does_everything_to_frames_and_nothing_to_the_stream") {
        return;
    }
    let bad = Conditions { lose: 0.02, duplicate: 0.05, reorder: 0.05, ..Conditions::default() };
    let link = Link::both(bad.delayed(Duration::from_millis(1))).small_frames();
    let network = Network::by_wire(link).unwrap();
    assert_eq!(cross(network.connection().unwrap(), TOTAL), Verdict::flawless(TOTAL));
    let [forth, back] = network.wire().tally();
    for direction in [forth, back] {
        assert!(direction.lost > 0 && direction.duplicated > 0 && direction.reordered > 0, "{forth:?} {back:?}");
    }
}

#[test]
fn a_seed_decides_what_happens_and_chances_are_as_stated() {
    const FRAMES: usize = 100_000;
    let conditions = Conditions { lose: 0.1, duplicate: 0.01, reorder: 0.5, ..Conditions::default() };
    let fates = |seed| {
        let mut fates = Fates::new(Conditions { seed, ..conditions });
        (0..FRAMES).map(|_| fates.decide()).collect::<Vec<_>>()
    };
    assert_eq!(fates(7), fates(7));
    assert_ne!(fates(7), fates(8));
    let shares = [
        (conditions.lose, fates(7).iter().filter(|fate| fate.lost).count()),
        (conditions.duplicate, fates(7).iter().filter(|fate| fate.twice).count()),
        (conditions.reorder, fates(7).iter().filter(|fate| fate.detour).count()),
    ];
    for (stated, count) in shares {
        let share = count as f64 / FRAMES as f64;
        assert!((share - stated).abs() < stated / 10.0, "{share} instead of {stated}");
    }
}

#[test]
fn a_wire_carries_no_more_than_its_rate_and_holds_no_more_than_its_backlog() {
    const TOTAL: u64 = 128 << 10;
    const RATE: u64 = 1 << 20;
    if skipped("a_wire_carries_no_more_than_its_rate_and_holds_no_more_than_its_backlog") {
        return;
    }
    let slow = Conditions { bytes_per_second: Some(RATE), backlog: 8 << 10, ..Conditions::default() };
    let network = Network::by_wire(Link::both(slow).small_frames()).unwrap();
    let connection = network.connection().unwrap();
    let start = Instant::now();
    assert_eq!(cross(connection, TOTAL), Verdict::flawless(TOTAL));
    assert!(start.elapsed() >= Duration::from_secs_f64(TOTAL as f64 / RATE as f64), "{:?}", start.elapsed());
    let [forth, _] = network.wire().tally();
    assert!(forth.overflowed > 0, "the first ten segments do not fit: {forth:?}");
}

#[test]
fn a_cut_wire_carries_nothing_until_it_is_mended() {
    if skipped("a_cut_wire_carries_nothing_until_it_is_mended") {
        return;
    }
    let network = Network::by_wire(Link::default()).unwrap();
    let (mut near, mut far) = network.connection().unwrap();
    network.wire().cut();
    near.write_all(b"?").unwrap();
    let start = Instant::now();
    while network.wire().tally()[0].lost < 2 {
        assert!(start.elapsed() < harness::STEP, "the segment and its retransmission are lost");
        thread::yield_now();
    }
    far.set_nonblocking(true).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(wire::unacknowledged(&near).unwrap(), 1);
    network.wire().mend();
    far.set_nonblocking(false).unwrap();
    far.set_read_timeout(Some(harness::STEP)).unwrap();
    far.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_stream_crosses_veth() {
    const TOTAL: u64 = 4 << 20;
    if skipped("a_stream_crosses_veth") {
        return;
    }
    let network = Network::by_veth().unwrap();
    assert_eq!(cross(network.connection().unwrap(), TOTAL), Verdict::flawless(TOTAL));
}

#[test]
fn a_raw_peer_can_behave() {
    const TOTAL: usize = 1_000_000;
    if skipped("a_raw_peer_can_behave") {
        return;
    }
    let (mut socket, mut peer) = RawPeer::connect(256 << 10).unwrap();
    let sender = thread::spawn(move || {
        socket.write_all(&written(0, TOTAL)).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        socket
    });
    assert!(peer.receive(usize::MAX).unwrap() == written(0, TOTAL), "the stream and its end came");
    drop(sender.join().unwrap());
}

#[test]
fn a_raw_peer_can_close_its_window() {
    const TOTAL: usize = 10_000;
    if skipped("a_raw_peer_can_close_its_window") {
        return;
    }
    let (mut socket, mut peer) = RawPeer::connect(64 << 10).unwrap();
    peer.open_window(0).unwrap();
    socket.write_all(&written(0, TOTAL)).unwrap();
    assert_eq!(peer.step().unwrap(), 0, "only a probe comes");
    assert_eq!(wire::unacknowledged(&socket).unwrap(), TOTAL);
    peer.open_window(64 << 10).unwrap();
    assert!(peer.receive(TOTAL).unwrap() == written(0, TOTAL));
}

#[test]
fn a_raw_peer_can_reset() {
    if skipped("a_raw_peer_can_reset") {
        return;
    }
    let (mut socket, peer) = RawPeer::connect(64 << 10).unwrap();
    socket.set_read_timeout(Some(harness::STEP)).unwrap();
    peer.reset().unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Descriptors and threads of this process: what could hold a namespace or a device.
fn held() -> (usize, BTreeSet<String>) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name().into_string().unwrap());
    (descriptors, threads.collect())
}

/// In a process of its own, where no other test opens anything.
#[test]
fn a_network_leaves_nothing_behind() {
    const TEST: &str = "a_network_leaves_nothing_behind";
    if skipped(TEST) {
        return;
    }
    if !harness::is_child() {
        return harness::run_child(std::process::Command::new(std::env::current_exe().unwrap()), TEST);
    }
    let before = held();
    for _ in 0..3 {
        let network = Network::by_wire(Link::default()).unwrap();
        let connection = network.connection().unwrap();
        let raw = RawPeer::connect(64 << 10).unwrap();
        assert_ne!(held(), before, "they do hold something");
        drop((connection, network, raw));
        drop(Network::by_veth().unwrap());
        // A thread that was joined may be listed a moment longer.
        let start = Instant::now();
        while held() != before {
            assert!(start.elapsed() < harness::STEP, "{:?} after {before:?}", held());
            thread::yield_now();
        }
    }
    let devices = fs::read_to_string("/proc/self/net/dev").unwrap();
    assert!(!["wire0", "raw0", "veth0"].iter().any(|name| devices.contains(name)), "{devices}");
}
