//! Backends with one bug each, and the check that must catch it. A kit that lets one of them pass is blind.
//!
//! Beside each stands what it was made from, without the bug, and passes the same check: so it is the bug that is caught.

mod copying;
#[cfg(zerosink_linux)]
mod holes;
#[cfg(zerosink_linux)]
mod sharing;
#[cfg(zerosink_linux)]
mod splicer;
#[cfg(zerosink_uring)]
mod uring;

use std::time::Duration;

use zerosink::conformance::{Check, Mount, Outcome, Rule};

/// What a bug costs that shows only by something that never comes.
const HANGS: Duration = Duration::from_secs(3);

#[track_caller]
fn run(mount: Mount, check: &str) -> Outcome {
    let found = Check::named(check).unwrap_or_else(|| panic!("no check is called {check}"));
    let outcome = found.run(&mount.shared());
    println!("{check}: {outcome}");
    outcome
}

/// The check must fail, for the right reason.
#[track_caller]
fn caught(mount: Mount, check: &str, rule: Rule) {
    match run(mount, check) {
        Outcome::Failed(failure) => assert_eq!(failure.rule, rule, "{check}: {failure}"),
        skipped @ Outcome::Skipped(_) => skipped.enforce(check),
        other => panic!("{check} is blind: {other}"),
    }
}

/// The check must fail, for the right reason, in one of a few runs: the bug is a race, which the backend wins now and then.
#[track_caller]
#[cfg(zerosink_uring)]
fn caught_before_long(mount: impl Fn() -> Mount, check: &str, rule: Rule) {
    const RUNS: usize = 20;
    let blind = |outcome: &Outcome| matches!(outcome, Outcome::Passed(_));
    let outcome = (0..RUNS).map(|_| run(mount(), check)).find(|outcome| !blind(outcome));
    match outcome {
        Some(Outcome::Failed(failure)) => assert_eq!(failure.rule, rule, "{check}: {failure}"),
        Some(skipped @ Outcome::Skipped(_)) => skipped.enforce(check),
        other => panic!("{check} is blind in {RUNS} runs: {other:?}"),
    }
}

/// The check must pass.
#[track_caller]
#[cfg(zerosink_linux)]
fn passes(mount: Mount, check: &str) {
    match run(mount, check) {
        Outcome::NotApplicable(why) => panic!("{check} says nothing about this backend: {why}"),
        other => other.enforce(check),
    }
}
