//! A memfd whose pages are replaced by holes that are smaller than its folio: the kernel says that it is done, and it is not.

use std::{fmt, io, ops::Range, ptr::NonNull};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerosink::{
    Reuse, Ring,
    conformance::{Mount, Rule, TcpLoopback},
    memory::{Backing, Memory, MemoryFacts},
};

use self::folio::{FOLIO, Folio};
use super::{caught, passes, splicer::Bug};
use crate::memory;

#[path = "../../fresh_pages/folio.rs"]
mod folio;

/// Bytes of a hole, and so what the memory says is its unit.
const HOLE: usize = 64 << 10;

/// One `madvise(2)` on bytes of a mapping.
fn advise(bytes: &[u8], advice: libc::c_int) -> io::Result<()> {
    #[expect(unsafe_code, reason = "advice that rustix has no name for")]
    // SAFETY: the range is mapped, and nobody has a reference to the bytes that the advice drops.
    let result = unsafe { libc::madvise(bytes.as_ptr().cast_mut().cast(), bytes.len(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Holes(Folio);

impl Holes {
    /// A memfd of one folio of 2 MiB; an error where the kernel makes none.
    fn new() -> io::Result<Self> {
        let memfd = memfd_create("holes", MemfdFlags::CLOEXEC)?;
        ftruncate(&memfd, FOLIO as u64)?;
        let folio = Folio::map(&memfd, true)?;
        folio.write(0);
        folio.collapse()?;
        Ok(Self(folio))
    }
}

impl fmt::Debug for Holes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holes")
    }
}

#[expect(unsafe_code, reason = "it breaks a promise of Memory, and is caught")]
mod promises {
    use super::*;

    // SAFETY: the folio's addresses are this value's own.
    unsafe impl Send for Holes {}
    // SAFETY: as above.
    unsafe impl Sync for Holes {}

    // SAFETY: one mapping of its own until drop. `recycle` breaks its promise, as the test wants it: that changes what the
    // peers of this test read.
    unsafe impl Memory for Holes {
        fn as_ptr(&self) -> NonNull<u8> {
            NonNull::from_ref(self.0.bytes()).cast()
        }

        fn len(&self) -> usize {
            FOLIO
        }

        fn facts(&self) -> MemoryFacts {
            MemoryFacts::new(Backing::Memfd, Reuse::FreshPages).with_unit(HOLE)
        }

        fn recycle(&self, range: Range<usize>) -> io::Result<()> {
            advise(&self.0.bytes()[range], libc::MADV_REMOVE)
        }
    }
}

fn ring(capacity: usize, poison: u8) -> io::Result<Ring> {
    let builder = Ring::builder().capacity(capacity).poison(poison);
    builder.build_on(Holes::new()?).map_err(io::Error::other)
}

#[test]
fn a_hole_smaller_than_the_folio_is_caught() {
    let check = "released_memory_is_not_read_any_more";
    if let Err(error) = Holes::new() {
        let why = format!("this kernel makes no folio of 2 MiB in a memfd: {error}");
        return zerosink::conformance::Outcome::Skipped(why).enforce("a_hole_smaller_than_the_folio_is_caught");
    }
    caught(Mount::new(Bug::None, TcpLoopback).ring(ring), check, Rule::NotBefore);
    passes(Mount::new(Bug::None, TcpLoopback).ring(memory::fresh_pages_of_a_memfd), check);
}
