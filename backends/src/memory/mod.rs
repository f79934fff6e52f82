//! Mapped memory for rings, whose pages can be replaced, and immutable memory from files.
//!
//! [`MappedMemory`] is what a ring lives on: anonymous memory or a memfd, on base, large or huge pages as [`MapOptions`] ask.
//! Its pages are handed to the kernel with the bytes on them and *replaced* before the ring uses the addresses again, so
//! the ring keeps its addresses while its physical pages move on. What each way costs is in the book, chapter *Fresh pages*.
//!
//! [`Region`] makes `Bytes` of files and sealed memfds that nobody writes any more.
//!
//! Huge pages have their price: a socket that holds one byte of a page holds all of it, 2 MiB. The memory of a ring with fresh
//! pages is its capacity *and* whatever sockets still refer to; what bounds that is the sockets' send buffers, in whole pages.

mod anonymous;
mod file;
mod mapping;
mod memfd;
mod pages;
mod replace;

use std::{io, ops::Range, os::fd::BorrowedFd, ptr::NonNull};

use zerosink_core::{Memory, MemoryFacts, Reuse, memory::Backing};

pub use file::{Region, RegionError};
pub use pages::{Fallback, Pages};
pub use replace::Replacement;

use mapping::Mapping;
use memfd::Memfd;
use replace::Populate;

/// How memory for a ring is mapped. The default is what measured best.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use zerosink_backends::memory::{MapOptions, Pages};
/// use zerosink_core::{Reuse, Ring};
///
/// let memory = MapOptions::new().pages(Pages::Huge).anonymous(8 << 20)?;
/// for fallback in memory.fallbacks() {
///     println!("{fallback}"); // such as "no huge pages"
/// }
/// let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory)?;
/// assert_eq!(ring.capacity(), 8 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options map nothing until anonymous or memfd is called"]
pub struct MapOptions {
    pages: Pages,
    replacement: Option<Replacement>,
    populate: Option<bool>,
}

impl MapOptions {
    /// Base pages, replaced and populated as is best for them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which pages to ask for. The default is [`Pages::Base`].
    pub const fn pages(mut self, pages: Pages) -> Self {
        self.pages = pages;
        self
    }

    /// Sets how pages are replaced. The default is [`Replacement::DontNeed`] for anonymous memory; for a memfd there is only
    /// [`Replacement::PunchHole`].
    pub const fn replacement(mut self, replacement: Replacement) -> Self {
        self.replacement = Some(replacement);
        self
    }

    /// Sets whether replaced pages are faulted in at once (`MADV_POPULATE_WRITE`, Linux 5.14) or by their next use. The default
    /// is yes for base pages and no for larger ones. Where the kernel cannot, the next use does it, and
    /// [`MappedMemory::fallbacks`] says so.
    pub const fn populate(mut self, populate: bool) -> Self {
        self.populate = Some(populate);
        self
    }

    /// Maps private anonymous memory of at least `bytes` bytes, rounded up to whole pages of the size that was asked for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for 0 bytes, for more than an address space has, for a page size that there is not, and for a
    /// replacement that is not for anonymous memory; otherwise as `mmap(2)`, `ENOMEM` above all. Pages that cannot be had are
    /// no error.
    pub fn anonymous(&self, bytes: usize) -> io::Result<MappedMemory> {
        anonymous::map(self, bytes)
    }

    /// Maps a memfd of sealed size of at least `bytes` bytes, rounded up to whole pages of the size that was asked for. Its
    /// bytes can be sent with `sendfile(2)` from what [`Memory::file`] answers, unless its pages are [`Pages::Reserved`].
    ///
    /// Under `vm.overcommit_memory=2` the kernel raises SIGBUS where a page of a memfd cannot be had; replaced pages that are
    /// populated are not at risk.
    ///
    /// # Errors
    ///
    /// As [`anonymous`](Self::anonymous), and as `memfd_create(2)` and `ftruncate(2)`.
    pub fn memfd(&self, bytes: usize) -> io::Result<MappedMemory> {
        memfd::map(self, bytes)
    }
}

/// A mapping of its own, unmapped on drop. Exclusive: nobody else can write its bytes.
#[derive(Debug)]
pub struct MappedMemory {
    mapping: Mapping,
    memfd: Option<Memfd>,
    facts: MemoryFacts,
    pages: Pages,
    replacement: Replacement,
    populate: Populate,
    fallbacks: Vec<Fallback>,
}

