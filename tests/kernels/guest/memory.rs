//! Rings for the ways to send.

use std::io;

use zerosink::{Mechanism, Reuse, Ring, mapped::MapOptions};
use zerosink_kernels::Way;

use crate::support::POISON;

/// A ring of `bytes` that writes over what comes back; if nothing does, one for the whole stream of `total` bytes.
pub(crate) fn ring(way: Way, bytes: usize, total: usize) -> io::Result<Ring> {
    match way {
        Way::By(Mechanism::Splice) => fresh_pages(bytes, POISON),
        Way::Sendfile => build(MapOptions::new().memfd(bytes)?, Reuse::FreshPages, POISON),
        Way::Immutable => build(MapOptions::new().anonymous(total)?, Reuse::Immutable, POISON),
        Way::By(Mechanism::Gift) => in_place(bytes, POISON),
        _ => Ring::builder().capacity(bytes).poison(POISON).build().map_err(io::Error::other),
    }
}

/// Anonymous memory whose pages are replaced.
pub(crate) fn fresh_pages(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().anonymous(bytes)?, Reuse::FreshPages, poison)
}

/// Anonymous memory that is written again, and whose pages can be replaced if somebody asks for it.
pub(crate) fn in_place(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().anonymous(bytes)?, Reuse::InPlace, poison)
}

fn build(memory: zerosink::mapped::MappedMemory, reuse: Reuse, poison: u8) -> io::Result<Ring> {
    Ring::builder().reuse(reuse).poison(poison).build_on(memory).map_err(io::Error::other)
}
