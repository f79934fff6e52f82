//! Which pages a mapping asks for, what it got, and why that is not the same.

use std::{error::Error, fmt, fs, io, ops::Range};

use super::mapping::Mapping;

/// Which pages to ask for. A mapping that does not get them has base pages instead, and says so:
/// [`MappedMemory::pages`](super::MappedMemory::pages) and [`fallbacks`](super::MappedMemory::fallbacks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pages {
    /// The base page of the machine, usually 4 KiB, and nothing larger.
    #[default]
    Base,
    /// Transparent huge pages of so many bytes, a power of two between the base page and [`Huge`](Self::Huge): *multi-size*
    /// ones, Linux 6.8. The host must permit them, `madvise` or `always` in
    /// `/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled` for 64 KiB; distributions leave it at `never`. For
    /// anonymous memory only.
    Large(usize),
    /// Transparent huge pages of the size that one page table entry maps, 2 MiB on x86-64. The host must permit them: for
    /// anonymous memory in `/sys/kernel/mm/transparent_hugepage/enabled`, and most hosts do; for a memfd in `shmem_enabled`
    /// beside it, and most hosts do not.
    Huge,
    /// Huge pages that the operator has put aside (`vm.nr_hugepages`), for a memfd only. All of them are taken when the
    /// memory is mapped. A page that a socket still refers to is missing in the pool, so a ring with fresh pages needs as many
    /// again; one that finds none loses its range to the quarantine.
    Reserved,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.pad("base"),
            Self::Large(bytes) => f.pad(&format!("large ({} KiB)", bytes >> 10)),
            Self::Huge => f.pad("huge"),
            Self::Reserved => f.pad("reserved"),
        }
    }
}

/// Something that was asked for and could not be had. The mapping works, with less.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fallback {
    /// There are no such pages; the mapping has smaller ones.
    Pages {
        /// What was asked for.
        asked: Pages,
        /// What the kernel answered, or did instead.
        why: io::Error,
    },
    /// Replaced pages are not faulted in beforehand but on first use.
    Populate(io::Error),
    /// Pages cannot be replaced: the memory can keep [`Reuse::Immutable`](zerosink_core::Reuse::Immutable) at best.
    Replacement(io::Error),
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages { asked, .. } => write!(f, "no {asked} pages"),
            Self::Populate(_) => f.write_str("replaced pages are faulted in on first use"),
            Self::Replacement(_) => f.write_str("pages cannot be replaced"),
        }
    }
}

impl Error for Fallback {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pages { why, .. } | Self::Populate(why) | Self::Replacement(why) => Some(why),
        }
    }
}

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Bytes of a page that one entry of a page table's middle level maps; `None` if this kernel has no transparent huge pages.
pub(super) fn huge_page() -> Option<usize> {
    let size = fs::read_to_string(format!("{SETTINGS}/hpage_pmd_size")).ok()?;
    size.trim().parse().ok().filter(|bytes: &usize| bytes.is_power_of_two())
}

/// Asks for transparent huge pages of `size` bytes in a mapping that starts on such a boundary, and looks what a touch
/// brings: the advice alone succeeds on hosts that never follow it.
///
/// `discard` drops the pages of a range. It runs before the first touch, for under `mlockall` a new mapping is full of base
/// pages, and before the second, which is the one that counts: the first may have brought a page that is larger still and
/// will not come again.
pub(super) fn ask(mapping: &Mapping, size: usize, discard: impl Fn(Range<usize>) -> io::Result<()>) -> io::Result<()> {
    mapping.want_huge(&mapping.whole())?;
    discard(mapping.whole())?;
    mapping.touch(0, 0);
    discard(0..size)?;
    mapping.touch(0, 0);
    match mapping.resident(&(0..size))? {
        bytes if bytes == size => Ok(()),
        bytes => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("a touch brings {bytes} bytes, not {size}; {}", settings(size)),
        )),
    }
}

/// What the host says about transparent huge pages of that size.
fn settings(size: usize) -> String {
    let of_size = format!("hugepages-{}kB", size >> 10);
    let paths = ["enabled", "shmem_enabled"].map(|name| [name.to_owned(), format!("{of_size}/{name}")]);
    let mut settings = Vec::new();
    for name in paths.into_iter().flatten() {
        if let Ok(text) = fs::read_to_string(format!("{SETTINGS}/{name}")) {
            let chosen = text.split(['[', ']']).nth(1).unwrap_or("unknown");
            settings.push(format!("{name} is {chosen}"));
        }
    }
    if settings.is_empty() {
        return "this kernel has no transparent huge pages".to_owned();
    }
    format!("in {SETTINGS}: {}", settings.join(", "))
}
