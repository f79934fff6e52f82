//! Every system call of a transfer fails once, or from some call on, with each error that it may have: the stream is whole, goes on by
//! copy, or ends with an error that names the cause; and everything else that `transfer` asks for.

use libc::{
    EACCES, EAGAIN, EBADF, ECONNRESET, EFAULT, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOPROTOOPT,
    ENOSPC, ENOSYS, ENOTCONN, EOPNOTSUPP, EPERM, EPIPE,
};
use zerosink::{Refusal, mapped::Replacement, prelude::*};

use super::{
    alone,
    door::Door,
    supervisor::{Answer, Calls, Script, supervised},
    transfer::{Memory, Outcome, Way, descriptors, each_of, no_more_descriptors_than, some_of},
};

/// To which calls of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// The first, a middle one, the last: each by itself.
    One,
    /// Each by itself, up to two dozen.
    Each,
    /// From the first, a middle one, the last on.
    On,
    /// All.
    All,
}

/// What may come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Nobody notices.
    Whole,
    /// The stream is whole, and some of it was copied for this reason.
    Copied(Refusal),
    /// The sink is not made, for this error.
    NotMade,
    /// A send fails, with this error.
    NotSent,
    /// Closing fails, with this error.
    NotClosed,
    /// Memory is not released before the deadline, and whoever waits is told.
    NotReleased,
    /// Nothing moves until the deadline, and whoever waits is told.
    Revoked,
    /// The stream is whole, and a mechanism was refused for this reason.
    Refused(Mechanism, Refusal),
    /// The ring loses a piece to the quarantine, and goes on.
    RingShrinks,
    /// The ring loses all, and whoever reserves is told.
    NoRing,
    /// The driver stops: a send, or closing, fails and says so.
    NoDriver,
}

/// A line of the table: the door, what it answers, to which calls, and what may come of it.
type Line = (Door, &'static [Answer], Which, &'static [Ends]);

const fn fails<const N: usize>(errnos: [i32; N]) -> [Answer; N] {
    let mut answers = [Answer::Short; N];
    let mut index = 0;
    while index < N {
        answers[index] = Answer::Fails(errnos[index]);
        index += 1;
    }
    answers
}

/// Where the socket is not full, no event follows: the timer sees it.
const FULL: [Answer; 1] = fails([EAGAIN]);
const INTERRUPTED: [Answer; 1] = fails([EINTR]);
const SHORT: [Answer; 1] = [Answer::Short];
const GONE: [Answer; 2] = fails([EPIPE, ECONNRESET]);
const NO_MEMORY: [Answer; 2] = fails([ENOBUFS, ENOMEM]);
const FORBIDDEN: [Answer; 2] = fails([EPERM, EACCES]);
const UNKNOWN: [Answer; 3] = fails([ENOSYS, EINVAL, EOPNOTSUPP]);
const BROKEN: [Answer; 2] = fails([EBADF, EFAULT]);

/// What every sink needs: its driver and its socket.
const OF_ALL: &[Line] = &[
    (Door::EpollCreate, &fails([EMFILE, ENFILE, ENOMEM]), Which::All, &[Ends::NotMade]),
    (Door::TimerCreate, &fails([EMFILE, ENFILE, ENOMEM]), Which::All, &[Ends::NotMade]),
    (Door::EpollCtl, &fails([ENOMEM, ENOSPC]), Which::One, &[Ends::NotMade, Ends::Whole]),
    (Door::TimerSet, &fails([EINVAL, EPERM]), Which::One, &[Ends::Whole]),
    (Door::TimerSet, &fails([EINVAL, EPERM]), Which::All, &[Ends::Whole]),
    (Door::SocketKind, &fails([ENOBUFS, EPERM]), Which::All, &[Ends::NotMade]),
    (Door::PeerName, &fails([ENOBUFS]), Which::All, &[Ends::NotMade]),
    (Door::Shutdown, &fails([ENOTCONN]), Which::One, &[Ends::Whole]),
    (Door::Shutdown, &fails([ENOBUFS, EPERM]), Which::All, &[Ends::NotClosed]),
];

