//! Memory between accepted and released, by stream offset.
//!
//! [`Custody`] is the plain data structure; [`Ledger`] is the shared, locked form that a connection and its driver hold.

mod abandoned;
mod ledger;
mod sync;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

pub use ledger::{Completion, Ledger, PendingSend};

/// Memory that leaves custody. Drop it after every lock is released: the last handle of a lease wakes tasks.
pub type Released = SmallVec<[Bytes; 8]>;

/// What will end the custody of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Until {
    /// A `MSG_ZEROCOPY` notification, which names the send by an id that the kernel counts per socket.
    Notified,
    /// Whoever made the send says so, by the send's number (io_uring: the notification's `user_data`).
    Completed,
    /// The peer has everything up to the send's end: an offset of the stream (`SIOCOUTQ`).
    Reached,
}

/// The memory of one send call.
#[derive(Debug)]
struct Entry {
    start: u64,
    end: u64,
    memory: SmallVec<[Bytes; 2]>,
    since: Instant,
    until: Until,
    /// The call has returned.
    settled: bool,
    released: bool,
}

/// The sends of one connection whose memory the kernel may still read.
///
/// Each has a number, counted from 0 in stream order. Those that wait for `MSG_ZEROCOPY` also have an id: a counter per
/// socket, of such calls that accepted more than 0 bytes, modulo 2^32 (`Documentation/networking/msg_zerocopy.rst`).
/// Notifications name inclusive ranges of ids, coalesced and in any order.
#[derive(Debug, Default)]
pub struct Custody {
    /// In stream order; the front is never released.
    entries: VecDeque<Entry>,
    /// The number of the front entry.
    front: u64,
    /// The numbers of the sends that wait for a notification, by id; the front is never released.
    ids: VecDeque<u64>,
    /// The id of the front of `ids`.
    front_id: u32,
    /// Bytes of [`Until::Reached`] sends in custody.
    reaching: u64,
    pinned: u64,
    high_water: u64,
    longest: Duration,
    strays: u64,
}

impl Custody {
    /// An empty custody whose next id is `id`. A socket starts at 0; another value is for sockets that have sent before.
    #[must_use]
    pub fn starting_at(id: u32) -> Self {
        Self { front_id: id, ..Self::default() }
    }

