//! Whose memory is it? Custody and facts, looked up by address.
//!
//! Protocol stacks hand down slices. [`owner_of`] finds a [`Bytes`] that keeps a slice's memory alive and unwritten: a
//! clone of the ring's lease, or of a range that somebody [`register`]ed. Both lookups are process-wide.

mod ranges;
pub(crate) mod rings;

use bytes::Bytes;

pub use ranges::{Registration, register};

use crate::memory::MemoryFacts;

/// A handle to exactly `slice`'s bytes that keeps them in custody as long as it lives.
///
/// `None` for empty slices, for grants that are not committed, for slices across two leases, and for memory that nobody
/// registered. Costs no allocation, and for rings no lock.
#[must_use]
#[inline]
pub fn owner_of(slice: &[u8]) -> Option<Bytes> {
    if slice.is_empty() {
        return None;
    }
    match rings::with(slice, |ring| ring.lease_of(slice)) {
        Some(lease) => lease,
        None => ranges::owner_of(slice),
    }
}

/// What is known about `slice`'s memory. `None` means heap of unknown origin, to be treated as
/// [`Reuse::InPlace`](crate::memory::Reuse::InPlace).
#[must_use]
#[inline]
pub fn facts_of(slice: &[u8]) -> Option<MemoryFacts> {
    if slice.is_empty() {
        return None;
    }
    rings::with(slice, |ring| ring.facts())
}
