//! System calls that a container's filter forbids, or answers as if the kernel had none: from the start, so that the probes meet it,
//! too. The transfer goes on by another mechanism, and statistics and events name the reason.

use std::{env, process::Command};

use zerosink::{Refusal, mapped::Replacement, prelude::*};

use super::{
    harness,
    support::{events::Events, seccomp},
    transfer::{Memory, Way},
};

/// Which line of the table the child is to try.
const LINE: &str = "ZEROSINK_TEST_LINE";

/// A call, by its number and an argument; and the mechanisms that are refused without it.
type Line = (&'static str, libc::c_long, Option<(u32, u32)>, &'static [Mechanism]);

const ZERO_COPY: u32 = (libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
const ERROR_QUEUE: u32 = (libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) as u32;
const BY_REFERENCE: &[Mechanism] = &[Mechanism::Splice, Mechanism::Gift];

const LINES: &[Line] = &[
    ("io_uring_setup", libc::SYS_io_uring_setup, None, &[Mechanism::IoUring]),
    ("io_uring_enter", libc::SYS_io_uring_enter, None, &[Mechanism::IoUring]),
    ("io_uring_register", libc::SYS_io_uring_register, None, &[Mechanism::IoUring]),
    ("setsockopt(SO_ZEROCOPY)", libc::SYS_setsockopt, Some((2, libc::SO_ZEROCOPY as u32)), &[Mechanism::MsgZerocopy]),
    ("sendmsg(MSG_ZEROCOPY)", libc::SYS_sendmsg, Some((2, ZERO_COPY)), &[Mechanism::MsgZerocopy]),
    ("recvmsg(MSG_ERRQUEUE)", libc::SYS_recvmsg, Some((2, ERROR_QUEUE)), &[Mechanism::MsgZerocopy]),
    ("vmsplice", libc::SYS_vmsplice, None, BY_REFERENCE),
    ("splice", libc::SYS_splice, None, BY_REFERENCE),
    ("pipe2", libc::SYS_pipe2, None, BY_REFERENCE),
    ("sendfile", libc::SYS_sendfile, None, &[]),
    ("setsockopt(SO_TIMESTAMPING)", libc::SYS_setsockopt, Some((2, libc::SO_TIMESTAMPING as u32)), &[]),
    ("timerfd_settime", libc::SYS_timerfd_settime, None, &[]),
    ("madvise(MADV_POPULATE_WRITE)", libc::SYS_madvise, Some((2, libc::MADV_POPULATE_WRITE as u32)), &[]),
];

const ERRNOS: [(i32, Refusal); 2] = [(libc::EPERM, Refusal::Forbidden), (libc::ENOSYS, Refusal::NotInKernel)];

const fn auto(unix: bool, memory: Memory) -> Way {
    Way { name: "auto", mechanism: None, unix, memory }
}

const WAYS: &[Way] = &[
    auto(false, Memory::Heap),
    auto(false, Memory::Anonymous(Replacement::DontNeed)),
    auto(false, Memory::Memfd),
    auto(true, Memory::Anonymous(Replacement::DontNeed)),
    auto(true, Memory::Memfd),
];

#[test]
fn what_a_filter_forbids_is_done_by_another_mechanism_and_the_reason_is_told() {
    const TEST: &str = "forbidden::what_a_filter_forbids_is_done_by_another_mechanism_and_the_reason_is_told";
    if harness::is_child() {
        return in_child(env::var(LINE).unwrap().parse().unwrap());
    }
    for line in 0..LINES.len() * ERRNOS.len() {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(LINE, line.to_string());
        harness::run_child(command, TEST);
    }
}

fn in_child(line: usize) {
    let (name, call, argument, refused) = LINES[line / ERRNOS.len()];
    let (errno, reason) = ERRNOS[line % ERRNOS.len()];
    let body = || {
        seccomp::answer(call, argument, errno).unwrap();
        let events = Events::recorded();
        for way in WAYS {
            let outcome = way.transfer(|| {}, || {});
            assert!(outcome.is_whole(), "{name}, {way:?}: {outcome:?}");
            let relevant = |mechanism: &&Mechanism| match mechanism {
                Mechanism::IoUring => cfg!(zerosink_uring) && !way.unix,
                Mechanism::MsgZerocopy => !way.unix,
                // Heap goes by reference on the user's word alone, and a memfd without pipes.
                _ => matches!(way.memory, Memory::Anonymous(_)),
            };
            for mechanism in refused.iter().filter(relevant) {
                let found = outcome.stats.refused[mechanism.index()];
                assert_eq!(found, Some(reason), "{name}, {way:?}, {mechanism}: {outcome:?}");
                let told = [&format!("mechanism={mechanism}"), &*format!("reason={reason}")];
                assert!(events.count(&told) > 0, "{name}, {way:?}: {told:?}: {:#?}", events.all());
            }
        }
    };
    // A filter is a thread's own.
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
