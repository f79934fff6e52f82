//! What is found out or made once per process fails the first time, each in a process of its own: probes, the first pipe.

use std::{env, process::Command};

use libc::{EBUSY, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSYS, EPERM};
use zerosink::{Refusal, mapped::Replacement, prelude::*};

use super::{
    door::Door,
    harness,
    supervisor::{Answer, Calls, Script, supervised},
    transfer::{Memory, Way, descriptors, no_more_descriptors_than},
};

/// Which line the child is to try.
const LINE: &str = "ZEROSINK_TEST_LINE";

const fn auto(unix: bool, memory: Memory) -> Way {
    Way { name: "auto", mechanism: None, unix, memory }
}

const TCP: Way = auto(false, Memory::Heap);
const PIPES: Way = auto(true, Memory::Anonymous(Replacement::DontNeed));

/// What is missing then, and why; `None` if nothing is.
type Missing = Option<(Mechanism, Refusal)>;

const fn why(mechanism: Mechanism, refusal: Refusal) -> Missing {
    Some((mechanism, refusal))
}

const LINES: &[(Way, Door, i32, Missing)] = &[
    (PIPES, Door::Pipe, EMFILE, why(Mechanism::Splice, Refusal::NoDescriptors)),
    (PIPES, Door::Pipe, ENFILE, why(Mechanism::Splice, Refusal::NoDescriptors)),
    (PIPES, Door::Pipe, EPERM, why(Mechanism::Splice, Refusal::Forbidden)),
    (PIPES, Door::PipeSize, EPERM, None),
    (PIPES, Door::PipeSize, EBUSY, None),
    (PIPES, Door::PipeSize, ENOMEM, None),
    (PIPES, Door::PipeSize, EINVAL, None),
    (PIPES, Door::Vmsplice, ENOSYS, why(Mechanism::Splice, Refusal::NotInKernel)),
    (PIPES, Door::Vmsplice, ENOMEM, why(Mechanism::Splice, Refusal::NoBuffers)),
    (PIPES, Door::Splice, EINVAL, why(Mechanism::Splice, Refusal::NotInKernel)),
    (TCP, Door::SetZeroCopy, EPERM, why(Mechanism::MsgZerocopy, Refusal::Forbidden)),
    (TCP, Door::SetZeroCopy, ENOMEM, why(Mechanism::MsgZerocopy, Refusal::NoBuffers)),
    (TCP, Door::ZeroCopy, ENOSYS, why(Mechanism::MsgZerocopy, Refusal::NotInKernel)),
    (TCP, Door::ZeroCopy, ENOBUFS, why(Mechanism::MsgZerocopy, Refusal::NoBuffers)),
    (TCP, Door::ErrorQueue, EPERM, why(Mechanism::MsgZerocopy, Refusal::Forbidden)),
    (TCP, Door::UringSetup, EPERM, why(Mechanism::IoUring, Refusal::Forbidden)),
    (TCP, Door::UringSetup, ENOSYS, why(Mechanism::IoUring, Refusal::NotInKernel)),
    (TCP, Door::UringSetup, ENOMEM, why(Mechanism::IoUring, Refusal::NoBuffers)),
    (TCP, Door::UringSetup, EMFILE, why(Mechanism::IoUring, Refusal::NoDescriptors)),
    (TCP, Door::UringRegister, EPERM, why(Mechanism::IoUring, Refusal::Forbidden)),
    (TCP, Door::UringRegister, EINVAL, why(Mechanism::IoUring, Refusal::NotInKernel)),
    (TCP, Door::UringEnter, EPERM, why(Mechanism::IoUring, Refusal::Forbidden)),
];

#[test]
fn what_fails_the_first_time_is_missing_for_that_reason() {
    const TEST: &str = "first::what_fails_the_first_time_is_missing_for_that_reason";
    if let Ok(line) = env::var(LINE) {
        let (way, door, errno, missing) = LINES[line.parse::<usize>().unwrap()];
        let script = Script::default();
        let tried = supervised(&script, || {
            let before = descriptors();
            let order = Some((door, Calls::From(0), Answer::Fails(errno)));
            let outcome = way.transfer(|| script.order(order), || script.end());
            assert!(script.answered() > 0 && outcome.is_whole(), "{door:?}, {errno}: {outcome:?}");
            if let Some((mechanism, refusal)) = missing {
                let found = outcome.stats.refused[mechanism.index()];
                assert_eq!(found, Some(refusal), "{door:?}, {errno}: {outcome:?}");
            } else {
                assert_eq!(outcome.stats.bytes_copied, 0, "{door:?}, {errno}: {outcome:?}");
            }
            // The place to throw residue away, and a pipe, which are kept.
            no_more_descriptors_than(before + 3, &(door, errno));
        });
        return tried.unwrap_or_else(|error| harness::skip(TEST, &format!("there is no supervisor: {error}")));
    }
    for (line, (_, door, ..)) in LINES.iter().enumerate() {
        if !cfg!(zerosink_uring) && matches!(door, Door::UringSetup | Door::UringRegister | Door::UringEnter) {
            continue;
        }
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(LINE, line.to_string());
        harness::run_child(command, TEST);
    }
}
