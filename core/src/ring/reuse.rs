//! What becomes of bytes that come back.

use std::{io, ops::Range, sync::PoisonError};

use super::{cell::Piece, shared::Shared, space::Kind};
use crate::memory::Reuse;

/// What can be said of a segment that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    /// A grant: nobody else has seen its bytes.
    Unsent,
    /// A lease, of which the last handle is gone.
    Lease,
    /// The same, but somebody may still read it: the kernel, for a peer.
    Distrusted,
}

impl Shared {
    /// Prepares a segment for its next life; `Some` if there will be none.
    #[inline]
    pub(super) fn clean(&self, start: u32, piece: &mut Piece, returned: Returned) -> Option<Kind> {
        match (returned, self.facts().reuse) {
            (Returned::Unsent, _) => {
                if piece.exposed() {
                    self.wipe(piece, 0);
                }
                None
            }
            (Returned::Lease, Reuse::InPlace) => {
                self.wipe(piece, 0);
                None
            }
            (_, Reuse::InPlace | Reuse::FreshPages) => self.replace(start, piece),
            (_, Reuse::Immutable) => Some(Kind::Retired),
        }
    }

    /// Wipes, from `from` on, what nobody else reads.
    #[inline]
    pub(super) fn wipe(&self, piece: &mut Piece, from: usize) {
        if let Some(byte) = self.poison.or(self.scrub.then_some(0)) {
            piece.overwrite(from, byte);
        }
    }

    /// Not one byte is written before the pages are replaced: a socket may still send from the old ones.
    #[cold]
    fn replace(&self, start: u32, piece: &mut Piece) -> Option<Kind> {
        let range = self.range(start, piece.cap());
        let outcome = match self.facts().reuse {
            Reuse::FreshPages => self.memory().recycle(range.clone()),
            _ => self.replace_once(range.clone()),
        };
        if let Err(error) = outcome {
            let (offset, bytes) = (range.start, range.len());
            tracing::warn!(%error, offset, bytes, "pages could not be replaced, the range is in quarantine");
            return Some(Kind::Quarantined);
        }
        if let Some(byte) = self.poison {
            piece.overwrite(0, byte);
        }
        None
    }

    /// Replaces pages of a ring that otherwise keeps them.
    fn replace_once(&self, range: Range<usize>) -> io::Result<()> {
        if !self.is_whole_units(&range) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a lease that is not whole replacement units"));
        }
        // Held while the pages go, so that `keep_pages` does not return in the middle of it.
        let kept = self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "somebody relies on the ring's pages"));
        }
        self.memory().recycle(range)
    }

    fn is_whole_units(&self, range: &Range<usize>) -> bool {
        let unit = self.facts().unit;
        let whole = |at: usize| unit.is_power_of_two() && at & (unit - 1) == 0;
        whole(self.start()) && whole(range.start) && whole(range.end)
    }

    /// True if the pages of `range` can be replaced, as far as can be said beforehand.
    pub(super) fn can_replace(&self, range: Range<usize>) -> bool {
        self.memory().facts().reuse == Reuse::FreshPages
            && self.is_whole_units(&range)
            && !*self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the ring's pages stay what they are. False if they are replaced all the time.
    pub(crate) fn keep_pages(&self) -> bool {
        let keeps = self.facts().reuse != Reuse::FreshPages;
        if keeps {
            *self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        keeps
    }
}