impl MappedMemory {
    /// Maps anonymous memory: [`MapOptions::anonymous`] with these pages.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn anonymous(bytes: usize, pages: Pages) -> io::Result<Self> {
        MapOptions::new().pages(pages).anonymous(bytes)
    }

    /// Maps a memfd: [`MapOptions::memfd`] with base pages.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn memfd(bytes: usize) -> io::Result<Self> {
        MapOptions::new().memfd(bytes)
    }

    /// Which pages the mapping has: those that were asked for if the first touch brought a whole one, otherwise
    /// [`Pages::Base`]. The kernel may still give smaller ones now and then, where it has no large ones at hand.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// True if the mapping has pages larger than the base page, see [`pages`](Self::pages).
    #[must_use]
    pub const fn huge_pages(&self) -> bool {
        !matches!(self.pages, Pages::Base)
    }

    /// How pages are replaced.
    #[must_use]
    pub const fn replacement(&self) -> Replacement {
        self.replacement
    }

    /// True if replaced pages are faulted in at once.
    #[must_use]
    pub const fn populates(&self) -> bool {
        !matches!(self.populate, Populate::No)
    }

    /// What was asked for and could not be had, in the order in which it was tried.
    #[must_use]
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// Faults every page in now, instead of on first use (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// `EINVAL` on older kernels, `ENOMEM` if the memory is not there.
    pub fn populate(&self) -> io::Result<()> {
        self.mapping.populate(&self.mapping.whole())
    }
}

/// What a mapping was made of, before it was tried.
struct Parts {
    mapping: Mapping,
    memfd: Option<Memfd>,
    backing: Backing,
    unit: usize,
    pages: Pages,
    replacement: Replacement,
    populate: Populate,
    fallbacks: Vec<Fallback>,
}

impl Parts {
    /// Replaces the first unit, so that a host that cannot is known before anybody relies on it. `best` is what the memory
    /// can keep if that succeeds.
    fn prove(self, best: Reuse) -> io::Result<MappedMemory> {
        let Self { mapping, memfd, backing, unit, pages, replacement, populate, fallbacks } = self;
        let facts = MemoryFacts::new(backing, best).with_unit(unit);
        let mut memory = MappedMemory { mapping, memfd, facts, pages, replacement, populate, fallbacks };
        if memory.populate == Populate::Try
            && let Err(error) = memory.mapping.populate(&(0..unit))
        {
            memory.populate = Populate::No;
            memory.fallbacks.push(Fallback::Populate(error));
        }
        if best == Reuse::FreshPages {
            memory.mapping.touch(0, 1);
            let replaced = memory.replace(&(0..unit)).and_then(|()| match memory.mapping.byte(0) {
                0 => Ok(()),
                _ => Err(io::Error::other(format!("{replacement} left the old bytes"))),
            });
            if let Err(error) = replaced {
                // After these there may be nothing at the addresses.
                if replacement == Replacement::MapFixed || memory.populate == Populate::Must {
                    return Err(error);
                }
                memory.facts.reuse = Reuse::Immutable;
                memory.fallbacks.push(Fallback::Replacement(error));
            }
        }
        for fallback in &memory.fallbacks {
            let why = std::error::Error::source(fallback).map(tracing::field::display);
            tracing::info!(%fallback, why, bytes = memory.mapping.len(), "mapped memory is less than was asked for");
        }
        Ok(memory)
    }
}

#[expect(unsafe_code, reason = "the promises of Memory are about raw memory")]
mod promises {
    use super::*;

    // SAFETY: the mapping is exclusive (nobody else gets the addresses, nor a descriptor that can write), readable and
    // writable, and lives until drop, wherever the value moves. `recycle` drops exactly the pages of its range: the next access
    // finds zeroes, and whoever refers to an old page keeps it. A memfd that is used in holes of single pages has base
    // folios only (`memfd::one_touch_one_page`), or holes of the largest folio there is, so no hole zeroes a part of a folio
    // in use; should one have been made larger all the same, `punch` sees the pages that stayed and answers an error. Dropping
    // the value unmaps; it hands nothing to an allocator.
    unsafe impl Memory for MappedMemory {
        fn as_ptr(&self) -> NonNull<u8> {
            self.mapping.start()
        }

        fn len(&self) -> usize {
            self.mapping.len()
        }

        fn facts(&self) -> MemoryFacts {
            self.facts
        }

        fn recycle(&self, range: Range<usize>) -> io::Result<()> {
            let unit = self.facts.unit;
            if self.facts.reuse != Reuse::FreshPages {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "these pages cannot be replaced"));
            }
            if range.end > self.mapping.len()
                || range.start > range.end
                || !range.start.is_multiple_of(unit)
                || !range.end.is_multiple_of(unit)
            {
                return Err(invalid("a range to replace must be whole units inside the mapping"));
            }
            if range.is_empty() { Ok(()) } else { self.replace(&range) }
        }

        /// A memfd, open for reading only. `None` for anonymous memory, for [`Pages::Reserved`] (the kernel cannot send these from
        /// a file), and where `/proc` is not mounted.
        fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
            Some((self.memfd.as_ref()?.readable()?, 0))
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn round_up(bytes: usize, unit: usize) -> io::Result<usize> {
    match bytes.checked_next_multiple_of(unit) {
        Some(0) => Err(invalid("memory of 0 bytes: ask for at least one page")),
        Some(length) if length <= isize::MAX as usize => Ok(length),
        _ => Err(invalid("more bytes than an address space has")),
    }
}

#[cfg(test)]
mod tests;
