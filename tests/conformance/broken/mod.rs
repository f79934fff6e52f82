//! Backends with one bug each, and the check that must catch it. A kit that lets one of them pass is blind.

use zerosink::conformance::{Check, Failure, Mount, Outcome, Rule, TcpLoopback, broken::Broken};

use std::time::Duration;

/// Long enough for a healthy backend on a busy machine, and what a bug that hangs costs.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the check says, which must not pass.
#[track_caller]
fn caught(mount: Mount, check: &str) -> Failure {
    let found = Check::named(check).unwrap_or_else(|| panic!("no check is called {check}"));
    match found.run(&mount.patience(PATIENCE).shared()) {
        Outcome::Failed(failure) if failure.rule != Rule::Setup => {
            println!("{check}: {failure}");
            failure
        }
        other => panic!("{check} is blind: {other}"),
    }
}

mod copying {
    use super::*;

    fn mount(bug: Broken) -> Mount {
        let mount = Mount::new(bug, TcpLoopback);
        #[cfg(zerosink_linux)]
        let mount = match bug {
            Broken::CopiesInSecret => mount.witness(crate::witness::only_zero_copy),
            _ => mount.witness(crate::witness::only_copy),
        };
        mount
    }

    macro_rules! bugs {
        ($($name:ident: $bug:ident, $rule:ident;)+) => {
            $(#[test]
            fn $name() {
                let check = Broken::$bug.caught_by().unwrap_or_else(|| panic!("it has no bug"));
                assert_eq!(caught(mount(Broken::$bug), check).rule, Rule::$rule);
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
        copying_in_secret_is_caught: CopiesInSecret, Mechanism;
        miscounting_is_caught: Miscounts, Figures;
        releasing_when_polled_is_caught: ReleasesWhenPolled, InTheEnd;
        forgetting_a_send_is_caught: ForgetsASend, InTheEnd;
        releasing_twice_is_caught: ReleasesTwice, Figures;
        holding_outside_custody_is_caught: HoldsOutsideCustody, InTheEnd;
        losing_the_rest_on_drop_is_caught: LosesTheRestOnDrop, Content;
        never_closing_is_caught: NeverCloses, EndOfStream;
    }

    mod not_broken {
        use super::*;
        zerosink::conformance_tests!(mount(Broken::Not));
    }
}
