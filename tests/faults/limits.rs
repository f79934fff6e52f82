//! Limits of a user and of a process.

use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, setrlimit};
use zerosink::{
    Refusal,
    mapped::{Fallback, MapOptions, Pages, Replacement},
    prelude::*,
};

use super::{
    alone, harness,
    support::events::Events,
    transfer::{Memory, Outcome, Way},
};

const ROLE: &str = "ZEROSINK_TEST_ROLE";
const LITTLE: u64 = 64 << 10;

const fn by(mechanism: Option<Mechanism>, memory: Memory) -> Way {
    Way { name: "limited", mechanism, unix: false, memory }
}

/// What a kernel that notifies accounts for.
const PINNED: &[Option<Mechanism>] = if cfg!(zerosink_uring) {
    &[Some(Mechanism::MsgZerocopy), Some(Mechanism::IoUring), None]
} else {
    &[Some(Mechanism::MsgZerocopy), None]
};

/// This binary as a user without privileges, by way of /proc: he may not be permitted to walk the path to it. The budget is a user's,
/// so each test has its own.
fn as_user(user: u32) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.uid(user).gid(user).current_dir("/");
    command
}

fn without_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        harness::skip(test, "it needs root, to become a user without privileges");
    }
    !root
}

fn lock_no_more_than(bytes: u64) {
    setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum: Some(bytes) }).unwrap();
}

fn whole(way: &Way) -> Outcome {
    let outcome = way.transfer(|| {}, || {});
    assert!(outcome.is_whole(), "{way:?}: {outcome:?}");
    outcome
}

/// The queues of io_uring count as locked memory: without that there is none, for whoever insists on it.
fn is_locked_out(mechanism: Option<Mechanism>, outcome: &Outcome) -> bool {
    let failure = outcome.not_made.as_ref().filter(|_| mechanism == Some(Mechanism::IoUring));
    failure.is_some_and(|failure| matches!(failure.errno, Some(libc::ENOMEM | libc::ENOBUFS)))
}

#[test]
fn a_user_who_may_lock_nothing_copies() {
    const TEST: &str = "limits::a_user_who_may_lock_nothing_copies";
    if !harness::is_child() {
        if !without_root(TEST) {
            harness::run_child(as_user(65101), TEST);
        }
        return;
    }
    lock_no_more_than(0);
    for mechanism in PINNED {
        let events = Events::recorded();
        let way = by(*mechanism, Memory::Heap);
        let outcome = way.transfer(|| {}, || {});
        if is_locked_out(*mechanism, &outcome) {
            continue;
        }
        assert!(outcome.is_whole(), "{way:?}: {outcome:?}");
        assert_eq!(outcome.stats.bytes_zero_copy, 0, "{way:?}: {outcome:?}");
        let told = ["mechanism stepped down", "reason=no-buffers"];
        assert!(events.count(&told) > 0, "{way:?}: {:#?}", events.all());
    }
    // What is not pinned is not accounted for.
    let outcome = whole(&by(Some(Mechanism::Splice), Memory::Anonymous(Replacement::DontNeed)));
    assert_eq!(outcome.stats.bytes_copied, 0, "{outcome:?}");
}

#[test]
fn a_user_who_may_lock_little_copies_the_rest() {
    const TEST: &str = "limits::a_user_who_may_lock_little_copies_the_rest";
    if !harness::is_child() {
        if !without_root(TEST) {
            harness::run_child(as_user(65102), TEST);
        }
        return;
    }
    lock_no_more_than(LITTLE);
    for mechanism in PINNED {
        // There is room for the queues of io_uring, too, if not for those that it has usually.
        let outcome = whole(&by(*mechanism, Memory::Heap));
        let stats = &outcome.stats;
        assert!(stats.bytes_zero_copy > 0, "{mechanism:?}: {outcome:?}");
        // Whether it was too little depends on how fast the peer takes it.
        assert_eq!(outcome.copied_by(Refusal::NoBuffers), stats.bytes_copied, "{mechanism:?}: {outcome:?}");
    }
}

/// Two processes of one user: what one has pinned the other has not.
#[test]
fn processes_of_one_user_share_what_may_be_locked() {
    const TEST: &str = "limits::processes_of_one_user_share_what_may_be_locked";
    let role = env::var(ROLE);
    match role.as_deref() {
        Ok("first") => return pin_everything_until_told(),
        Ok(expected) => {
            lock_no_more_than(LITTLE);
            let outcome = whole(&by(Some(Mechanism::MsgZerocopy), Memory::Heap));
            let zero_copy = outcome.stats.bytes_zero_copy > 0;
            assert_eq!(zero_copy, expected == "alone", "{outcome:?}");
            assert_eq!(outcome.copied_by(Refusal::NoBuffers), outcome.stats.bytes_copied, "{outcome:?}");
            return;
        }
        Err(_) if without_root(TEST) => return,
        Err(_) => {}
    }
    let second = |role| {
        let mut command = as_user(65103);
        command.env(ROLE, role);
        harness::run_child(command, TEST);
    };
    let mut command = as_user(65103);
    command.args([TEST, "--exact", "--nocapture"]).env(ROLE, "first");
    let mut first = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("all is pinned")), "the first process has failed");
    second("beside another");
    drop(first.stdin.take());
    let rest: Vec<_> = said.collect();
    assert!(first.wait().unwrap().success(), "{rest:?}");
    second("alone");
}