    /// Everything below this stream offset is released; `None` if nothing is in custody.
    #[must_use]
    pub fn released(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.start)
    }

    /// Bytes in custody.
    #[must_use]
    pub const fn pinned(&self) -> u64 {
        self.pinned
    }

    /// Bytes in custody that wait for the peer to have them.
    #[must_use]
    pub const fn reaching(&self) -> u64 {
        self.reaching
    }

    /// The most bytes that were ever in custody.
    #[must_use]
    pub const fn high_water(&self) -> u64 {
        self.high_water
    }

    /// When the oldest send in custody was made.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.since)
    }

    /// The longest that any send was in custody.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.longest
    }

    /// Ids that notifications named although no such send is in custody.
    #[must_use]
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// True if nothing is in custody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number that the next send will have.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    /// The id that the next [`Until::Notified`] send will have.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        // The number of entries in flight is bounded by memory, far below 2^32: the truncation is exact.
        self.front_id.wrapping_add(self.ids.len() as u32)
    }

    /// Takes the memory of a send call that begins at the stream offset `start` into custody *before* the call is made.
    /// Returns the send's number.
    pub fn open(&mut self, until: Until, start: u64, memory: impl IntoIterator<Item = Bytes>, now: Instant) -> u64 {
        let number = self.next_number();
        // One by one, for there is nearly always one: `collect` is made for many.
        let (mut pieces, mut bytes) = (SmallVec::new(), 0);
        for piece in memory {
            bytes += piece.len() as u64;
            pieces.push(piece);
        }
        self.pinned += bytes;
        match until {
            Until::Notified => self.ids.push_back(number),
            Until::Reached => self.reaching += bytes,
            Until::Completed => {}
        }
        self.entries.push_back(Entry {
            start,
            end: start + bytes,
            memory: pieces,
            since: now,
            until,
            settled: false,
            released: false,
        });
        number
    }

    /// The send call returned: it accepted `bytes` of what [`open`](Self::open) took in, 0 if it failed. A call that
    /// accepted nothing took no id, and leaves custody at once.
    ///
    /// Only the latest send can be settled, and must be before the next is opened.
    pub fn settle(&mut self, number: u64, bytes: usize, out: &mut Released) {
        let Some(index) = number.checked_sub(self.front).map(|index| index as usize) else { return };
        if bytes == 0 {
            debug_assert_eq!(index + 1, self.entries.len(), "only the latest send can have failed");
            if let Some(entry) = self.entries.pop_back() {
                if entry.until == Until::Notified {
                    self.ids.pop_back();
                }
                self.unpin(&entry);
                out.extend(entry.memory);
            }
            return;
        }
        // The driver may have seen the release before this thread came back from the call.
        if let Some(entry) = self.entries.get_mut(index) {
            let end = entry.start + bytes as u64;
            let unsent = entry.end.saturating_sub(end);
            entry.end = end;
            entry.settled = true;
            if unsent > 0 && !entry.released {
                self.pinned -= unsent;
                if entry.until == Until::Reached {
                    self.reaching -= unsent;
                }
                let (mut kept, mut length) = (0, 0);
                while kept < entry.memory.len() && length < bytes {
                    length += entry.memory[kept].len();
                    kept += 1;
                }
                out.extend(entry.memory.drain(kept..));
            }
        }
        self.high_water = self.high_water.max(self.pinned);
        self.pop_released();
    }

    /// The latest send took all its memory, and is released already.
    pub fn settle_released(&mut self, number: u64, out: &mut Released) {
        self.high_water = self.high_water.max(self.pinned);
        let index = number.checked_sub(self.front).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.settled = true;
            if !entry.released {
                entry.released = true;
                self.pinned -= entry.end - entry.start;
                move_all(&mut entry.memory, out);
            }
        }
        self.pop_released();
    }

    /// The kernel let go of the sends with the ids `first..=last`, modulo 2^32. Returns how many of them were in custody.
    pub fn notify(&mut self, first: u32, last: u32, now: Instant, out: &mut Released) -> u32 {
        let named = u64::from(last.wrapping_sub(first)) + 1;
        let in_flight = self.ids.len() as u64;
        // Ids relative to the front. A range may begin below the front if a duplicate was coalesced into it.
        let offset = i64::from(first.wrapping_sub(self.front_id) as i32);
        let begin = offset.clamp(0, in_flight as i64) as usize;
        let end = offset.saturating_add_unsigned(named).clamp(0, in_flight as i64) as usize;
        let (mut count, mut oldest) = (0, None);
        for id in begin..end.max(begin) {
            if let Some(since) = self.release(self.ids[id], out) {
                count += 1;
                // Later ids are of later sends.
                oldest.get_or_insert(since);
            }
        }
        self.note_pin(oldest, now);
        self.strays += named - u64::from(count);
        self.pop_released();
        count
    }

    /// Whoever made the send `number` says that its memory is released. False, and counted as a stray, if it was already.
    pub fn complete(&mut self, number: u64, now: Instant, out: &mut Released) -> bool {
        let since = self.release(number, out);
        self.note_pin(since, now);
        self.strays += u64::from(since.is_none());
        self.pop_released();
        since.is_some()
    }

    /// The peer has everything below the stream offset `upto`: whole pieces of memory that lie below it are released,
    /// also of a send that goes on above it. Returns the number of bytes.
    pub fn reach(&mut self, upto: u64, now: Instant, out: &mut Released) -> u64 {
        let before = self.reaching;
        for entry in self.entries.iter_mut().take_while(|entry| entry.start < upto) {
            if entry.until != Until::Reached || entry.released || !entry.settled {
                continue;
            }
            while let Some(piece) = entry.memory.first() {
                // The last piece of a partly accepted send is longer than what was accepted of it.
                let bytes = (piece.len() as u64).min(entry.end - entry.start);
                if entry.start + bytes > upto {
                    break;
                }
                entry.start += bytes;
                self.pinned -= bytes;
                self.reaching -= bytes;
                out.push(entry.memory.remove(0));
            }
            if entry.memory.is_empty() {
                entry.released = true;
                self.longest = self.longest.max(now.saturating_duration_since(entry.since));
            }
        }
        self.pop_released();
        before - self.reaching
    }

    /// Gives up waiting for the peer: takes out all memory of [`Until::Reached`] sends, whose release was *not* proven.
    /// Returns how many bytes that is, and the stream offset of the first.
    pub fn abandon(&mut self, out: &mut Released) -> Option<(u64, u64)> {
        let held = |entry: &&mut Entry| entry.until == Until::Reached && entry.settled && !entry.released;
        let (mut bytes, mut first) = (0, None);
        for entry in self.entries.iter_mut().filter(held) {
            entry.released = true;
            bytes += entry.end - entry.start;
            first.get_or_insert(entry.start);
            move_all(&mut entry.memory, out);
        }
        self.pinned -= bytes;
        self.reaching -= bytes;
        self.pop_released();
        first.map(|first| (bytes, first))
    }

    /// Since when the send was in custody; `None` if it is not.
    fn release(&mut self, number: u64, out: &mut Released) -> Option<Instant> {
        let index = number.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index)).filter(|entry| !entry.released)?;
        entry.released = true;
        move_all(&mut entry.memory, out);
        self.pinned -= entry.end - entry.start;
        Some(entry.since)
    }

    fn note_pin(&mut self, since: Option<Instant>, now: Instant) {
        if let Some(since) = since {
            self.longest = self.longest.max(now.saturating_duration_since(since));
        }
    }

    /// Pops what is released off the front; keeps the entry of a send call that has not returned yet.
    fn pop_released(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.released && entry.settled) {
            let entry = self.entries.pop_front();
            self.front += 1;
            if entry.is_some_and(|entry| entry.until == Until::Notified) {
                self.ids.pop_front();
                self.front_id = self.front_id.wrapping_add(1);
            }
        }
    }

    fn unpin(&mut self, entry: &Entry) {
        if !entry.released {
            self.pinned -= entry.end - entry.start;
            if entry.until == Until::Reached {
                self.reaching -= entry.end - entry.start;
            }
        }
    }
}

/// One piece, which is all that most sends have, without the detour that `drain` takes.
#[inline]
fn move_all(memory: &mut SmallVec<[Bytes; 2]>, out: &mut Released) {
    if memory.len() == 1
        && let Some(piece) = memory.pop()
    {
        out.push(piece);
    } else {
        out.extend(memory.drain(..));
    }
}

#[cfg(test)]
mod tests;
