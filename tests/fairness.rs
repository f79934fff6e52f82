//! A peer that always has room does not keep a thread from its other tasks.

mod support;

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use support::peer::{Pace, Peer};
use tokio::task;
use zerosink::prelude::*;

/// Of one byte each: the socket holds them all, so that no send ever waits.
const SENDS: u32 = 4000;
const SILENT: Pace = Pace { receive_buffer: None, gated: true, late: std::time::Duration::ZERO, slow_reads: 0 };

/// How many turns another task of this thread has meanwhile.
async fn turns_of_another(during: impl Future<Output = ()>) -> u32 {
    let turns = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&turns);
    let other = task::spawn(async move {
        loop {
            counted.fetch_add(1, SeqCst);
            task::yield_now().await;
        }
    });
    during.await;
    other.abort();
    turns.load(SeqCst)
}

async fn send(sink: &mut AutoSink) {
    for _ in 0..SENDS {
        sink.send(&b"."[..]).await.unwrap();
    }
}

/// A sink that has sent: the portable build waits until tokio has seen that there is room.
async fn sink(peer: &Peer, config: SinkConfig) -> AutoSink {
    let mut sink = TcpStream::connect(peer.address()).unwrap().into_sink(config).await.unwrap();
    sink.send(&b"."[..]).await.unwrap();
    sink
}

async fn shares_its_thread(config: SinkConfig) {
    let peer = Peer::start(SILENT);
    let mut sink = sink(&peer, config.clone()).await;
    let before = sink.stats().would_block;
    let turns = turns_of_another(send(&mut sink)).await;
    let full = sink.stats().would_block - before;
    eprintln!("{config:?}: {turns} turns of another task, {full} times full");
    assert_eq!(full, 0, "waiting for room would give turns to others");
    // Every fourth of these sends costs one of the 128 units that tokio gives a task per turn.
    assert!(turns >= SENDS / 1024, "{turns} turns of another task in {SENDS} sends");
    peer.go();
}

#[tokio::test(flavor = "current_thread")]
async fn a_sink_that_never_waits_shares_its_thread() {
    shares_its_thread(SinkConfig::new()).await;
    shares_its_thread(SinkConfig::new().mechanism(Mechanism::Copy)).await;
}

/// Negative control: it is the budget that gives the other its turns, not something that the sink waits for.
#[tokio::test(flavor = "current_thread")]
async fn control_without_tokios_budget_the_other_task_starves() {
    let peer = Peer::start(SILENT);
    let mut sink = sink(&peer, SinkConfig::new().mechanism(Mechanism::Copy)).await;
    assert_eq!(turns_of_another(task::unconstrained(send(&mut sink))).await, 0);
    peer.go();
}
