//! Files and sealed memfds as sources: whatever the mechanism, the peer gets the bytes of the file, and nothing of the
//! mapping is left behind.
#![cfg(zerosink_linux)]

mod support;

use std::{
    fs::{self, File},
    io::Read as _,
    os::fd::AsFd as _,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use support::{
    PATIENCE, pattern,
    pattern::Verdict,
    peer::{Pace, Peer},
};
use zerosink::{mapped::Region, prelude::*, region};

const LENGTH: usize = (3 << 20) + 4321;
/// Where the region begins, so that it begins on no page.
const HEAD: u64 = 1234;

const MECHANISMS: [Mechanism; 3] = [Mechanism::Copy, Mechanism::MsgZerocopy, Mechanism::Splice];

/// A file whose bytes from `HEAD` on are the stream.
struct Source(PathBuf);

impl Source {
    fn new(test: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join(format!("immutable-source-{}-{test}", std::process::id()));
        let mut content = vec![0; HEAD as usize + LENGTH];
        pattern::fill(0, &mut content[HEAD as usize..]);
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn map(&self) -> Bytes {
        let file = File::open(&self.0).unwrap();
        #[expect(unsafe_code, reason = "a file of this test's own, which nobody writes or truncates")]
        // SAFETY: as above.
        unsafe { Region::from_file(&file, HEAD..) }.unwrap()
    }

    fn is_open(&self) -> bool {
        let name = self.0.to_str().unwrap();
        let mapped = fs::read_to_string("/proc/self/maps").unwrap().contains(name);
        let opened = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        mapped || opened.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == self.0)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Sends the bytes to a late and slow reader in pieces, and keeps no handle of what was accepted.
async fn send(mechanism: Mechanism, mut content: Bytes) {
    let slow =
        Pace { receive_buffer: Some(64 << 10), late: Duration::from_millis(100), slow_reads: 10, ..Pace::default() };
    let peer = Peer::start(slow);
    let socket = tokio::net::TcpStream::connect(peer.address()).await.unwrap();
    let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
    let done = async {
        while !content.is_empty() {
            sink.send(content.split_to(content.len().min(100_001))).await.unwrap();
        }
        drop(content);
        sink.close().await.unwrap();
        sink.released(LENGTH as u64).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, done).await.expect("the transfer has stalled");
    let copied = if mechanism == Mechanism::Copy { LENGTH as u64 } else { 0 };
    assert_eq!((sink.stats().bytes_copied, sink.stats().pinned_bytes), (copied, 0), "{:?}", sink.stats());
    drop(sink);
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(LENGTH as u64));
}

#[tokio::test]
async fn every_mechanism_sends_a_file() {
    for mechanism in MECHANISMS {
        let source = Source::new(mechanism.as_str());
        send(mechanism, source.map()).await;
        assert!(!source.is_open(), "{mechanism}: neither a mapping nor a descriptor is left");
    }
}

#[tokio::test]
async fn every_mechanism_sends_a_sealed_memfd() {
    let mut content = vec![0; LENGTH];
    pattern::fill(0, &mut content);
    for mechanism in MECHANISMS {
        send(mechanism, Region::copied(&content).unwrap()).await;
    }
}

/// What a backend does that prefers `sendfile`.
#[test]
fn the_descriptor_behind_a_region_sends_its_bytes() {
    let source = Source::new("sendfile");
    let content = source.map();
    let piece = content.slice(777..50_000);
    let (out, reader) = std::os::unix::net::UnixStream::pair().unwrap();
    let sent = region::locate(&piece, |location| {
        let (file, mut offset) = location.file.expect("there is a file");
        rustix::fs::sendfile(out.as_fd(), file, Some(&mut offset), piece.len())
    });
    let sent = sent.unwrap().unwrap();
    assert!(sent > 0);
    drop(out);
    let mut received = Vec::new();
    (&reader).read_to_end(&mut received).unwrap();
    assert_eq!(received, piece[..sent]);
}