/// What a sink needs whose memory goes into custody: the inner epoll. Where its socket cannot go there, its sends are copied.
const INSIDE: &[Line] = &[
    (Door::EpollCtl, &fails([ENOMEM, ENOSPC]), Which::On, &[Ends::NotMade, Ends::Whole]),
    (Door::EpollWait, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::EpollWait, &fails([EINVAL, EBADF]), Which::One, &[Ends::NoDriver, Ends::Whole]),
];

const COPY: &[Line] = &[
    (Door::Send, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::Send, &FULL, Which::One, &[Ends::Whole]),
    (Door::Send, &FULL, Which::All, &[Ends::Revoked]),
    (Door::Send, &SHORT, Which::One, &[Ends::Whole]),
    (Door::Send, &GONE, Which::One, &[Ends::NotSent]),
    (Door::Send, &NO_MEMORY, Which::One, &[Ends::NotSent]),
    (Door::Send, &FORBIDDEN, Which::One, &[Ends::NotSent]),
    (Door::Send, &BROKEN, Which::One, &[Ends::NotSent]),
];

const COPY_MANY: &[Line] = &[
    (Door::SendMany, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::SendMany, &FULL, Which::One, &[Ends::Whole]),
    (Door::SendMany, &SHORT, Which::One, &[Ends::Whole]),
    (Door::SendMany, &GONE, Which::One, &[Ends::NotSent]),
    (Door::SendMany, &NO_MEMORY, Which::One, &[Ends::NotSent]),
];

const ZERO_COPY: &[Line] = &[
    (Door::SetZeroCopy, &fails([EPERM, ENOPROTOOPT, EINVAL, ENOMEM]), Which::All, &[Ends::NotMade]),
    (Door::ZeroCopy, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::ZeroCopy, &FULL, Which::One, &[Ends::Whole]),
    (Door::ZeroCopy, &SHORT, Which::Each, &[Ends::Whole]),
    (Door::ZeroCopy, &GONE, Which::One, &[Ends::NotSent]),
    (Door::ZeroCopy, &NO_MEMORY, Which::One, &[Ends::Whole]),
    (Door::ZeroCopy, &NO_MEMORY, Which::On, &[Ends::Copied(Refusal::NoBuffers)]),
    (Door::ZeroCopy, &FORBIDDEN, Which::On, &[Ends::Copied(Refusal::Forbidden)]),
    (Door::ZeroCopy, &UNKNOWN, Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::ErrorQueue, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::ErrorQueue, &fails([ENOMEM, EPERM, EFAULT]), Which::One, &[Ends::Whole]),
    (Door::ErrorQueue, &fails([EPERM]), Which::All, &[Ends::NotReleased]),
];

/// `vmsplice` and `splice`.
const THROUGH_PIPES: &[Line] = &[
    (Door::Vmsplice, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::Vmsplice, &FULL, Which::One, &[Ends::Whole]),
    (Door::Vmsplice, &SHORT, Which::Each, &[Ends::Whole]),
    (Door::Vmsplice, &NO_MEMORY, Which::On, &[Ends::Copied(Refusal::NoBuffers)]),
    (Door::Vmsplice, &FORBIDDEN, Which::On, &[Ends::Copied(Refusal::Forbidden)]),
    (Door::Vmsplice, &UNKNOWN, Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::Vmsplice, &BROKEN, Which::One, &[Ends::NotSent]),
    (Door::Splice, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::Splice, &FULL, Which::One, &[Ends::Whole]),
    (Door::Splice, &SHORT, Which::Each, &[Ends::Whole]),
    (Door::Splice, &[Answer::Nothing], Which::One, &[Ends::Whole]),
    (Door::Splice, &[Answer::Nothing], Which::All, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::Splice, &fails([ENOMEM]), Which::All, &[Ends::Copied(Refusal::NoBuffers)]),
    (Door::Splice, &FORBIDDEN, Which::All, &[Ends::Copied(Refusal::Forbidden)]),
    (Door::Splice, &UNKNOWN, Which::All, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::Splice, &fails([ENOMEM, EPERM, EINVAL]), Which::On, &[Ends::Whole]),
    (Door::Splice, &GONE, Which::All, &[Ends::NotSent]),
];

