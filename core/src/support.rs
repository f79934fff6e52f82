//! What a probe answers.

use std::{fmt, io, sync::Arc};

/// The answer of a probe. "No" and "could not find out" are different answers and lead to different actions.
#[derive(Debug, Clone)]
pub enum Support {
    /// It was done and it worked.
    Yes,
    /// The host refuses, and says so in a way that will not change by asking again.
    No(Arc<str>),
    /// The question could not be asked (for example: no file descriptors left, a seccomp filter).
    Unknown(Arc<io::Error>),
}

impl Support {
    /// A refusal with its reason.
    pub fn no(reason: impl Into<Arc<str>>) -> Self {
        Self::No(reason.into())
    }

    /// The question could not be asked.
    pub fn unknown(error: io::Error) -> Self {
        Self::Unknown(Arc::new(error))
    }

    /// True only for [`Support::Yes`].
    #[must_use]
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No(reason) => write!(f, "no: {reason}"),
            Self::Unknown(error) => write!(f, "could not tell: {error}"),
        }
    }
}
