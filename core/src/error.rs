//! Errors: which call failed, on what, how far it got.

use std::{error::Error, fmt, io, sync::Arc};

use crate::{Mechanism, Refusal};

/// A send failed. What was accepted before stays accepted: it is on the stream, in order.
#[derive(Debug)]
#[non_exhaustive]
pub struct SendError {
    /// Bytes of this call that were accepted, and taken off the queue, before the failure.
    pub accepted: usize,
    /// The mechanism that was in use.
    pub mechanism: Mechanism,
    /// The system call, or the step of the library, that failed.
    pub call: &'static str,
    source: io::Error,
}

impl SendError {
    /// Builds an error that accepted nothing.
    #[must_use]
    pub const fn new(mechanism: Mechanism, call: &'static str, source: io::Error) -> Self {
        Self { accepted: 0, mechanism, call, source }
    }

    /// Says how many bytes were accepted before the failure.
    #[must_use]
    pub const fn after(mut self, accepted: usize) -> Self {
        self.accepted = accepted;
        self
    }

    /// The kind of the underlying error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failed while sending by {}; {} bytes were accepted before",
            self.call, self.mechanism, self.accepted
        )
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// A backend could not be attached to a connection. The connection is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The host, the socket or the configuration does not permit it.
    Refused {
        /// The mechanism that was asked for.
        mechanism: Mechanism,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// A system call failed.
    Call {
        /// The mechanism that was asked for.
        mechanism: Mechanism,
        /// The system call.
        call: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

impl AttachError {
    /// A refusal with its reason.
    pub fn refused(mechanism: Mechanism, reason: impl Into<Arc<str>>) -> Self {
        Self::Refused { mechanism, reason: reason.into() }
    }

    /// The reason as statistics and policy know it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused { .. } => Refusal::NotAttached,
            Self::Call { source, .. } => Refusal::from_error(source).unwrap_or(Refusal::NotAttached),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { mechanism, reason } => write!(f, "{mechanism} is refused: {reason}"),
            Self::Call { mechanism, call, .. } => write!(f, "{mechanism} could not be set up: {call} failed"),
        }
    }
}

impl Error for AttachError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused { .. } => None,
            Self::Call { source, .. } => Some(source),
        }
    }
}

impl From<AttachError> for io::Error {
    fn from(error: AttachError) -> Self {
        let kind = match &error {
            AttachError::Refused { .. } => io::ErrorKind::Unsupported,
            AttachError::Call { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// Release could not be proven before the deadline, or before the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleaseError {
    /// Bytes of which nobody can say who still reads them. They are kept alive and not reused until the kernel proves that it
    /// let go; or, where it never will, ring pages are replaced first, and other memory is kept for ever.
    pub quarantined: u64,
}

impl ReleaseError {
    pub(crate) const fn new(quarantined: u64) -> Self {
        Self { quarantined }
    }
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the release was not proven before the deadline or the end of the connection; {} bytes are in quarantine and will not be reused",
            self.quarantined
        )
    }
}

impl Error for ReleaseError {}