fn pin_everything_until_told() {
    lock_no_more_than(LITTLE);
    let (socket, _reader) = harness::connection(None);
    harness::runtime().block_on(async {
        let mut sink = socket.into_sink(SinkConfig::new().mechanism(Mechanism::MsgZerocopy)).await.unwrap();
        // Nobody reads: what is beyond his window stays here.
        while sink.stats().no_buffers == 0 {
            harness::within("send", sink.send(bytes::Bytes::from(vec![0; 4096]))).await.unwrap();
        }
        println!("all is pinned");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    });
}

/// Less than a dozen notifications for each socket.
#[test]
fn with_little_option_memory_the_stream_is_whole() {
    const TEST: &str = "limits::with_little_option_memory_the_stream_is_whole";
    if !harness::is_child() {
        return harness::run_in_network_namespace(TEST);
    }
    let knob = "/proc/sys/net/core/optmem_max";
    if !std::path::Path::new(knob).exists() {
        return harness::skip(TEST, "this kernel has no optmem_max per network namespace");
    }
    std::fs::write(knob, "4096").unwrap();
    for mechanism in PINNED {
        let outcome = whole(&by(*mechanism, Memory::Heap));
        assert!(outcome.stats.bytes_zero_copy > 0, "{outcome:?}");
        assert_eq!(outcome.copied_by(Refusal::NoBuffers), outcome.stats.bytes_copied, "{outcome:?}");
    }
}

/// Every way under `mlockall`: new mappings are full at once, and replaced pages locked.
#[test]
fn with_all_memory_locked_the_stream_is_whole() {
    if !alone("limits::with_all_memory_locked_the_stream_is_whole") {
        return;
    }
    use rustix::mm::{MlockAllFlags, mlockall};
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        return harness::skip("with_all_memory_locked", &format!("mlockall: {error}"));
    }
    for (mechanism, memory) in [
        (None, Memory::Heap),
        (Some(Mechanism::Splice), Memory::Anonymous(Replacement::DontNeed)),
        (Some(Mechanism::Gift), Memory::Anonymous(Replacement::MapFixed)),
        (Some(Mechanism::Splice), Memory::Memfd),
        (Some(Mechanism::MsgZerocopy), Memory::Heap),
    ] {
        let outcome = whole(&by(mechanism, memory));
        assert_eq!((outcome.stats.bytes_copied, outcome.ring_lost), (0, 0), "{memory:?}: {outcome:?}");
    }
}

/// A ring that does not fit into the address space is an error; a smaller one is not, and neither is what else a sink needs.
#[test]
fn without_address_space_a_ring_is_refused_and_a_smaller_one_works() {
    if !alone("limits::without_address_space_a_ring_is_refused_and_a_smaller_one_works") {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let used: u64 = used.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    let limit = Some(used + (256 << 20));
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    for pages in [Pages::Base, Pages::Huge] {
        let options = MapOptions::new().pages(pages);
        for error in [options.anonymous(1 << 30).unwrap_err(), options.memfd(1 << 30).unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{pages}: {error}");
        }
    }
    assert!(matches!(Ring::builder().capacity(1 << 30).build(), Err(zerosink::RingError::Memory(_))));
    for memory in [Memory::Heap, Memory::Anonymous(Replacement::DontNeed), Memory::Memfd] {
        assert!(whole(&by(None, memory)).stats.bytes_zero_copy > 0);
    }
}

/// Huge pages of which the operator has put none aside.
#[test]
fn huge_pages_that_are_not_there_are_replaced_by_others_and_said() {
    let reserved = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    if reserved.trim() != "0" {
        return harness::skip("huge_pages_that_are_not_there", "this host has put huge pages aside");
    }
    let memory = MapOptions::new().pages(Pages::Reserved).memfd(1 << 20).unwrap();
    assert_ne!(memory.pages(), Pages::Reserved);
    let said = |fallback: &Fallback| matches!(fallback, Fallback::Pages { asked: Pages::Reserved, .. });
    assert!(memory.fallbacks().iter().any(said), "{:?}", memory.fallbacks());
}
