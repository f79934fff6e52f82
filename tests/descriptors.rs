//! Neither descriptors nor memory leak. The only test of its binary: others would open and close their own.
#![cfg(target_os = "linux")]

mod harness;

use std::{
    io::Read,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use harness::{MECHANISMS, STEP, stream, until, within};
use zerosink::prelude::*;

/// A debug build takes a minute for ten thousand of each.
const CONNECTIONS: usize = if cfg!(debug_assertions) { 1000 } else { 10_000 };
const BYTES: usize = 48 << 10;
/// What an allocator may keep to itself. A hundredth of one lease for each connection would be more.
const SLACK: usize = if cfg!(debug_assertions) { 1 << 20 } else { 4 << 20 };

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// `VmRSS`, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Whose memory, by which mechanism, to which kind of socket.
struct Way {
    name: String,
    config: SinkConfig,
    unix: bool,
    ring: Option<Ring>,
}

fn ways() -> Vec<Way> {
    let by = |mechanism: Mechanism, unix, ring| {
        let name = format!("{mechanism}{}", if unix { " over AF_UNIX" } else { "" });
        Way { name, config: SinkConfig::new().mechanism(mechanism), unix, ring }
    };
    #[cfg_attr(zerosink_portable, expect(unused_mut, reason = "no others are built"))]
    let mut ways: Vec<_> = MECHANISMS.iter().map(|mechanism| by(*mechanism, false, None)).collect();
    #[cfg(not(zerosink_portable))]
    {
        use zerosink::mapped::MapOptions;

        let fresh = || {
            let memory = MapOptions::new().anonymous(4 * BYTES).unwrap();
            Some(Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap())
        };
        let file = || {
            let memory = MapOptions::new().memfd(4 * BYTES).unwrap();
            Some(Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap())
        };
        for unix in [false, true] {
            ways.push(by(Mechanism::Splice, unix, fresh()));
            let mut of_a_file = by(Mechanism::Splice, unix, file());
            of_a_file.name += " of a file";
            ways.push(of_a_file);
            ways.push(by(Mechanism::Gift, unix, fresh()));
        }
        let mut trusting = by(Mechanism::Splice, true, None);
        trusting.name += " on the reader's word";
        trusting.config = trusting.config.peer_copies();
        ways.push(trusting);
    }
    ways
}

/// The stream, and a reader on a thread of its own that compares it, connection by connection.
struct Peer {
    stream: Vec<u8>,
    listener: TcpListener,
    connections: mpsc::Sender<Box<dyn Read + Send>>,
    verdicts: mpsc::Receiver<bool>,
}

impl Peer {
    fn start() -> Self {
        let (connections, coming) = mpsc::channel::<Box<dyn Read + Send>>();
        let (found, verdicts) = mpsc::channel();
        let expected = stream(0, BYTES);
        let stream = expected.clone();
        thread::spawn(move || {
            let mut received = Vec::new();
            for mut connection in coming {
                received.clear();
                let end = connection.read_to_end(&mut received);
                // Closed before it is reported, so that its descriptor is not counted.
                drop(connection);
                found.send(end.is_ok() && received == expected).unwrap();
            }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self { stream, listener, connections, verdicts }
    }

    async fn sink(&self, way: &Way) -> AutoSink {
        let config = way.config.clone();
        if way.unix {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_read_timeout(Some(STEP)).unwrap();
            self.connections.send(Box::new(theirs)).unwrap();
            return ours.into_sink(config).await.unwrap();
        }
        let ours = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = self.listener.accept().unwrap();
        theirs.set_read_timeout(Some(STEP)).unwrap();
        self.connections.send(Box::new(theirs)).unwrap();
        ours.into_sink(config).await.unwrap()
    }

    async fn one(&self, way: &Way, round: usize) {
        let mut sink = self.sink(way).await;
        let bytes = match &way.ring {
            None => Bytes::copy_from_slice(&self.stream),
            Some(ring) => {
                let mut grant = within("space", ring.reserve(BYTES)).await.unwrap();
                grant.as_mut_slice().copy_from_slice(&self.stream);
                grant.fill(BYTES).unwrap();
                grant.commit()
            }
        };
        within("send", sink.send(bytes)).await.unwrap();
        // All the ways in which a connection goes.
        match round % 4 {
            0 => drop(sink),
            1 => {
                within("close", sink.close()).await.unwrap();
                within("release", sink.released(BYTES as u64)).await.unwrap();
            }
            2 => {
                let (read, sink) = sink.into_split().unwrap();
                drop(sink);
                drop(read);
            }
            _ => {
                // Refused, with the socket inside.
                drop(sink);
                let (socket, _reader) = UnixStream::pair().unwrap();
                assert!(socket.into_sink(SinkConfig::new().mechanism(Mechanism::MsgZerocopy)).await.is_err());
            }
        }
        // Without blocking: this thread drives the sink, too.
        let mut verdict = None;
        until("the reader", || {
            verdict = self.verdicts.try_recv().ok();
            verdict.is_some()
        })
        .await;
        assert_eq!(verdict, Some(true), "{}, round {round}: wrong bytes", way.name);
    }
}

#[test]
fn many_connections_of_each_mechanism_leave_no_descriptor_open_and_no_memory_behind() {
    let runtime = harness::runtime();
    let everything = async {
        let before = resident();
        let kept: Vec<_> = (0..CONNECTIONS / 10).map(|_| vec![1u8; BYTES]).collect();
        assert!(resident() - before > SLACK, "negative control: memory that is kept counts");
        drop(kept);
        let (peer, ways) = (Peer::start(), ways());
        // What is opened once per process and runtime is open from here on, and what is kept for later use is there.
        for way in &ways {
            for round in 0..100 {
                peer.one(way, round).await;
            }
        }
        for way in &ways {
            let mut before = open_descriptors();
            until("the warm-up's descriptors to close", || {
                let now = open_descriptors();
                now == std::mem::replace(&mut before, now)
            })
            .await;
            let held = std::fs::File::open("/proc/self/fd").unwrap();
            assert_eq!(open_descriptors(), before + 1, "negative control: one that is held open counts");
            drop(held);
            let memory = resident();
            for round in 0..CONNECTIONS {
                peer.one(way, round).await;
            }
            until("the last descriptor to close", || open_descriptors() <= before).await;
            let grown = resident().saturating_sub(memory);
            eprintln!("{}: {CONNECTIONS} connections, {} KiB more", way.name, grown >> 10);
            assert!(grown <= SLACK, "{}: {grown} bytes more after {CONNECTIONS} connections", way.name);
            if let Some(ring) = &way.ring {
                assert_eq!((ring.stats().free, ring.stats().quarantined), (ring.capacity(), 0), "{:?}", ring.stats());
            }
        }
    };
    runtime.block_on(everything);
    let with_driver = open_descriptors();
    drop(runtime);
    assert!(open_descriptors() < with_driver, "the runtime's own");
}
