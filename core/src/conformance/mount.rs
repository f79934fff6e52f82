//! The list of checks, and how they are run.

use std::{
    any::Any,
    fmt,
    sync::{Arc, mpsc},
    thread,
};

use super::{Failure, Outcome, Report, Rule, Subject, checks, report::Step};

/// A check. Get one from [`CHECKS`], or by [`name`](Self::named).
#[derive(Clone, Copy)]
pub struct Check {
    name: &'static str,
    run: fn(&dyn Subject) -> Step<String>,
}

impl Check {
    /// The check that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CHECKS.iter().find(|check| check.name == name).copied()
    }

    /// What it is called, here and as a `#[test]`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the check on a thread of its own, and waits for it, but not for ever: a backend that blocks its thread has failed, and
    /// the thread is left to itself.
    #[must_use]
    pub fn run(&self, subject: &Arc<dyn Subject>) -> Outcome {
        // Several steps, each of them within the subject's patience.
        let limit = 6 * subject.patience();
        let (done, outcome) = mpsc::channel();
        let (run, subject) = (self.run, Arc::clone(subject));
        let body = move || drop(done.send(Outcome::from(run(&*subject))));
        let failed = |rule, seen| Outcome::Failed(Failure { rule, seen });
        let thread = match thread::Builder::new().name(self.name.into()).spawn(body) {
            Ok(thread) => thread,
            Err(error) => return failed(Rule::Setup, format!("no thread: {error}")),
        };
        match outcome.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let why = "a call blocks its thread, or many steps are slow though none lost the subject's patience";
                failed(Rule::Panic, format!("the check was not done after {limit:?}: {why}"))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let said = thread.join().err().map(said).unwrap_or_default();
                failed(Rule::Panic, format!("a panic: {said}"))
            }
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

fn said(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("of unknown contents").into(),
    }
}

/// Runs every check, one after the other.
#[must_use]
pub fn run_all(subject: &Arc<dyn Subject>) -> Report {
    let outcomes = CHECKS.iter().map(|check| (*check, check.run(subject))).collect();
    Report { mechanism: subject.mechanism(), outcomes }
}

/// Hands the list of checks, by module, to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_checks {
    ([$($then:tt)+] $($with:tt)*) => {
        $($then)+! {
            [$($with)*]
            order: bytes_arrive_in_order a_partial_accept_loses_nothing borrowed_memory_is_copied_before_the_call_returns;
            integrity: released_memory_is_not_read_any_more a_reader_that_splices_gets_the_right_bytes;
            release: memory_comes_back_once_the_peer_has_read memory_comes_back_though_nobody_polls_the_sink
                memory_comes_back_while_the_stream_goes_on completions_may_come_in_any_order;
            cancellation: a_send_dropped_after_any_poll_loses_nothing waiting_may_be_given_up_and_taken_up_again;
            endings: a_dropped_sink_keeps_its_memory_until_it_is_read
                the_end_of_the_runtime_releases_nothing_too_early closing_puts_end_of_file_behind_everything;
            peers: a_reset_ends_send_and_custody a_silent_peer_is_given_up_at_the_deadline
                a_full_socket_wakes_its_sender_and_does_not_spin;
            revoke: a_revoke_does_not_release_what_waits_to_leave;
            accounts: the_mechanism_carries_the_bytes the_figures_add_up;
        }
    };
}

macro_rules! list {
    ([] $($module:ident: $($name:ident)+;)+) => {
        /// Every check. Their names say what holds if they pass.
        pub const CHECKS: &[Check] = &[$($(Check { name: stringify!($name), run: checks::$module::$name }),+),+];
    };
}

crate::__conformance_checks!([list]);

/// Makes a `#[test]` of each check of the [conformance kit](crate::conformance), in the module where it stands.
///
/// The expression makes the [`Subject`](crate::conformance::Subject), and is evaluated for each test.
///
/// ```ignore
/// mod my_backend_over_tcp {
///     zerosink::conformance_tests!(super::subject());
/// }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::__conformance_checks!([$crate::__conformance_test] $subject);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_test {
    ([$subject:expr] $($module:ident: $($name:ident)+;)+) => {
        $($(
            #[test]
            fn $name() {
                let subject: ::std::sync::Arc<dyn $crate::conformance::Subject> = ::std::sync::Arc::new($subject);
                let name = stringify!($name);
                let Some(check) = $crate::conformance::Check::named(name) else { panic!("no check is called {name}") };
                let outcome = check.run(&subject);
                println!("{outcome}");
                outcome.enforce(name);
            }
        )+)+
    };
}
