//! Rings of the memory that a mechanism can send.

use std::io;

use zerosink::{Reuse, Ring, mapped::MapOptions};

fn build(memory: zerosink::mapped::MappedMemory, reuse: Reuse, poison: u8) -> io::Result<Ring> {
    Ring::builder().reuse(reuse).poison(poison).build_on(memory).map_err(io::Error::other)
}

/// Anonymous memory whose pages are replaced.
pub(crate) fn fresh_pages(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().anonymous(bytes)?, Reuse::FreshPages, poison)
}

/// A memfd whose pages are replaced, which goes by `sendfile`.
pub(crate) fn fresh_pages_of_a_memfd(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().memfd(bytes)?, Reuse::FreshPages, poison)
}

/// Anonymous memory that is never written again.
pub(crate) fn immutable(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().anonymous(bytes)?, Reuse::Immutable, poison)
}

/// Anonymous memory that is written again, and whose pages can be replaced if somebody asks for it.
pub(crate) fn in_place(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().anonymous(bytes)?, Reuse::InPlace, poison)
}

/// The same of a memfd, which goes by `sendfile`.
pub(crate) fn memfd_in_place(bytes: usize, poison: u8) -> io::Result<Ring> {
    build(MapOptions::new().memfd(bytes)?, Reuse::InPlace, poison)
}
