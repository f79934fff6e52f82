//! Fresh pages for old ones.
//!
//! The kernel refers to pages, not to addresses. Once other pages are behind an address, whoever still has the old ones, a
//! socket's queue or a reader's pipe, keeps them and the bytes on them, for as long as he likes.

use std::{fmt, io, ops::Range};

use super::{MappedMemory, Pages, memfd::Memfd};

/// How the pages of a range are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replacement {
    /// `MADV_DONTNEED`, for anonymous memory: the default. Under `mlock` or `mlockall` it is `MADV_DONTNEED_LOCKED`, which
    /// needs Linux 5.18.
    DontNeed,
    /// A new anonymous mapping over the old one (`mmap` with `MAP_FIXED`), for anonymous memory. It costs more than
    /// [`DontNeed`](Self::DontNeed), holds up every other mapping and page fault of the process meanwhile, and forgets
    /// what was said about the addresses, `mlock` among it. It is the way where locked memory must be replaced before 5.18.
    MapFixed,
    /// `FALLOC_FL_PUNCH_HOLE`, for a memfd, and a look whether the pages are gone: a hole in a part of a larger folio that
    /// somebody refers to succeeds and replaces nothing. `MADV_DONTNEED` would replace nothing either.
    PunchHole,
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DontNeed => "MADV_DONTNEED",
            Self::MapFixed => "MAP_FIXED",
            Self::PunchHole => "PUNCH_HOLE",
        })
    }
}

/// Whether replaced pages are faulted in at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Populate {
    No,
    /// Where it fails, the first use faults them in.
    Try,
    /// A fault would raise SIGBUS where there is no page, so there must be one.
    Must,
}

impl MappedMemory {
    /// Replaces the pages of whole units. After an error the range must not be used again.
    pub(super) fn replace(&self, range: &Range<usize>) -> io::Result<()> {
        match (self.replacement, &self.memfd) {
            (Replacement::PunchHole, Some(memfd)) => self.punch(memfd, range)?,
            (Replacement::MapFixed, None) => self.map_anew(range)?,
            (Replacement::DontNeed, None) => self.mapping.discard(range)?,
            (replacement, _) => return Err(io::Error::other(format!("{replacement} does not replace these pages"))),
        }
        match self.populate {
            Populate::No => Ok(()),
            Populate::Must => self.mapping.populate(range),
            Populate::Try => {
                if let Err(error) = self.mapping.populate(range) {
                    tracing::debug!(%error, bytes = range.len(), "replaced pages could not be populated");
                }
                Ok(())
            }
        }
    }

    fn map_anew(&self, range: &Range<usize>) -> io::Result<()> {
        self.mapping.map_anew(range)?;
        // Also so that the kernel sees one mapping again, and not one more for each range.
        let advised = match self.pages {
            Pages::Base => self.mapping.want_base(range),
            _ => self.mapping.want_huge(range),
        };
        if let Err(error) = advised {
            tracing::debug!(%error, "replaced pages are not of the size that was asked for");
        }
        Ok(())
    }

    fn punch(&self, memfd: &Memfd, range: &Range<usize>) -> io::Result<()> {
        memfd.punch(range)?;
        match self.mapping.resident(range)? {
            0 => Ok(()),
            bytes => Err(io::Error::other(format!(
                "{bytes} of {} bytes still have their old pages after PUNCH_HOLE: they are part of a larger folio",
                range.len()
            ))),
        }
    }
}
