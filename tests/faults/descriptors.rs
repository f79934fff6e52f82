//! `RLIMIT_NOFILE`: a transfer that finds so many descriptors free and no more, from none to as many as it wants.

use std::{env, fs, io::Write as _, os::fd::OwnedFd, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use zerosink::{Refusal, mapped::Replacement, prelude::*};

use super::{
    alone, harness,
    support::events::Events,
    transfer::{Memory, TOTAL, Way},
};

/// How many the child may have.
const FREE: &str = "ZEROSINK_TEST_FREE";
/// What the child says when it has found none missing.
const ENOUGH: &str = "nothing was missing";
/// No transfer wants more.
const MOST: usize = 48;

/// Takes all descriptors but so many. They are free again when this is dropped.
pub(crate) fn all_but(free: usize) -> Vec<OwnedFd> {
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..most }).unwrap();
    let mut taken: Vec<OwnedFd> = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file.into());
    }
    taken.truncate(taken.len().checked_sub(free).expect("descriptors"));
    taken
}

/// One child for each number, for what is made or found out once per process is a part of it.
#[track_caller]
fn with_ever_more(test: &str, way: &Way) {
    if harness::is_child() {
        return transfer(way, env::var(FREE).unwrap().parse().unwrap());
    }
    for free in 0..MOST {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(FREE, free.to_string());
        let output = harness::child(command, test);
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "with {free} free:\n{said}\n{complained}");
        if said.contains(ENOUGH) {
            assert!(free > 2, "a driver alone has two");
            return;
        }
    }
    panic!("{MOST} are not enough");
}

fn transfer(way: &Way, free: usize) {
    let events = Events::recorded();
    let mut taken = Vec::new();
    let outcome = way.transfer(|| taken = all_but(free), || {});
    drop(taken);
    if let Some(failure) = &outcome.not_made {
        assert_eq!(failure.errno, Some(libc::EMFILE), "{outcome:?}");
        return;
    }
    assert!(outcome.is_whole(), "{outcome:?}");
    let missing: Vec<_> = outcome.stats.refusals().filter(|(_, reason)| *reason == Refusal::NoDescriptors).collect();
    for (mechanism, reason) in &missing {
        let words = ["mechanism stepped down", &format!("mechanism={mechanism}"), &format!("reason={reason}")];
        assert!(events.count(&words) > 0, "{outcome:?}, {:#?}", events.all());
    }
    if missing.is_empty() && outcome.copied_by(Refusal::NoDescriptors) == 0 {
        assert_eq!(outcome.stats.bytes_zero_copy, TOTAL as u64, "{outcome:?}");
        // In one piece, past the test harness.
        std::io::stdout().write_all(format!("{ENOUGH}\n").as_bytes()).unwrap();
    }
}

#[test]
fn tcp_with_ever_more_descriptors() {
    let way = Way { name: "auto", mechanism: None, unix: false, memory: Memory::Heap };
    with_ever_more("descriptors::tcp_with_ever_more_descriptors", &way);
}

#[test]
fn fresh_pages_with_ever_more_descriptors() {
    let memory = Memory::Anonymous(Replacement::DontNeed);
    let way = Way { name: "auto", mechanism: None, unix: true, memory };
    with_ever_more("descriptors::fresh_pages_with_ever_more_descriptors", &way);
}

/// A runtime that ends when nothing is left: what its sinks hold comes back all the same.
#[test]
fn memory_comes_back_after_the_runtime_though_there_is_no_descriptor() {
    if !alone("descriptors::memory_comes_back_after_the_runtime_though_there_is_no_descriptor") {
        return;
    }
    let (socket, reader) = harness::connection(harness::SMALL);
    let (tally, peer) = (harness::Tally::default(), harness::Peer::reading(reader));
    let mut taken = Vec::new();
    let runtime = harness::runtime();
    let accepted = runtime.block_on(async {
        let mut sink = socket.into_sink(SinkConfig::new().mechanism(Mechanism::MsgZerocopy)).await.unwrap();
        let mut queue = SendQueue::new();
        queue.push(tally.lend(harness::stream(0, TOTAL)));
        let sent = harness::cut_after(1, || {}, sink.send_queue(&mut queue)).await;
        assert!(sent.is_none(), "the socket took all");
        taken = all_but(0);
        sink.position().accepted
    });
    // Its own are free afterwards; its tasks, and with them the driver, end before.
    drop(runtime);
    assert!(tally.out() > 0);
    peer.start();
    tally.wait_for_all();
    drop(taken);
    peer.finish().is_exactly(accepted as usize);
}
