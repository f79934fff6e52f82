//! What the kernel says about the pages behind addresses: `PAGEMAP_SCAN`, see `Documentation/admin-guide/mm/pagemap.rst`.

use std::{fs::File, io, ops::Range};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `struct pm_scan_arg` of `include/uapi/linux/fs.h`.
#[derive(Debug, Default)]
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[derive(Debug, Default)]
#[repr(C)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: Opcode = opcode::read_write::<Scan>(b'f', 16);
const PAGE_IS_HUGE: u64 = 1 << 6;

/// True if a part of this memory is in huge pages, transparent or reserved ones.
///
/// # Errors
///
/// `ENOTTY` before Linux 6.7; where `/proc` is not mounted, or filtered, as `open(2)`.
pub(crate) fn has_huge_pages(addresses: &Range<usize>) -> io::Result<bool> {
    let page = rustix::param::page_size();
    let mut found = Region::default();
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start: (addresses.start / page * page) as u64,
        end: addresses.end.next_multiple_of(page) as u64,
        vec: (&raw mut found).expose_provenance() as u64,
        vec_len: 1,
        max_pages: 1,
        category_mask: PAGE_IS_HUGE,
        return_mask: PAGE_IS_HUGE,
        ..Scan::default()
    };
    let pagemap = File::open("/proc/self/pagemap")?;
    // SAFETY: this number takes this structure.
    let call = unsafe { Updater::<PAGEMAP_SCAN, _>::new(&mut scan) };
    // SAFETY: nothing is written but the structure and the one region that it points to, which both outlive the call; the pages are
    // not touched without flags.
    unsafe { ioctl(pagemap, call) }?;
    Ok(found.categories & PAGE_IS_HUGE != 0)
}
