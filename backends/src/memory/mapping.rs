//! A piece of address space that one value owns, and the calls that change what is behind it.
#![expect(unsafe_code, reason = "mappings are raw memory; every block proves that it stays within its own")]

use std::{
    ffi::c_void,
    io,
    ops::Range,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A mapping of whole pages, unmapped on drop. Nobody else maps, changes or unmaps its addresses.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// `MADV_DONTNEED` was refused and `MADV_DONTNEED_LOCKED` was not: the memory is locked.
    locked: AtomicBool,
    /// Mapping anew failed and may have left a gap, which anybody's mapping may fill.
    torn: AtomicBool,
}

// SAFETY: the mapping belongs to this value alone, and its bytes are reached only through whoever owns the value.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives the address, and calls that the kernel makes atomic; no reference to a byte comes out of it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private anonymous memory, readable and writable, that starts on a boundary of `align` bytes. Both are whole pages.
    pub(super) fn anonymous(length: usize, align: usize) -> io::Result<Self> {
        Self::aligned(length, align, READ_WRITE)
    }

    /// The first `length` bytes of a memfd, readable and writable.
    pub(super) fn shared(memfd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let start = unsafe { mmap(ptr::null_mut(), length, READ_WRITE, MapFlags::SHARED, memfd, 0) }?;
        Self::own(start, length)
    }

    /// The same on a boundary of `align` bytes, for large folios to be mapped as one.
    pub(super) fn shared_aligned(memfd: BorrowedFd<'_>, length: usize, align: usize) -> io::Result<Self> {
        let room = Self::aligned(length, align, ProtFlags::empty())?;
        let start = room.start.as_ptr().cast();
        // SAFETY: the new mapping takes the place of `room`, which is this function's own and `length` bytes long.
        let placed = unsafe { mmap(start, length, READ_WRITE, MapFlags::SHARED | MapFlags::FIXED, memfd, 0) };
        if placed.is_err() {
            room.torn.store(true, Ordering::Relaxed);
        }
        placed?;
        Ok(room)
    }

    /// `length` bytes of a file from `offset` on, a whole number of pages, for reading only.
    pub(super) fn read_only(file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<Self> {
        // Private, because kernels before 6.7 refuse a shared mapping of a memfd that is sealed against writing. The pages
        // are the file's own as long as nobody writes, and nobody can.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, flags, file, offset) }?;
        Self::own(start, length)
    }

    /// Private anonymous memory that starts on a boundary of `align` bytes.
    fn aligned(length: usize, align: usize, protection: ProtFlags) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let slack = align.saturating_sub(page);
        let whole = length.checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), whole, protection, MapFlags::PRIVATE) }?;
        let before = base.addr().next_multiple_of(align.max(page)) - base.addr();
        let behind = slack - before;
        // SAFETY: `before` is at most `slack`, so this is inside the mapping or, without slack, its start.
        let start = unsafe { base.byte_add(before) };
        if before > 0 {
            // SAFETY: the first `before` bytes of the new mapping, which nobody has seen.
            unsafe { munmap(base, before) }?;
        }
        if behind > 0 {
            // SAFETY: `before + length + behind` is the whole mapping.
            let end = unsafe { start.byte_add(length) };
            // SAFETY: the last `behind` bytes of the new mapping, which nobody has seen.
            unsafe { munmap(end, behind) }?;
        }
        Self::own(start, length)
    }

    fn own(start: *mut c_void, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap answered the null page"))?;
        Ok(Self { start, length, locked: AtomicBool::new(false), torn: AtomicBool::new(false) })
    }

    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) const fn whole(&self) -> Range<usize> {
        0..self.length
    }

    /// The address of a range, which must lie in the mapping.
    fn address(&self, range: &Range<usize>) -> *mut c_void {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} is outside of {} bytes", self.length);
        // SAFETY: `range.start` is at most the mapping's length.
        unsafe { self.start.add(range.start) }.as_ptr().cast()
    }

    fn advise(&self, range: &Range<usize>, advice: Advice) -> io::Result<()> {
        let start = self.address(range);
        // SAFETY: the range is in our own mapping. The advice given here either changes no content, or (`discard`) drops pages that
        // no reference reaches.
        Ok(unsafe { madvise(start, range.len(), advice) }?)
    }

    /// Asks for transparent huge pages.
    pub(super) fn want_huge(&self, range: &Range<usize>) -> io::Result<()> {
        self.advise(range, Advice::LinuxHugepage)
    }

    /// Asks for base pages only. A kernel without transparent huge pages refuses the advice and has no other pages.
    pub(super) fn want_base(&self, range: &Range<usize>) -> io::Result<()> {
        match self.advise(range, Advice::LinuxNoHugepage) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Faults the pages in, as by writing to each, without changing content (`MADV_POPULATE_WRITE`, Linux 5.14: before
    /// that `EINVAL`). `ENOMEM` or `EFAULT` where there are no pages.
    pub(super) fn populate(&self, range: &Range<usize>) -> io::Result<()> {
        self.advise(range, Advice::LinuxPopulateWrite)
    }

    /// Drops the pages of private anonymous memory; the next access finds new ones, of zeroes. No reference to the range
    /// may exist.
    pub(super) fn discard(&self, range: &Range<usize>) -> io::Result<()> {
        if !self.locked.load(Ordering::Relaxed) {
            match self.advise(range, Advice::LinuxDontNeed) {
                // Locked memory (mlock, mlockall) answers EINVAL.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        self.advise(range, Advice::LinuxDontneedLocked)?;
        self.locked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Puts new private anonymous memory in the place of a range, of zeroes and without advice or locks. No reference to
    /// the range may exist. After an error the range may not be mapped at all.
    pub(super) fn map_anew(&self, range: &Range<usize>) -> io::Result<()> {
        let start = self.address(range);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the range is in our own mapping, and no reference to it exists.
        let result = unsafe { mmap_anonymous(start, range.len(), READ_WRITE, flags) };
        if result.is_err() {
            self.torn.store(true, Ordering::Relaxed);
        }
        result?;
        Ok(())
    }

    /// How many bytes of a range have a page, in this mapping or in the file behind it (`mincore(2)`). What cannot be
    /// told counts as having one.
    pub(super) fn resident(&self, range: &Range<usize>) -> io::Result<usize> {
        /// Answers for so many pages at once.
        const BATCH: usize = 512;

        let page = rustix::param::page_size();
        let mut answers = [0u8; BATCH];
        let mut pages = 0;
        for from in range.clone().step_by(BATCH * page) {
            let part = from..range.end.min(from + BATCH * page);
            let start = self.address(&part);
            // SAFETY: the call writes one byte per page of `part`, at most `BATCH`; it reads nothing of the mapping.
            if unsafe { libc::mincore(start, part.len(), answers.as_mut_ptr().cast()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            pages += answers[..part.len().div_ceil(page)].iter().filter(|answer| **answer & 1 == 1).count();
        }
        Ok(pages * page)
    }

    /// Writes one byte, so that its page is there. No reference to the byte may exist.
    pub(super) fn touch(&self, offset: usize, byte: u8) {
        let address = self.address(&(offset..offset + 1)).cast::<u8>();
        // SAFETY: inside the mapping; callers have writable memory that nobody else has seen yet.
        unsafe { address.write_volatile(byte) }
    }

    /// Reads one byte. No `&mut` reference to it may exist.
    pub(super) fn byte(&self, offset: usize) -> u8 {
        let address = self.address(&(offset..offset + 1)).cast::<u8>();
        // SAFETY: inside the mapping, as in `touch`.
        unsafe { address.read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if *self.torn.get_mut() {
            tracing::error!(bytes = self.length, "addresses are left mapped: a part of them may be somebody else's");
            return;
        }
        // SAFETY: all of it is ours, and whoever owned this value has no reference into it left.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            tracing::error!(%error, bytes = self.length, "mapped memory could not be unmapped");
        }
    }
}
