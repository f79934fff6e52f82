//! A memfd, mapped.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate, memfd_create,
    open,
};
use zerosink_core::{Reuse, memory::Backing};

use super::{
    MapOptions, MappedMemory, Parts, invalid,
    mapping::Mapping,
    pages::{self, Fallback, Pages},
    replace::{Populate, Replacement},
    round_up,
};

/// The descriptors of a mapped memfd.
#[derive(Debug)]
pub(super) struct Memfd {
    /// Holes are punched through this one, which nobody else gets.
    writable: OwnedFd,
    /// The same file for reading only. `None` without `/proc`, or if the file cannot be sent by `sendfile`.
    readable: Option<OwnedFd>,
}

impl Memfd {
    /// Drops the pages of a range, if they are whole folios.
    pub(super) fn punch(&self, range: &Range<usize>) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, bytes) = (range.start as u64, range.len() as u64);
        Ok(rustix::io::retry_on_intr(|| fallocate(&self.writable, hole, offset, bytes))?)
    }

    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.readable.as_ref().map(|fd| fd.as_fd())
    }
}

pub(super) fn map(options: &MapOptions, bytes: usize) -> io::Result<MappedMemory> {
    if !matches!(options.replacement, None | Some(Replacement::PunchHole)) {
        return Err(invalid("the pages of a memfd are replaced by PUNCH_HOLE only"));
    }
    let mut fallbacks = Vec::new();
    let mut refused = |asked, why| fallbacks.push(Fallback::Pages { asked, why });
    let mut found = None;
    if options.pages == Pages::Reserved {
        found = reserved(bytes).map_err(|why| refused(Pages::Reserved, why)).ok();
    }
    if found.is_none() && matches!(options.pages, Pages::Reserved | Pages::Huge) {
        found = huge(bytes)?.map_err(|why| refused(Pages::Huge, why)).ok();
    }
    if let asked @ Pages::Large(_) = options.pages {
        // The kernel may always choose larger folios than these, and a hole in a part of one replaces nothing.
        refused(asked, io::Error::new(io::ErrorKind::Unsupported, "the folios of a memfd cannot be kept to that size"));
    }
    let (mapping, memfd, pages, unit) = match found {
        Some(found) => found,
        None => base(bytes)?,
    };
    let populate = match pages {
        Pages::Reserved => Populate::Must,
        _ if options.populate.unwrap_or(pages == Pages::Base) => Populate::Try,
        _ => Populate::No,
    };
    let proof = if pages == Pages::Base { one_touch_one_page(&mapping, &memfd) } else { Ok(()) };
    let mut best = Reuse::FreshPages;
    if let Err(why) = proof {
        fallbacks.push(Fallback::Replacement(why));
        best = Reuse::Immutable;
    }
    let replacement = Replacement::PunchHole;
    let backing = Backing::Memfd;
    Parts { mapping, memfd: Some(memfd), backing, unit, pages, replacement, populate, fallbacks }.prove(best)
}

type Mapped = (Mapping, Memfd, Pages, usize);

/// A new memfd that can be sealed and is not executable, which hosts with `vm.memfd_noexec=2` insist on.
pub(super) fn new(flags: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
    match memfd_create("zerosink", flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create("zerosink", flags)?),
        memfd => Ok(memfd?),
    }
}

fn create(bytes: usize, flags: MemfdFlags) -> io::Result<Memfd> {
    let writable = new(flags)?;
    ftruncate(&writable, bytes as u64)?;
    // Nobody can truncate it afterwards, so that no access raises SIGBUS. Seals against writing would forbid holes.
    fcntl_add_seals(&writable, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let sendable = !flags.contains(MemfdFlags::HUGETLB);
    let readable = sendable.then(|| reopen(&writable)).and_then(Result::ok);
    Ok(Memfd { writable, readable })
}

fn reopen(memfd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn base(bytes: usize) -> io::Result<Mapped> {
    let page = rustix::param::page_size();
    let length = round_up(bytes, page)?;
    let memfd = create(length, MemfdFlags::empty())?;
    let mapping = Mapping::shared(memfd.writable.as_fd(), length)?;
    mapping.want_base(&mapping.whole())?;
    Ok((mapping, memfd, Pages::Base, page))
}

/// Whether one touch brings one base page and nothing more, as it must be for holes of single pages.
pub(super) fn one_touch_one_page(mapping: &Mapping, memfd: &Memfd) -> io::Result<()> {
    let page = rustix::param::page_size();
    // Under mlockall the mapping was full before the advice, perhaps of large folios.
    memfd.punch(&mapping.whole())?;
    mapping.touch(0, 0);
    match mapping.resident(&(0..mapping.len().min(pages::huge_page().unwrap_or(page))))? {
        bytes if bytes == page => Ok(()),
        bytes => Err(io::Error::other(format!("a touch brought {bytes} bytes where a page has {page}"))),
    }
}

fn huge(bytes: usize) -> io::Result<io::Result<Mapped>> {
    let Some(size) = pages::huge_page() else {
        return Ok(Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no transparent huge pages")));
    };
    let length = round_up(bytes, size)?;
    let memfd = create(length, MemfdFlags::empty())?;
    let mapping = Mapping::shared_aligned(memfd.writable.as_fd(), length, size)?;
    let asked = pages::ask(&mapping, size, |range| memfd.punch(&range));
    Ok(asked.map(|()| (mapping, memfd, Pages::Huge, size)))
}

fn reserved(bytes: usize) -> io::Result<Mapped> {
    // Its block is the huge page.
    let size = fstat(new(MemfdFlags::HUGETLB)?)?.st_blksize as usize;
    let length = round_up(bytes, size)?;
    let memfd = create(length, MemfdFlags::HUGETLB)?;
    let mapping = Mapping::shared(memfd.writable.as_fd(), length)?;
    mapping.populate(&mapping.whole())?;
    Ok((mapping, memfd, Pages::Reserved, size))
}
