//! The kit's own broken backends, which copy every byte.

use zerosink::conformance::{Mount, Rule, TcpLoopback, broken::Broken};

use super::{HANGS, caught};

fn mount(bug: Broken) -> Mount {
    let mount = Mount::new(bug, TcpLoopback);
    let mount = match bug {
        Broken::SleepsForEver
        | Broken::KeepsTheFirstWaker
        | Broken::HidesErrors
        | Broken::ReleasesWhenPolled
        | Broken::ForgetsASend
        | Broken::HoldsOutsideCustody
        | Broken::NeverCloses
        | Broken::WakesTheFirstWaiter => mount.patience(HANGS),
        _ => mount,
    };
    #[cfg(zerosink_linux)]
    let mount = match bug {
        Broken::CopiesInSecret => mount.witness(crate::witness::only_zero_copy),
        _ => mount.witness(crate::witness::only_copy),
    };
    mount
}

macro_rules! bugs {
    ($($(#[$attribute:meta])* $name:ident: $bug:ident, $rule:ident;)+) => {
        $($(#[$attribute])* #[test]
        fn $name() {
            let check = Broken::$bug.caught_by().unwrap_or_else(|| panic!("it has no bug"));
            caught(mount(Broken::$bug), check, Rule::$rule);
        })+

        #[test]
        fn every_bug_has_a_test() {
            assert_eq!(Broken::ALL.to_vec(), [$(Broken::$bug),+]);
        }
    };
}

bugs! {
    overtaking_is_caught: Overtakes, Content;
    swallowing_while_pending_is_caught: SwallowsWhilePending, Accepted;
    sleeping_for_ever_is_caught: SleepsForEver, Wakes;
    spinning_is_caught: Spins, Wakes;
    keeping_the_first_waker_is_caught: KeepsTheFirstWaker, Wakes;
    hiding_errors_is_caught: HidesErrors, Errors;
    // Nothing but a witness sees it.
    #[cfg_attr(not(zerosink_linux), ignore = "there is no witness on this system")]
    copying_in_secret_is_caught: CopiesInSecret, Mechanism;
    miscounting_is_caught: Miscounts, Figures;
    releasing_when_polled_is_caught: ReleasesWhenPolled, InTheEnd;
    forgetting_a_send_is_caught: ForgetsASend, InTheEnd;
    releasing_twice_is_caught: ReleasesTwice, Figures;
    holding_outside_custody_is_caught: HoldsOutsideCustody, InTheEnd;
    losing_the_rest_on_drop_is_caught: LosesTheRestOnDrop, Content;
    never_closing_is_caught: NeverCloses, EndOfStream;
    waking_the_first_waiter_is_caught: WakesTheFirstWaiter, InTheEnd;
}

/// What they are compared with: the same backend without a bug.
mod not_broken {
    use super::*;
    zerosink::conformance_tests!(mount(Broken::Not));
}