const SENDFILE: &[Line] = &[
    (Door::Sendfile, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::Sendfile, &FULL, Which::One, &[Ends::Whole]),
    (Door::Sendfile, &SHORT, Which::Each, &[Ends::Whole]),
    (Door::Sendfile, &[Answer::Nothing], Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::Sendfile, &fails([ENOMEM]), Which::On, &[Ends::Copied(Refusal::NoBuffers)]),
    (Door::Sendfile, &FORBIDDEN, Which::On, &[Ends::Copied(Refusal::Forbidden)]),
    (Door::Sendfile, &UNKNOWN, Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::Sendfile, &GONE, Which::One, &[Ends::NotSent]),
    (Door::Sendfile, &fails([EIO]), Which::One, &[Ends::NotSent]),
    (Door::PunchHole, &INTERRUPTED, Which::Each, &[Ends::Whole]),
    (Door::PunchHole, &fails([ENOSPC, EPERM, EOPNOTSUPP, EIO, ENOMEM]), Which::One, &[Ends::RingShrinks]),
    (Door::PunchHole, &fails([EPERM]), Which::All, &[Ends::NoRing]),
];

const DONT_NEED: &[Line] = &[
    (Door::DontNeed, &fails([ENOMEM, EPERM, EBADF]), Which::One, &[Ends::RingShrinks]),
    (Door::DontNeed, &fails([EPERM]), Which::All, &[Ends::NoRing]),
    (Door::Populate, &fails([ENOMEM, EFAULT, EINVAL, EPERM, EINTR]), Which::On, &[Ends::Whole]),
];

const MAP_FIXED: &[Line] = &[
    (Door::MapFixed, &fails([ENOMEM, EPERM, EAGAIN]), Which::One, &[Ends::RingShrinks]),
    (Door::MapFixed, &fails([ENOMEM]), Which::All, &[Ends::NoRing]),
];

/// How far a peer is that is trusted.
const ACKNOWLEDGED: &[Line] = &[
    (Door::SendQueue, &fails([EINVAL, EPERM, EFAULT]), Which::One, &[Ends::Whole]),
    (Door::SendQueue, &fails([EPERM]), Which::All, &[Ends::NotReleased]),
];

const BY_TIME_STAMPS: &[Line] =
    &[(Door::SetTimestamping, &fails([EPERM, EINVAL, ENOPROTOOPT]), Which::All, &[Ends::Whole])];

/// Where nobody insists on a mechanism, one that is not to be had is missed by nobody.
const OF_AUTO: &[Line] = &[
    (Door::SetZeroCopy, &FORBIDDEN, Which::All, &[Ends::Refused(Mechanism::MsgZerocopy, Refusal::Forbidden)]),
    (
        Door::SetZeroCopy,
        &fails([ENOPROTOOPT, EINVAL]),
        Which::All,
        &[Ends::Refused(Mechanism::MsgZerocopy, Refusal::NotInKernel)],
    ),
    (Door::SetZeroCopy, &NO_MEMORY, Which::All, &[Ends::Refused(Mechanism::MsgZerocopy, Refusal::NoBuffers)]),
    (Door::ZeroCopy, &NO_MEMORY, Which::On, &[Ends::Copied(Refusal::NoBuffers)]),
    (Door::ErrorQueue, &INTERRUPTED, Which::Each, &[Ends::Whole]),
];

#[cfg(zerosink_uring)]
const URING_OF_AUTO: &[Line] = &[
    (Door::UringSetup, &FORBIDDEN, Which::All, &[Ends::Refused(Mechanism::IoUring, Refusal::Forbidden)]),
    (
        Door::UringSetup,
        &fails([ENOSYS, EINVAL]),
        Which::All,
        &[Ends::Refused(Mechanism::IoUring, Refusal::NotInKernel)],
    ),
    (Door::UringSetup, &fails([ENOMEM]), Which::All, &[Ends::Refused(Mechanism::IoUring, Refusal::NoBuffers)]),
    (
        Door::UringSetup,
        &fails([EMFILE, ENFILE]),
        Which::All,
        &[Ends::Refused(Mechanism::IoUring, Refusal::NoDescriptors)],
    ),
];

