//! What a check found.

use std::{error::Error, fmt, io, io::Write as _};

use super::Check;
use crate::Mechanism;

/// What a backend promises. [`Failure`] names the promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The peer reads what was accepted, in order, each byte once.
    Content,
    /// `poll_send` takes the bytes that it accepted off the queue, no others, and none while it is pending.
    Accepted,
    /// Borrowed memory is read before the call returns.
    Borrowed,
    /// Memory is not released before nobody can read it any more.
    NotBefore,
    /// Memory is released when nobody can read it any more, also if nobody polls the sink.
    InTheEnd,
    /// Memory comes back while the stream goes on, and not only when the queue is empty.
    Incremental,
    /// Everything below `position().released` is released, and `released <= flushed <= accepted`.
    Position,
    /// Whoever is pending is woken when there is something to do, and not before.
    Wakes,
    /// An error comes when the connection is over, and says how many bytes were accepted before it.
    Errors,
    /// Nothing waits longer than the deadline for a peer that does nothing.
    Deadline,
    /// Memory whose release was not proven is in quarantine, and counted.
    Quarantine,
    /// Closing puts end of file behind everything accepted.
    EndOfStream,
    /// The bytes go by the mechanism that the sink names.
    Mechanism,
    /// Statistics add up: accepted is the sum of its parts, nothing is pinned in the end, nothing is released twice.
    Figures,
    /// Nothing panics, and no call blocks.
    Panic,
    /// The subject can be set up. Nothing is known about the backend if it cannot.
    Setup,
}

impl Rule {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Content => "the peer reads what was accepted, in order, each byte once",
            Self::Accepted => {
                "poll_send takes the bytes that it accepted off the queue, no others, and none while it is pending"
            }
            Self::Borrowed => "borrowed memory is read before the call returns",
            Self::NotBefore => "memory is not released before nobody can read it any more",
            Self::InTheEnd => "memory is released when nobody can read it any more, also if nobody polls the sink",
            Self::Incremental => "memory comes back while the stream goes on, not only when the queue is empty",
            Self::Position => "everything below position().released is released, and released <= flushed <= accepted",
            Self::Wakes => "whoever is pending is woken when there is something to do, and not before",
            Self::Errors => {
                "an error comes when the connection is over, and says how many bytes were accepted before it"
            }
            Self::Deadline => "nothing waits longer than the deadline for a peer that does nothing",
            Self::Quarantine => "memory whose release was not proven is in quarantine, and counted",
            Self::EndOfStream => "closing puts end of file behind everything accepted",
            Self::Mechanism => "the bytes go by the mechanism that the sink names",
            Self::Figures => {
                "statistics add up: accepted is the sum of its parts, nothing is pinned in the end, nothing is released twice"
            }
            Self::Panic => "nothing panics, and no call blocks",
            Self::Setup => "the subject can be set up",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The promise.
    pub rule: Rule,
    /// What was seen instead, for people.
    pub seen: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  the rule: {}", self.seen, self.rule)
    }
}

impl Error for Failure {}

/// What a check says about a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The promise was kept. The text says what was seen.
    Passed(String),
    /// It was not.
    Failed(Failure),
    /// The question does not arise for this subject. The text says why.
    NotApplicable(String),
    /// This host cannot answer it. The text says why.
    Skipped(String),
}

impl Outcome {
    /// True for [`Outcome::Failed`].
    #[must_use]
    pub const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Turns the outcome into that of a `#[test]`, as [`conformance_tests!`](crate::conformance_tests) does. What was skipped is said
    /// on standard error, past the test harness.
    ///
    /// # Panics
    ///
    /// If the check failed; also if it was skipped and the environment variable `CI` is set, for there everything must run.
    #[track_caller]
    pub fn enforce(self, check: &str) {
        match self {
            Self::Failed(failure) => panic!("{check}: {failure}"),
            Self::Skipped(why) if std::env::var_os("CI").is_some() => panic!("{check} must run on CI, but {why}"),
            Self::Skipped(why) => {
                let line = format!("\n*** SKIPPED: {check}: {why} ***\n\n");
                // Nobody is there to be told if standard error is closed.
                io::stderr().write_all(line.as_bytes()).ok();
            }
            Self::Passed(_) | Self::NotApplicable(_) => {}
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(seen) => write!(f, "passed: {seen}"),
            Self::Failed(failure) => write!(f, "FAILED: {failure}"),
            Self::NotApplicable(why) => write!(f, "not applicable: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// What [`run_all`](super::run_all) found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The mechanism of the subject.
    pub mechanism: Mechanism,
    /// Every check with its outcome, in the order of [`CHECKS`](super::CHECKS).
    pub outcomes: Vec<(Check, Outcome)>,
}

impl Report {
    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&Check, &Failure)> {
        self.outcomes.iter().filter_map(|(check, outcome)| match outcome {
            Outcome::Failed(failure) => Some((check, failure)),
            _ => None,
        })
    }

    /// True if no check failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.mechanism)?;
        for (check, outcome) in &self.outcomes {
            writeln!(f, "{}: {outcome}", check.name())?;
        }
        Ok(())
    }
}

/// Why a check goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Failure),
    NotApplicable(String),
    Skipped(String),
}

/// A step of a check.
pub(super) type Step<T = ()> = Result<T, Stop>;

impl Stop {
    pub(super) fn failed(rule: Rule, seen: impl Into<String>) -> Self {
        Self::Failed(Failure { rule, seen: seen.into() })
    }

    /// Something that is not the backend's failed.
    pub(super) fn setup(what: &str, error: &dyn Error) -> Self {
        Self::failed(Rule::Setup, format!("{what}: {}", chain(error)))
    }

    /// The sink says that something failed, and there is no reason for it.
    pub(super) fn unexpected(what: &str, error: &dyn Error) -> Self {
        Self::failed(Rule::Errors, format!("{what} failed although the peer is well: {}", chain(error)))
    }

    pub(super) fn not_applicable(why: impl Into<String>) -> Self {
        Self::NotApplicable(why.into())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::NotApplicable(why) | Self::Skipped(why) => f.write_str(why),
        }
    }
}

impl From<Step<String>> for Outcome {
    fn from(step: Step<String>) -> Self {
        match step {
            Ok(seen) => Self::Passed(seen),
            Err(Stop::Failed(failure)) => Self::Failed(failure),
            Err(Stop::NotApplicable(why)) => Self::NotApplicable(why),
            Err(Stop::Skipped(why)) => Self::Skipped(why),
        }
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Stops with a broken rule unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $rule:ident, $($seen:tt)+) => {
        if !$condition {
            return Err($crate::conformance::report::Stop::failed(
                $crate::conformance::report::Rule::$rule,
                format!($($seen)+),
            ));
        }
    };
}

pub(super) use ensure;
