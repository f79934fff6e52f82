//! Why a body broke off.

use std::{error::Error, fmt, io};

use zerosink_core::ring::RingError;

/// What producers may fail with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a body broke off. A server that gets it aborts the response, so that the client sees that it is not whole.
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The reader failed.
    Read(io::Error),
    /// The ring can never have the piece that was asked for.
    Ring(RingError),
    /// The producer returned an error.
    Producer(BoxError),
    /// The producer or the reader panicked.
    Panicked {
        /// What it said.
        message: String,
    },
    /// The body ended before the length that was stated.
    TooShort {
        /// Bytes that did not come.
        missing: u64,
    },
    /// The last piece goes beyond the length that was stated.
    TooLong {
        /// Bytes that are too many.
        more: u64,
    },
    /// Nobody will take what was written: the body is gone.
    Gone,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => f.write_str("the body could not be read"),
            Self::Ring(_) => f.write_str("the ring has no room for the body"),
            Self::Producer(_) => f.write_str("the body could not be produced"),
            Self::Panicked { message } => write!(f, "the producer of the body panicked: {message}"),
            Self::TooShort { missing } => {
                write!(f, "the body ended {missing} bytes early; state the length that it has, or none")
            }
            Self::TooLong { more } => {
                write!(f, "the body has {more} bytes too many; state the length that it has, or none")
            }
            Self::Gone => f.write_str("the body is gone, nobody takes what is written"),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(source) => Some(source),
            Self::Ring(source) => Some(source),
            Self::Producer(source) => Some(&**source),
            _ => None,
        }
    }
}

impl From<RingError> for BodyError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        let kind = match &error {
            BodyError::Read(source) => source.kind(),
            BodyError::TooShort { .. } => io::ErrorKind::UnexpectedEof,
            BodyError::Gone => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
