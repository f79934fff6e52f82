//! Memory of which nobody knows what pages it has.

use std::{
    io::{self, ErrorKind},
    ops::Range,
    ptr::NonNull,
};

use zerosink::{
    Reuse,
    mapped::MappedMemory,
    memory::{Backing, Memory, MemoryFacts},
};

/// Says what an allocator's memory says, whatever pages it has.
#[derive(Debug)]
pub(crate) struct Unaware(pub(crate) MappedMemory);

#[expect(unsafe_code, reason = "memory of one's own")]
// SAFETY: the mapped memory's own block; it can replace nothing, and says so.
unsafe impl Memory for Unaware {
    fn as_ptr(&self) -> NonNull<u8> {
        self.0.as_ptr()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn facts(&self) -> MemoryFacts {
        MemoryFacts::new(Backing::Heap, Reuse::InPlace)
    }

    fn recycle(&self, _: Range<usize>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}
