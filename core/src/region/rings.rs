//! The rings of this process, by address.
#![expect(unsafe_code, reason = "a slice of a ring's memory proves that the ring is alive")]

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::map::{Map, Writer};
use crate::ring::Shared;

static RINGS: Map<Shared, { 1 << 14 }> = super::empty_map();
static WRITER: Mutex<Writer<Shared>> = Mutex::new(Writer::new());

/// `ring` owns these addresses until [`remove`].
pub(crate) fn insert(addresses: Range<usize>, ring: *const Shared) {
    let mut writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    RINGS.insert(&mut writer, (addresses.start, addresses.end), ring);
}

/// The ring gives its addresses up.
pub(crate) fn remove(addresses: Range<usize>, ring: *const Shared) {
    let mut writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    RINGS.remove(&mut writer, (addresses.start, addresses.end), ring);
}

/// A slice of a ring's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingSlice<'a> {
    ring: &'a Shared,
    slice: &'a [u8],
}

/// The ring that owns `slice`, which must not be empty.
#[inline]
pub(crate) fn find(slice: &[u8]) -> Option<RingSlice<'_>> {
    let start = slice.as_ptr().addr();
    let ring = RINGS.find(start, start + slice.len())?;
    // SAFETY: the map has a ring from its making until its end begins, so at one moment during this call the ring owned
    // `slice`'s addresses. `slice` is a live borrow for the whole lifetime of the answer, and the ring's memory is
    // exclusive, so the borrow comes from a grant or a lease of that ring, and either keeps the ring alive as long. A
    // dying ring leaves the map before its memory is freed, so no later owner of the addresses is taken for it.
    let ring = unsafe { &*ring };
    Some(RingSlice { ring, slice })
}

impl<'a> RingSlice<'a> {
    #[inline]
    pub(crate) fn ring(&self) -> &'a Shared {
        self.ring
    }

    /// The address of the first byte.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.slice.as_ptr().addr()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slice.len()
    }
}