#[cfg(zerosink_uring)]
const URING: &[Line] = &[
    (Door::UringSetup, &fails([EPERM, ENOSYS, ENOMEM, EMFILE, EINVAL]), Which::All, &[Ends::NotMade]),
    (Door::UringEnter, &fails([EINTR, EAGAIN, libc::EBUSY, ENOMEM]), Which::Each, &[Ends::Whole]),
    (Door::UringEnter, &[Answer::Nothing], Which::One, &[Ends::Whole]),
    (Door::UringEnter, &FORBIDDEN, Which::On, &[Ends::Copied(Refusal::Forbidden)]),
    (Door::UringEnter, &UNKNOWN, Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::UringEnter, &BROKEN, Which::On, &[Ends::Copied(Refusal::NotInKernel)]),
    (Door::UringEnter, &fails([ENOMEM]), Which::All, &[Ends::Revoked]),
];

impl Ends {
    fn is(self, outcome: &Outcome, answer: Answer) -> bool {
        let errno = if let Answer::Fails(errno) = answer { Some(errno) } else { None };
        let only =
            |failure: &Option<super::transfer::Failure>| failure.as_ref().is_some_and(|failure| failure.errno == errno);
        match self {
            Self::Whole => outcome.is_whole() && outcome.ring_lost == 0,
            Self::Copied(reason) => outcome.is_whole() && outcome.copied_by(reason) > 0,
            Self::NotMade => only(&outcome.not_made),
            Self::NotSent => only(&outcome.not_sent) && outcome.not_released.is_none(),
            Self::NotClosed => only(&outcome.not_closed) && outcome.not_sent.is_none(),
            Self::NotReleased => outcome.not_released.is_some_and(|bytes| bytes > 0),
            Self::Revoked => {
                outcome.not_sent.as_ref().is_some_and(|failure| failure.kind == std::io::ErrorKind::TimedOut)
            }
            Self::Refused(mechanism, reason) => {
                outcome.is_whole() && outcome.stats.refused[mechanism.index()] == Some(reason)
            }
            Self::RingShrinks => outcome.is_whole() && outcome.ring_lost > 0,
            Self::NoRing => outcome.no_ring && outcome.not_sent.is_none(),
            Self::NoDriver => [&outcome.not_sent, &outcome.not_closed]
                .into_iter()
                .flatten()
                .any(|failure| failure.text.contains("driver of this sink has failed")),
        }
    }
}

/// Runs the lines; says what did not hold.
fn run(way: &Way, lines: &[&[Line]], script: &Script) -> Vec<String> {
    let mut wrong = Vec::new();
    let transfer = |order| way.transfer(|| script.order(order), || script.end());
    // What is made once per process is there then.
    for _ in 0..2 {
        let outcome = transfer(None);
        assert!(outcome.is_whole(), "without a fault: {outcome:?}");
    }
    let usual = Door::ALL.map(|door| script.calls(door));
    let before = descriptors();
    for (door, answers, which, ends) in lines.iter().copied().flatten().copied() {
        let calls = usual[door as usize];
        if calls == 0 {
            wrong.push(format!("{}: nobody comes to {door:?}", way.name));
            continue;
        }
        let orders: Vec<_> = match which {
            Which::One => some_of(calls).into_iter().map(Calls::Only).collect(),
            Which::Each => each_of(calls).into_iter().map(Calls::Only).collect(),
            Which::On => some_of(calls).into_iter().map(Calls::From).collect(),
            Which::All => vec![Calls::From(0)],
        };
        for (answer, calls) in answers.iter().flat_map(|answer| orders.iter().map(move |calls| (*answer, *calls))) {
            let what = (way.name, door, answer, calls);
            let Ok(outcome) = std::panic::catch_unwind(|| transfer(Some((door, calls, answer)))) else {
                script.end();
                wrong.push(format!("{what:?}: see the panic"));
                continue;
            };
            let came = script.answered() > 0;
            // How many calls there are differs from run to run: only the first is sure to come.
            let first = matches!(calls, Calls::Only(0) | Calls::From(0));
            let as_it_should =
                if came { ends.iter().any(|end| end.is(&outcome, answer)) } else { !first && outcome.is_whole() };
            if !as_it_should {
                wrong.push(format!("{what:?}, answered {}: {outcome:?}", script.answered()));
            }
            no_more_descriptors_than(before, &what);
        }
    }
    wrong
}

