//! What happened to segments since somebody last held the ring's lock.
//!
//! Only reservations take the lock. Whoever returns a segment, or commits less than was reserved, leaves a **note** of
//! it, in one atomic operation. Whoever locks the ring next takes all notes at once and carries them out, so under the
//! lock nothing is ever seen of them. Each note lies in its segment's slot and names the one left before it; the newest
//! is in [`Returns`].
//!
//! Who wants to know at once, because he waits for space, raises a flag beside the newest note. Then nobody can leave a
//! note any more: it has to be carried out under the lock by whom it concerns.

use super::sync::{AtomicU64, Ordering};

/// What is said of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It keeps the granules that its slot says; the others are free.
    Cut = 1,
    /// It is free.
    Free,
    /// It is back, and needs fresh pages before it is free.
    Stale,
    /// It is back, but its pages had to be replaced and could not be.
    Quarantined,
    /// It is back, and will never be written again.
    Retired,
}

/// One note, or none, with the flags beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note(u64);

impl Note {
    #[inline]
    pub(super) fn new(number: u32, fate: Fate) -> Self {
        Self(u64::from(number) << 32 | (fate as u64) << 8)
    }

    /// The segment's number and what is said of it; `None` behind the oldest.
    #[inline]
    pub(super) fn read(self) -> Option<(u32, Fate)> {
        let fate = match self.0 >> 8 & 0xFF {
            1 => Fate::Cut,
            2 => Fate::Free,
            3 => Fate::Stale,
            4 => Fate::Quarantined,
            5 => Fate::Retired,
            _ => return None,
        };
        Some(((self.0 >> 32) as u32, fate))
    }

    /// The note that was left before the one in front of `link`.
    #[inline]
    pub(super) fn behind(link: &AtomicU64) -> Self {
        Self(link.load(Ordering::Relaxed))
    }
}

/// Why nobody may leave a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// Somebody waits for space.
    Waiting = 1,
    /// The ring has no handle any more: the last segment that comes back ends it.
    Closed = 2,
}

const FLAGS: u64 = 0xFF;

/// The newest note, and the flags.
#[derive(Debug)]
pub(super) struct Returns(AtomicU64);

impl Returns {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Leaves a note; false if a flag is up. After true whoever takes it may do with the segment what it says, and with
    /// the last one end the ring, so the caller must not touch either any more. `link` is the one that the slot has for
    /// such a note.
    #[inline]
    pub(super) fn leave(&self, note: Note, link: &AtomicU64) -> bool {
        let mut newest = self.0.load(Ordering::Relaxed);
        loop {
            if newest & FLAGS != 0 {
                return false;
            }
            link.store(newest, Ordering::Relaxed);
            // Release, and read-modify-writes by others keep the chain: whoever takes the notes sees all that was done
            // before any of them was left.
            match self.0.compare_exchange_weak(newest, note.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(newer) => newest = newer,
            }
        }
    }

    /// Takes all notes, newest first. Callers hold the ring's lock.
    #[inline]
    pub(super) fn take(&self) -> Note {
        let newest = self.0.load(Ordering::Relaxed);
        if newest & !FLAGS == 0 {
            return Note(0);
        }
        // Flags change under the lock only, so what is put back is what is there.
        Note(self.0.swap(newest & FLAGS, Ordering::Acquire))
    }

    /// From now on notes are refused. Those that were left before can be taken afterwards. Callers hold the ring's lock.
    pub(super) fn raise(&self, flag: Flag) {
        self.0.fetch_or(flag as u64, Ordering::Relaxed);
    }

    /// Callers hold the ring's lock.
    pub(super) fn lower(&self, flag: Flag) {
        self.0.fetch_and(!(flag as u64), Ordering::Relaxed);
    }
}
