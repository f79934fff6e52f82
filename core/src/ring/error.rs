//! What can go wrong with a ring, and what to do about it.

use std::{error::Error, fmt, io};

use crate::memory::{Backing, MemoryError, Reuse};

/// A ring could not be built, or space could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// The ring would have no bytes.
    ZeroCapacity,
    /// More than [`RingBuilder::capacity`](super::RingBuilder::capacity) can be.
    TooLarge {
        /// What was asked for, in bytes.
        capacity: usize,
        /// The most there can be, in bytes.
        max: usize,
    },
    /// The memory could not be allocated.
    Memory(MemoryError),
    /// The memory that was given is smaller than the capacity that was asked for.
    MemoryTooSmall {
        /// What was asked for, in bytes.
        capacity: usize,
        /// What the memory has, in whole units.
        len: usize,
    },
    /// The memory cannot keep the discipline of reuse.
    CannotKeep {
        /// What was asked for.
        asked: Reuse,
        /// What the memory can keep at best.
        can: Reuse,
        /// What the memory is.
        backing: Backing,
    },
    /// The granule is not a power of two of at least 256 bytes.
    BadGranule {
        /// What was asked for, in bytes.
        granule: usize,
    },
    /// The replacement unit is not a power of two of at least 256 bytes, or the memory does not start on one.
    BadUnit {
        /// The unit in bytes.
        unit: usize,
        /// Bytes from the last unit's boundary to the memory's start.
        offset: usize,
    },
    /// No bytes were asked for.
    ZeroReserve,
    /// More was asked for than the ring could ever hold in one piece.
    TooLong {
        /// What was asked for, in bytes.
        asked: usize,
        /// The longest piece there can ever be, in bytes: less than the ring's capacity where bytes are quarantined or
        /// retired.
        longest: usize,
    },
    /// There is no such piece now, or others wait for space already.
    Full {
        /// What was asked for, in bytes.
        asked: usize,
        /// What is free, perhaps not in one piece.
        free: usize,
    },
    /// As many grants and leases are out through this handle as it may have.
    Limited {
        /// How many it may have.
        leases: usize,
    },
    /// More bytes were said to be filled than were written in this grant.
    NotWritten {
        /// What was said, in bytes.
        asked: usize,
        /// What was written, in bytes.
        written: usize,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroCapacity => {
                f.write_str("the ring would have no bytes; set a capacity, or give memory of at least one unit")
            }
            Self::TooLarge { capacity, max } => {
                write!(f, "a ring of {capacity} bytes is too large; use one of at most {max} bytes, or several rings")
            }
            Self::Memory(_) => f.write_str("the ring's memory could not be allocated"),
            Self::MemoryTooSmall { capacity, len } => write!(
                f,
                "the capacity is {capacity} bytes but the memory has {len} in whole units; give more memory or ask for less"
            ),
            Self::CannotKeep { asked, can, backing } => write!(
                f,
                "{backing} memory cannot be reused {asked}, at best {can}; use mapped memory that can, or ask for {can}"
            ),
            Self::BadGranule { granule } => {
                write!(f, "a granule of {granule} bytes cannot be; use a power of two from 256 on")
            }
            Self::BadUnit { unit, offset: 0 } => {
                write!(
                    f,
                    "a unit of {unit} bytes cannot be replaced; the memory's unit must be a power of two from 256 on"
                )
            }
            Self::BadUnit { unit, offset } => write!(
                f,
                "the memory starts {offset} bytes behind a boundary of {unit} bytes; align it to its replacement unit"
            ),
            Self::ZeroReserve => f.write_str("no bytes were asked for; reserve at least one"),
            Self::TooLong { asked, longest } => write!(
                f,
                "{asked} bytes can never be had in one piece of this ring, at most {longest}; reserve less or build a larger ring"
            ),
            Self::Full { asked, free } => write!(
                f,
                "no piece of {asked} bytes is free now ({free} bytes are, in all); wait with reserve, or send by copy"
            ),
            Self::Limited { leases } => write!(
                f,
                "all {leases} leases that this handle may have are out; wait with reserve, or raise the limit"
            ),
            Self::NotWritten { asked, written } => write!(
                f,
                "{asked} bytes were said to be filled but {written} were written in this grant; count what was written"
            ),
        }
    }
}

impl Error for RingError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Memory(source) => Some(source),
            _ => None,
        }
    }
}

impl From<RingError> for io::Error {
    fn from(error: RingError) -> Self {
        let kind = match error {
            RingError::Full { .. } | RingError::Limited { .. } => io::ErrorKind::WouldBlock,
            RingError::Memory(_) => io::ErrorKind::OutOfMemory,
            RingError::CannotKeep { .. } => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
