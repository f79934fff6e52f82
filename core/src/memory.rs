//! Memory that a [`Ring`](crate::ring::Ring) may live on, and what is known about it.
#![expect(unsafe_code, reason = "a stable block of bytes is a promise that the compiler cannot check")]

#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    error::Error,
    fmt, io,
    ops::Range,
    ptr::NonNull,
    str::FromStr,
};

/// What becomes of bytes after they were sent; it decides which proof a release needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reuse {
    /// The same pages are written again, so a release needs a proof that nobody reads them any more.
    InPlace,
    /// The pages are replaced by fresh ones before the space is written again. Whoever still holds the old pages
    /// keeps the old bytes.
    FreshPages,
    /// Committed bytes are never written again, nor given back to an allocator while somebody refers to them.
    Immutable,
}

impl Reuse {
    /// Every discipline, in no order of preference.
    pub const ALL: [Self; 3] = [Self::InPlace, Self::FreshPages, Self::Immutable];

    /// The name used everywhere a person or a machine reads it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            Self::FreshPages => "fresh-pages",
            Self::Immutable => "immutable",
        }
    }

    /// True if memory that can keep `self` can also keep `asked`. Memory whose pages can be replaced can do
    /// everything; memory that is merely never rewritten can also be rewritten with proof; heap can only be
    /// `InPlace`, because the allocator rewrites it when it is freed.
    #[must_use]
    pub const fn can_keep(self, asked: Self) -> bool {
        matches!((self, asked), (_, Self::InPlace) | (Self::FreshPages, _) | (Self::Immutable, Self::Immutable))
    }
}

impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name is none of [`Reuse::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownReuse(String);

impl fmt::Display for UnknownReuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no way of reuse is called {:?}; the names are in-place, fresh-pages, immutable", self.0)
    }
}

impl Error for UnknownReuse {}

impl FromStr for Reuse {
    type Err = UnknownReuse;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|r| r.as_str() == name).ok_or_else(|| UnknownReuse(name.to_owned()))
    }
}

/// Where the pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// The process's allocator. Freed memory is rewritten by strangers.
    Heap,
    /// A private anonymous mapping.
    Anonymous,
    /// A private anonymous mapping of huge pages.
    HugePages,
    /// A mapped memfd.
    Memfd,
    /// A mapped file.
    File,
    /// Bytes that live as long as the process and never change.
    Static,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Heap => "heap",
            Self::Anonymous => "anonymous",
            Self::HugePages => "huge-pages",
            Self::Memfd => "memfd",
            Self::File => "file",
            Self::Static => "static",
        })
    }
}

/// What is known about a block of memory. Found by address with [`locate`](crate::region::locate).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MemoryFacts {
    /// Where the pages come from.
    pub backing: Backing,
    /// Of a [`Memory`]: the best that it can keep, see [`Reuse::can_keep`]. Of a ring's memory: what the ring does.
    pub reuse: Reuse,
    /// Bytes of one replacement unit: the page, or the folio of huge pages. A power of two.
    pub unit: usize,
}

impl MemoryFacts {
    /// The unit that is assumed where nobody says otherwise.
    pub const DEFAULT_UNIT: usize = 4096;

    /// Facts with a unit of [`Self::DEFAULT_UNIT`] bytes.
    #[must_use]
    pub const fn new(backing: Backing, reuse: Reuse) -> Self {
        Self { backing, reuse, unit: Self::DEFAULT_UNIT }
    }

    /// Sets the replacement unit in bytes, a power of two.
    #[must_use]
    pub const fn with_unit(mut self, unit: usize) -> Self {
        self.unit = unit;
        self
    }

    /// Sets the discipline of reuse.
    #[must_use]
    pub const fn with_reuse(mut self, reuse: Reuse) -> Self {
        self.reuse = reuse;
        self
    }
}

/// A stable block of bytes that a ring can own.
///
/// # Safety
///
/// An implementer promises that, from the moment a value is given to a ring until that ring drops it:
///
/// * [`as_ptr`](Self::as_ptr), [`len`](Self::len) and [`facts`](Self::facts) answer the same each time, also after
///   the value was moved;
/// * the `len` bytes at `as_ptr` are one allocation (or mapping), readable and writable by every thread, and stay
///   so until the value is dropped;
/// * the block is exclusive: nothing outside the value reads, writes, replaces or unmaps it. No clone of the value,
///   no second mapping and no truncated file behind it does either;
/// * a descriptor that `file` answers is what is mapped there: from its offset on it holds the block's bytes, at every moment;
/// * [`recycle`](Self::recycle) touches nothing outside its range, and after `Ok` the range reads as zeroes while whoever
///   still refers to the *old pages* (a socket's queue) keeps reading the old bytes;
/// * if `facts().reuse` is not [`Reuse::InPlace`], dropping the value does not hand its pages to an allocator that
///   could write them while the kernel refers to them. Unmapping is right, freeing heap is not.
pub unsafe trait Memory: Send + Sync + fmt::Debug {
    /// The first byte.
    fn as_ptr(&self) -> NonNull<u8>;

    /// The length in bytes.
    fn len(&self) -> usize;

    /// True if there is not one byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the memory is.
    fn facts(&self) -> MemoryFacts;

    /// Replaces the pages of `range` (byte offsets, whole units) by fresh ones.
    ///
    /// A [`Reuse::FreshPages`] ring calls it before what came back is handed out again, for several leases at once, never for
    /// bytes that a grant or a lease can still reach. A [`Reuse::InPlace`] ring calls it for leases that somebody
    /// [distrusts](crate::region::distrust).
    ///
    /// # Errors
    ///
    /// The ring quarantines the range: it is never handed out again. The default answers
    /// [`io::ErrorKind::Unsupported`].
    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} memory cannot replace the pages of {range:?}", self.facts().backing),
        ))
    }

    /// The file behind the memory, and where in it the first byte is; the others follow. `None`, the default, if there is none.
    #[cfg(unix)]
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

const _: [&dyn Memory; 0] = [];

// SAFETY: every promise is the boxed value's own; moving the box does not move the value.
unsafe impl<M: Memory + ?Sized> Memory for Box<M> {
    fn as_ptr(&self) -> NonNull<u8> {
        (**self).as_ptr()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn facts(&self) -> MemoryFacts {
        (**self).facts()
    }

    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        (**self).recycle(range)
    }

    #[cfg(unix)]
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        (**self).file()
    }
}

/// Memory could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// No bytes were asked for.
    Empty,
    /// More bytes than an address space can hold.
    TooLarge {
        /// What was asked for, in bytes.
        bytes: usize,
    },
    /// The allocator refused.
    Refused {
        /// What was asked for, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no memory was asked for; ask for at least one byte"),
            Self::TooLarge { bytes } => {
                write!(f, "{bytes} bytes are more than an address space can hold; ask for less")
            }
            Self::Refused { bytes } => {
                write!(f, "the allocator refused {bytes} bytes; ask for less or raise the memory limit")
            }
        }
    }
}

impl Error for MemoryError {}

/// Zeroed memory from the process's allocator, aligned to 4096 bytes. Always [`Reuse::InPlace`].
pub struct HeapMemory {
    allocation: NonNull<u8>,
    layout: Layout,
    start: NonNull<u8>,
    len: usize,
}

impl HeapMemory {
    const ALIGN: usize = 4096;

    /// Allocates `len` bytes. Pages that are never touched cost nothing.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the allocator cannot give that much; the process is not aborted.
    pub fn new(len: usize) -> Result<Self, MemoryError> {
        if len == 0 {
            return Err(MemoryError::Empty);
        }
        // Asked for with a small alignment and aligned by hand: the allocator then hands out fresh zero pages
        // (calloc), where for a large alignment it would write every byte.
        let padded = len.checked_add(Self::ALIGN).ok_or(MemoryError::TooLarge { bytes: len })?;
        let Ok(layout) = Layout::from_size_align(padded, 16) else {
            return Err(MemoryError::TooLarge { bytes: len });
        };
        // SAFETY: the layout's size is at least ALIGN + 1, so it is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(MemoryError::Refused { bytes: len })?;
        let skip = allocation.align_offset(Self::ALIGN);
        debug_assert!(skip <= Self::ALIGN, "a byte pointer can always be aligned");
        // SAFETY: skip <= ALIGN - 1 for a byte pointer, and the allocation is len + ALIGN bytes long.
        let start = unsafe { allocation.add(skip) };
        Ok(Self { allocation, layout, start, len })
    }
}

impl fmt::Debug for HeapMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapMemory").field("start", &self.start).field("len", &self.len).finish()
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: `allocation` came from `alloc_zeroed` with exactly this layout and is freed only here.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

// SAFETY: the value owns its allocation alone, like a Box<[u8]>; the pointers are never handed out but by `Memory`.
unsafe impl Send for HeapMemory {}
// SAFETY: `&HeapMemory` gives nothing but the addresses, which do not change.
unsafe impl Sync for HeapMemory {}

// SAFETY: one allocation, owned alone, fixed in place until drop; `recycle` is the default and touches nothing; facts say
// InPlace, so freeing it is permitted.
unsafe impl Memory for HeapMemory {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }

    fn facts(&self) -> MemoryFacts {
        MemoryFacts::new(Backing::Heap, Reuse::InPlace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_memory_is_aligned_and_too_much_of_it_is_an_error() {
        let memory = HeapMemory::new(5000).unwrap();
        assert_eq!((memory.as_ptr().addr().get() % 4096, memory.len()), (0, 5000));
        assert_eq!(HeapMemory::new(0).unwrap_err(), MemoryError::Empty);
        for bytes in [usize::MAX, isize::MAX as usize, 1 << 50] {
            let error = HeapMemory::new(bytes).unwrap_err();
            assert!(error.to_string().contains("ask for less"), "{error}");
        }
    }

    #[test]
    fn names_of_reuse_round_trip() {
        for reuse in Reuse::ALL {
            assert_eq!(reuse.to_string().parse(), Ok(reuse));
        }
        assert!("rewrite".parse::<Reuse>().unwrap_err().to_string().contains("fresh-pages"));
    }

    #[test]
    fn heap_can_only_be_reused_in_place() {
        assert!(!Reuse::InPlace.can_keep(Reuse::FreshPages) && !Reuse::InPlace.can_keep(Reuse::Immutable));
        assert!(!Reuse::Immutable.can_keep(Reuse::FreshPages));
        assert!(Reuse::ALL.into_iter().all(|r| Reuse::FreshPages.can_keep(r) && r.can_keep(Reuse::InPlace)));
    }
}
