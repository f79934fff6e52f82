//! Rings on heap, and leases of one byte's value.
#![allow(clippy::allow_attributes, reason = "which parts are used differs from test to test")]
#![allow(dead_code, reason = "which parts are used differs from test to test")]

use bytes::{BufMut as _, Bytes};
use zerosink_core::ring::Ring;

/// Bytes of a granule, as `RingBuilder::GRANULE` says.
pub(crate) const GRANULE: usize = zerosink_core::ring::RingBuilder::GRANULE;

/// A ring of so many granules.
pub(crate) fn ring(granules: usize) -> Ring {
    Ring::builder().capacity(granules * GRANULE).build().unwrap()
}

/// A lease of so many bytes, each of them `fill`.
pub(crate) fn lease(ring: &Ring, bytes: usize, fill: u8) -> Bytes {
    let mut grant = ring.try_reserve(bytes).unwrap();
    grant.put_bytes(fill, bytes);
    grant.commit()
}
