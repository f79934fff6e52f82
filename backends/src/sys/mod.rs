//! The system calls, and all that is unsafe about them.
#![expect(unsafe_code, reason = "the only address of raw system calls; every block has its proof")]

pub(crate) mod errqueue;
pub(crate) mod fork;
#[cfg(zerosink_uring)]
pub(crate) mod pagemap;
pub(crate) mod readable;
pub(crate) mod socket;
pub(crate) mod splice;
#[cfg(zerosink_uring)]
pub(crate) mod uring;
