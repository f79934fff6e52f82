//! What becomes of bytes that come back.

use std::{
    fmt, io,
    ops::Range,
    sync::{PoisonError, Weak},
};

use super::{
    piece::{Filled, Piece},
    returns::Fate,
    shared::Shared,
};
use crate::{memory::Reuse, region::Keeper};

impl Shared {
    /// Wipes what was written but not committed: nobody else has seen it.
    #[inline]
    pub(super) fn wipe_unsent(&self, piece: &mut Piece) {
        if let Some(byte) = self.wipe_with() {
            piece.overwrite_spare(byte);
        }
    }

    /// Wipes a grant that was not committed.
    #[inline]
    pub(super) fn wipe_grant(&self, piece: &mut Piece) {
        if let Some(byte) = self.wipe_with() {
            piece.overwrite(byte);
        }
    }

    /// Wipes a lease that nobody reads any more.
    #[inline]
    pub(super) fn wipe_lease(&self, filled: &mut Filled) {
        if let Some(byte) = self.wipe_with() {
            filled.overwrite(byte);
        }
    }

    #[inline]
    fn wipe_with(&self) -> Option<u8> {
        self.poison.or(self.scrub.then_some(0))
    }

    /// What becomes of a lease that nobody in this process reads any more.
    #[inline]
    pub(super) fn fate(&self, filled: &mut Filled, distrusted: bool) -> Fate {
        match self.facts().reuse {
            Reuse::InPlace if !distrusted => {
                self.wipe_lease(filled);
                Fate::Free
            }
            // Many at once when they are needed, unless nobody may find the old bytes here meanwhile.
            Reuse::FreshPages if self.wipe_with().is_none() => Fate::Stale,
            Reuse::InPlace | Reuse::FreshPages => {
                let slice = filled.as_slice();
                let fate = self.replace(self.granule(slice.as_ptr().addr()), self.granules(slice.len()));
                if let (Fate::Free, Some(byte)) = (fate, self.poison) {
                    filled.overwrite(byte);
                }
                fate
            }
            Reuse::Immutable => Fate::Retired,
        }
    }

    /// Replaces the pages of so many granules, which are nobody's. Not one byte is written before: a socket may still send from
    /// the old ones.
    #[cold]
    pub(super) fn replace(&self, start: u32, granules: u32) -> Fate {
        let (offset, bytes) = ((start as usize) << self.shift, self.bytes(granules));
        let range = offset..offset + bytes;
        let outcome = match self.facts().reuse {
            Reuse::FreshPages => self.memory().recycle(range),
            _ => self.replace_once(range),
        };
        match outcome {
            Ok(()) => Fate::Free,
            Err(error) => {
                tracing::warn!(%error, offset, bytes, "pages could not be replaced: what stays so is in quarantine");
                Fate::Quarantined
            }
        }
    }

    /// Replaces pages of a ring that otherwise keeps them.
    fn replace_once(&self, range: Range<usize>) -> io::Result<()> {
        if !self.is_whole_units(&range) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a lease that is not whole replacement units"));
        }
        // Held while the pages go, so that `keep_pages` does not return in the middle of it.
        let kept = self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.asked {
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
            && !self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner).asked
    }

    /// From now on the ring's pages stay what they are. False if they are replaced all the time.
    pub(crate) fn keep_pages(&self, keeper: Option<&Weak<dyn Keeper>>) -> bool {
        let keeps = self.facts().reuse != Reuse::FreshPages;
        if keeps {
            let mut kept = self.keeps_pages.lock().unwrap_or_else(PoisonError::into_inner);
            kept.asked = true;
            if let Some(keeper) = keeper {
                kept.keepers.retain(|known| known.strong_count() > 0);
                kept.keepers.push(keeper.clone());
            }
        }
        keeps
    }
}

/// Who relies on the pages of a ring that is reused in place.
#[derive(Default)]
pub(super) struct KeptPages {
    asked: bool,
    keepers: Vec<Weak<dyn Keeper>>,
}

impl KeptPages {
    /// The ring is over.
    pub(super) fn let_go(&mut self, addresses: &Range<usize>) {
        for keeper in self.keepers.drain(..).filter_map(|keeper| keeper.upgrade()) {
            keeper.let_go(addresses.clone());
        }
    }
}

impl fmt::Debug for KeptPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptPages").field("asked", &self.asked).finish_non_exhaustive()
    }
}
