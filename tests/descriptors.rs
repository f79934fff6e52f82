//! Descriptors do not leak. The only test of its binary: others would open and close their own.
#![cfg(target_os = "linux")]

mod harness;

use bytes::Bytes;
use harness::{MECHANISMS, connection, read_all, sink_by, stream, until, within};
use zerosink::prelude::*;

const CONNECTIONS: usize = 500;
const BYTES: usize = 48 << 10;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn one(mechanism: Mechanism, round: usize) {
    let (socket, reader) = connection(None);
    let peer = std::thread::spawn(|| read_all(reader));
    let mut sink = sink_by(mechanism, socket).await;
    within("send", sink.send(Bytes::from(stream(0, BYTES)))).await.unwrap();
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
            let (socket, _reader) = std::os::unix::net::UnixStream::pair().unwrap();
            assert!(socket.into_sink(SinkConfig::new().mechanism(Mechanism::MsgZerocopy)).await.is_err());
        }
    }
    tokio::task::spawn_blocking(|| peer.join().unwrap()).await.unwrap().is_exactly(BYTES);
}

#[test]
fn five_hundred_connections_of_each_mechanism_leave_no_descriptor_open() {
    let runtime = harness::runtime();
    let everything = async {
        // What is opened once per process and runtime is open from here on.
        for mechanism in MECHANISMS {
            one(*mechanism, 0).await;
        }
        for mechanism in MECHANISMS {
            let mut before = open_descriptors();
            until("the warm-up's descriptors to close", || {
                let now = open_descriptors();
                now == std::mem::replace(&mut before, now)
            })
            .await;
            let held = std::fs::File::open("/proc/self/fd").unwrap();
            assert_eq!(open_descriptors(), before + 1, "negative control: one that is held open counts");
            drop(held);
            for round in 0..CONNECTIONS {
                one(*mechanism, round).await;
            }
            until("the last descriptor to close", || open_descriptors() <= before).await;
        }
    };
    runtime.block_on(everything);
    let with_driver = open_descriptors();
    drop(runtime);
    assert!(open_descriptors() < with_driver, "the runtime's own");
}
