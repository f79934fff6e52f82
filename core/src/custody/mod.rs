//! Memory between accepted and released, by stream offset.
//!
//! [`Custody`] is the plain data structure; [`Ledger`] is the shared, locked form that a connection and its driver hold.

mod ledger;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

pub use ledger::{Completion, Ledger, PendingSend};

/// Memory that leaves custody. Drop it after every lock is released: the last handle of a lease wakes tasks.
pub type Released = SmallVec<[Bytes; 8]>;

/// The memory of one send call.
#[derive(Debug)]
struct Entry {
    start: u64,
    end: u64,
    memory: SmallVec<[Bytes; 2]>,
    since: Instant,
    released: bool,
}

/// The sends of one connection whose memory the kernel may still read.
///
/// Ids follow `MSG_ZEROCOPY`: a counter per socket, of calls that accepted more than 0 bytes, modulo 2^32
/// (`Documentation/networking/msg_zerocopy.rst`). Notifications name inclusive ranges of them, coalesced and in any order.
#[derive(Debug, Default)]
pub struct Custody {
    /// In stream order; the front is never released.
    entries: VecDeque<Entry>,
    /// The id of the front entry.
    front_id: u32,
    accepted: u64,
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

    /// Bytes accepted so far: the end of the stream.
    #[must_use]
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Everything below this stream offset is released.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.entries.front().map_or(self.accepted, |entry| entry.start)
    }

    /// Bytes in custody.
    #[must_use]
    pub const fn pinned(&self) -> u64 {
        self.pinned
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

    /// The id that the next send will have.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        // The number of entries in flight is bounded by memory, far below 2^32: the truncation is exact.
        self.front_id.wrapping_add(self.entries.len() as u32)
    }

    /// `bytes` were copied by the kernel: they move the stream on and are released already.
    pub const fn copied(&mut self, bytes: usize) {
        self.accepted += bytes as u64;
    }

    /// Takes the memory of a send call into custody *before* the call is made. Returns its id.
    pub fn open(&mut self, memory: impl IntoIterator<Item = Bytes>, now: Instant) -> u32 {
        let id = self.next_id();
        let memory: SmallVec<[Bytes; 2]> = memory.into_iter().collect();
        let bytes: u64 = memory.iter().map(|m| m.len() as u64).sum();
        self.pinned += bytes;
        let (start, end) = (self.accepted, self.accepted + bytes);
        self.entries.push_back(Entry { start, end, memory, since: now, released: false });
        id
    }

    /// The send call returned: it accepted `bytes` of what [`open`](Self::open) took in, 0 if it failed. A call that
    /// accepted nothing took no id, and leaves custody at once.
    ///
    /// Only the latest send can be settled, and must be before the next is opened.
    pub fn settle(&mut self, id: u32, bytes: usize, out: &mut Released) {
        if bytes == 0 {
            debug_assert_eq!(id.wrapping_add(1), self.next_id(), "only the latest send can have failed");
            if let Some(entry) = self.entries.pop_back() {
                self.pinned -= if entry.released { 0 } else { entry.end - entry.start };
                out.extend(entry.memory);
            }
            return;
        }
        let end = self.accepted + bytes as u64;
        self.accepted = end;
        let index = id.wrapping_sub(self.front_id) as usize;
        // The driver may have seen the notification before this thread came back from the call.
        if let Some(entry) = self.entries.get_mut(index) {
            if !entry.released {
                self.pinned -= entry.end - end;
                let mut kept = 0;
                let mut length = 0;
                while kept < entry.memory.len() && length < bytes {
                    length += entry.memory[kept].len();
                    kept += 1;
                }
                out.extend(entry.memory.drain(kept..));
            }
            entry.end = end;
        }
        self.high_water = self.high_water.max(self.pinned);
        self.pop_released();
    }

    /// The kernel let go of the sends `first..=last`, modulo 2^32. Returns how many of them were in custody.
    pub fn complete(&mut self, first: u32, last: u32, now: Instant, out: &mut Released) -> u32 {
        let named = u64::from(last.wrapping_sub(first)) + 1;
        let in_flight = self.entries.len() as u64;
        // Ids relative to the front. A range may begin below the front if a duplicate was coalesced into it.
        let offset = i64::from(first.wrapping_sub(self.front_id) as i32);
        let begin = offset.clamp(0, in_flight as i64) as usize;
        let end = offset.saturating_add_unsigned(named).clamp(0, in_flight as i64) as usize;
        let mut count = 0;
        for entry in self.entries.range_mut(begin..end.max(begin)) {
            if entry.released {
                continue;
            }
            entry.released = true;
            self.pinned -= entry.end - entry.start;
            self.longest = self.longest.max(now.saturating_duration_since(entry.since));
            out.extend(entry.memory.drain(..));
            count += 1;
        }
        self.strays += named - u64::from(count);
        self.pop_released();
        count
    }

    /// Pops what is released off the front; keeps the entry of a send call that has not returned yet.
    fn pop_released(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.released && entry.end <= self.accepted) {
            self.entries.pop_front();
            self.front_id = self.front_id.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
