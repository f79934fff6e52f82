//! Rings on mapped memory, and memory that breaks its promise.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    slice,
};

use zerosink::{
    Reuse, Ring,
    mapped::{MapOptions, MappedMemory, Pages},
    memory::{Memory, MemoryFacts},
};

use super::POISON;

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Anonymous,
    /// Its bytes can be sent by `sendfile`.
    Memfd,
}

impl Kind {
    pub(crate) fn map(self, bytes: usize) -> MappedMemory {
        match self {
            Self::Anonymous => MapOptions::new().anonymous(bytes),
            Self::Memfd => MapOptions::new().memfd(bytes),
        }
        .unwrap()
    }
}

/// A ring that poisons what comes back. Its leases are whole pages.
pub(crate) fn mapped_ring(kind: Kind, bytes: usize, reuse: Reuse) -> Ring {
    ring_on(kind.map(bytes), reuse)
}

/// The same on certain memory.
pub(crate) fn ring_on(memory: impl Memory + 'static, reuse: Reuse) -> Ring {
    Ring::builder().granule(memory.facts().unit.min(4096)).reuse(reuse).poison(POISON).build_on(memory).unwrap()
}

/// A ring on 2 MiB pages, or `None`. A lease of less is a part of a unit.
pub(crate) fn ring_of_huge_pages(reuse: Reuse) -> Option<Ring> {
    let memory = MapOptions::new().pages(Pages::Huge).anonymous(4 << 20).unwrap();
    (memory.pages() == Pages::Huge).then(|| ring_on(memory, reuse))
}

/// Memory that says its pages are replaced, and zeroes them in place: what the controls are made of.
#[derive(Debug)]
pub(crate) struct KeepsItsPages(pub(crate) MappedMemory);

#[expect(unsafe_code, reason = "the controls break the promises of Memory, and are caught")]
// SAFETY: all but `recycle` is the mapped memory's own. `recycle` breaks its promise, as the controls want it: that changes what
// the peers of this test read.
unsafe impl Memory for KeepsItsPages {
    fn as_ptr(&self) -> NonNull<u8> {
        self.0.as_ptr()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn facts(&self) -> MemoryFacts {
        self.0.facts()
    }

    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: inside the mapping, as the ring asks for it.
        let start = unsafe { self.as_ptr().add(range.start) };
        // SAFETY: the ring calls this when nobody else can reach the range.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), range.len()) }.fill(0);
        Ok(())
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.0.file()
    }
}

/// Writes over memory that is said to be immutable, by way of its memfd.
pub(crate) fn overwrite_immutable(bytes: &[u8], with: u8) -> io::Result<()> {
    let written = zerosink::region::locate(bytes, |location| {
        let (file, offset) = location.file.expect("there is a file behind the memory");
        let file = std::fs::File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![with; bytes.len()], offset)
    });
    written.expect("a ring's memory is known")
}
