//! Mapped memory for rings: anonymous or memfd, with huge pages when asked.
#![expect(unsafe_code, reason = "mappings are raw memory; every block has its proof")]

use std::{
    fs, io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use zerosink_core::{Memory, MemoryFacts, Reuse, memory::Backing};

/// Which pages to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// The base page of the machine, usually 4 KiB.
    #[default]
    Base,
    /// Transparent huge pages. The mapping is aligned to them and its replacement unit is one huge page. Where the host
    /// does not permit them the mapping has base pages instead: [`MappedMemory::huge_pages`] says which it was.
    Huge,
}

/// `MADV_DONTNEED_LOCKED` (Linux 5.18): what `MADV_DONTNEED` does, also under `mlock`. Not in rustix.
const MADV_DONTNEED_LOCKED: i32 = 24;

/// A mapping of its own, unmapped on drop. Exclusive: nobody else maps the pages.
#[derive(Debug)]
pub struct MappedMemory {
    start: NonNull<u8>,
    length: usize,
    /// The whole mapping, which may begin before `start` for alignment.
    mapping: (usize, usize),
    facts: MemoryFacts,
    huge_pages: bool,
    memfd: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to this value alone and is reached only through the ring that owns it.
unsafe impl Send for MappedMemory {}
// SAFETY: as above; the value has no methods that write without the ring's exclusive grants.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// Maps private anonymous memory of at least `bytes` bytes, rounded up to whole pages. It can keep every
    /// [`Reuse`]: its pages are replaced by `MADV_DONTNEED`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for 0 bytes or more than an address space; otherwise as `mmap(2)`, `ENOMEM` above all.
    pub fn anonymous(bytes: usize, pages: Pages) -> io::Result<Self> {
        let huge = match pages {
            Pages::Base => None,
            Pages::Huge => huge_page(),
        };
        let unit = huge.unwrap_or_else(rustix::param::page_size);
        let length = round_up(bytes, unit)?;
        // Room to move the start up to the next boundary.
        let slack = if huge.is_some() { unit } else { 0 };
        let whole = length.checked_add(slack).ok_or_else(|| invalid("more bytes than an address space has"))?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), whole, prot, flags) }?;
        let offset = base.addr().next_multiple_of(unit) - base.addr();
        // SAFETY: `offset` is at most `slack`, inside the mapping.
        let start = unsafe { base.cast::<u8>().add(offset) };
        let backing = if huge.is_some() { Backing::HugePages } else { Backing::Anonymous };
        let facts = MemoryFacts::new(backing, Reuse::FreshPages).with_unit(unit);
        let mut memory = Self::own(start, length, (base.addr(), whole), facts)?;
        if huge.is_some() {
            // SAFETY: advice on our own mapping; it changes how pages are allocated, not what they hold.
            memory.huge_pages = unsafe { madvise(start.cast(), length, Advice::LinuxHugepage) }.is_ok();
        }
        Ok(memory)
    }

    /// Maps a sealed-size memfd of at least `bytes` bytes, rounded up to whole pages. It can keep [`Reuse::InPlace`] and
    /// [`Reuse::Immutable`]; its pages are not replaced.
    ///
    /// # Errors
    ///
    /// As [`anonymous`](Self::anonymous), and as `memfd_create(2)` and `ftruncate(2)`.
    pub fn memfd(bytes: usize) -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

        let length = round_up(bytes, rustix::param::page_size())?;
        let fd = memfd_create("zerosink", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, length as u64)?;
        // Nobody can truncate it afterwards, so that no access can raise SIGBUS.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let base = unsafe { mmap(ptr::null_mut(), length, prot, flags, &fd, 0) }?;
        let facts = MemoryFacts::new(Backing::Memfd, Reuse::Immutable).with_unit(rustix::param::page_size());
        let mut memory = Self::own(base.cast(), length, (base.addr(), length), facts)?;
        memory.memfd = Some(fd);
        Ok(memory)
    }

    fn own(start: *mut u8, length: usize, mapping: (usize, usize), facts: MemoryFacts) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mmap answered the null page"))?;
        Ok(Self { start, length, mapping, facts, huge_pages: false, memfd: None })
    }

    /// True if the kernel took the advice to use transparent huge pages. It may still use base pages where it has no
    /// huge ones at hand.
    #[must_use]
    pub const fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The memfd behind the mapping, if there is one. Writing through it is writing into the ring.
    #[must_use]
    pub fn as_memfd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    /// Faults every page in now, instead of on first use (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// `EINVAL` on older kernels, `ENOMEM` if the memory is not there.
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: populating our own mapping changes no content.
        Ok(unsafe { madvise(self.start.as_ptr().cast(), self.length, Advice::LinuxPopulateWrite) }?)
    }
}

// SAFETY: the mapping is exclusive, readable and writable, and lives until drop, wherever the value moves. `recycle` drops
// exactly the pages of its range: a private anonymous page that is dropped reads as zeroes next time, and whoever
// refers to the old page keeps it. Dropping the value unmaps; it hands nothing to an allocator.
unsafe impl Memory for MappedMemory {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.length
    }

    fn facts(&self) -> MemoryFacts {
        self.facts
    }

    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        let unit = self.facts.unit;
        if self.memfd.is_some() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the pages of a memfd mapping are not replaced"));
        }
        if range.end > self.length
            || range.start > range.end
            || !range.start.is_multiple_of(unit)
            || !range.end.is_multiple_of(unit)
        {
            return Err(invalid("a range to replace must be whole units inside the mapping"));
        }
        // SAFETY: `range` is inside the mapping.
        let start = unsafe { self.start.as_ptr().add(range.start) };
        // SAFETY: the ring promises that no grant or lease can reach the range.
        match unsafe { madvise(start.cast(), range.len(), Advice::LinuxDontNeed) } {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        // EINVAL is what locked memory (mlock, mlockall) answers.
        // SAFETY: as above.
        if unsafe { libc::madvise(start.cast(), range.len(), MADV_DONTNEED_LOCKED) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        let base = self.start.as_ptr().with_addr(self.mapping.0);
        // SAFETY: the whole mapping is ours, and the ring that owned this value has no lease left.
        let result = unsafe { munmap(base.cast(), self.mapping.1) };
        if let Err(error) = result {
            tracing::error!(%error, "mapped memory could not be unmapped");
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

/// The size of a transparent huge page in bytes, if this host permits them on request.
fn huge_page() -> Option<usize> {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    if enabled.contains("[never]") {
        return None;
    }
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?;
    size.trim().parse().ok().filter(|bytes: &usize| bytes.is_power_of_two())
}

#[cfg(test)]
mod tests;
