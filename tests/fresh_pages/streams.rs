//! Whole streams through small rings of every kind of memory, by the mechanisms that rest on replaced pages, to a late and
//! slow reader. What comes back to the ring is poisoned, after its pages were replaced.

use std::time::Duration;

use super::{
    support::{
        PATIENCE, POISON,
        pattern::Verdict,
        peer::{Pace, Peer},
        send_stream,
    },
    *,
};
use zerosink::{Mechanism, SinkStats, prelude::*};

const TOTAL: u64 = 8 << 20;
const SLOW: Pace =
    Pace { receive_buffer: Some(64 << 10), gated: false, late: Duration::from_millis(100), slow_reads: 20 };

async fn stream(mechanism: Mechanism, memory: MappedMemory) -> SinkStats {
    let what = format!("{mechanism}, {memory:?}");
    let ring = Ring::builder().reuse(Reuse::FreshPages).poison(POISON).build_on(memory).unwrap();
    let peer = Peer::start(SLOW);
    let socket = tokio::net::TcpStream::connect(peer.address()).await.unwrap();
    let mut sink = socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap();
    let done = async {
        send_stream(&mut sink, &ring, TOTAL).await;
        sink.released(TOTAL).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, done).await.expect("the transfer has stalled");
    assert_eq!(ring.stats().quarantined, 0, "{what}");
    let stats = sink.stats();
    drop(sink);
    let verdict = tokio::task::spawn_blocking(|| peer.verdict()).await.unwrap();
    assert_eq!(verdict, Verdict::flawless(TOTAL), "{what}");
    stats
}

#[tokio::test]
async fn no_wrong_byte_from_any_kind_of_memory() {
    for mechanism in [Mechanism::Splice, Mechanism::Gift] {
        for (pages, memfd, bytes) in [
            (Pages::Base, false, 256 << 10),
            (Pages::Base, true, 256 << 10),
            (Pages::Large(64 << 10), false, 256 << 10),
            (Pages::Huge, false, 4 << 20),
            (Pages::Huge, true, 4 << 20),
            (Pages::Reserved, true, 4 << 20),
        ] {
            let Some(memory) = with_pages(&MapOptions::new(), pages, bytes, memfd) else { continue };
            let stats = stream(mechanism, memory).await;
            assert_eq!((stats.bytes_zero_copy, stats.bytes_copied), (TOTAL, 0), "{stats:?}");
        }
    }
}