/// Alone in its process, for the sake of descriptors and of what is made once.
#[track_caller]
fn try_each(test: &str, way: &Way, lines: &[&[Line]]) {
    if !alone(test) {
        return;
    }
    let script = Script::default();
    match supervised(&script, || run(way, lines, &script)) {
        Ok(wrong) => assert!(wrong.is_empty(), "{} lines do not hold:\n{}", wrong.len(), wrong.join("\n")),
        Err(error) => super::harness::skip(test, &format!("no system call can be made to fail: {error}")),
    }
}

const fn by(name: &'static str, mechanism: Mechanism, unix: bool, memory: Memory) -> Way {
    Way { name, mechanism: Some(mechanism), unix, memory }
}

const AUTO: Way = Way { name: "auto", mechanism: None, unix: false, memory: Memory::Heap };

macro_rules! every_errno {
    ($($test:ident: $way:expr, $lines:expr;)+) => {$(
        #[test]
        fn $test() {
            try_each(concat!("errnos::", stringify!($test)), &$way, $lines);
        }
    )+};
}

every_errno! {
    copy: by("copy", Mechanism::Copy, false, Memory::Heap), &[OF_ALL, COPY];
    copy_of_many: by("copy of many", Mechanism::Copy, false, Memory::Crumbs), &[COPY_MANY];
    copy_over_unix: by("copy, AF_UNIX", Mechanism::Copy, true, Memory::Heap), &[COPY];
    msg_zerocopy: by("msg-zerocopy", Mechanism::MsgZerocopy, false, Memory::Heap), &[OF_ALL, INSIDE, ZERO_COPY];
    auto: AUTO, &[OF_ALL, INSIDE, OF_AUTO];
    splice: by("splice", Mechanism::Splice, false, Memory::Anonymous(Replacement::DontNeed)), &[THROUGH_PIPES, DONT_NEED];
    splice_over_unix: by("splice, AF_UNIX", Mechanism::Splice, true, Memory::Anonymous(Replacement::DontNeed)),
        &[THROUGH_PIPES];
    splice_of_a_memfd: by("splice of a memfd", Mechanism::Splice, false, Memory::Memfd), &[SENDFILE];
    gift: by("gift", Mechanism::Gift, false, Memory::Anonymous(Replacement::MapFixed)), &[THROUGH_PIPES, MAP_FIXED];
    splice_on_the_users_word: by("splice on the user's word", Mechanism::Splice, false, Memory::InPlace),
        &[OF_ALL, INSIDE, ACKNOWLEDGED, BY_TIME_STAMPS];
    splice_on_the_users_word_over_unix: by("splice on the user's word, AF_UNIX", Mechanism::Splice, true, Memory::InPlace),
        &[ACKNOWLEDGED];
}

#[cfg(zerosink_uring)]
every_errno! {
    io_uring: by("io-uring", Mechanism::IoUring, false, Memory::Heap), &[OF_ALL, INSIDE, URING];
    auto_without_io_uring: AUTO, &[URING_OF_AUTO];
}

/// Negative control: the calls really are cut short, and whoever takes a short count for a whole one is found out.
#[test]
fn control_a_sender_that_overlooks_short_counts_loses_bytes() {
    let script = Script::default();
    let received = supervised(&script, || {
        let (socket, reader) = super::harness::connection(None);
        script.order(Some((Door::Send, Calls::Only(1), Answer::Short)));
        for offset in (0..3000).step_by(1000) {
            let mut piece = [0; 1000];
            super::support::pattern::fill(offset, &mut piece);
            rustix::net::send(&socket, &piece, rustix::net::SendFlags::empty()).unwrap();
        }
        drop(socket);
        super::harness::read_all(reader)
    });
    let Ok(received) = received else {
        return super::harness::skip(
            "control_a_sender_that_overlooks_short_counts_loses_bytes",
            "there is no supervisor",
        );
    };
    let mut verdict = super::support::pattern::Verdict::default();
    verdict.take(&received.bytes);
    assert_eq!((verdict.bytes, verdict.first_wrong, script.answered()), (1000 + 334 + 1000, Some(1334), 1));
}
