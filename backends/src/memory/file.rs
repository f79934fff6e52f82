//! Immutable memory: files and sealed memfds that nobody writes any more, as `Bytes`.
#![expect(unsafe_code, reason = "a mapped file as a slice is a promise that the compiler cannot check")]

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Write as _},
    ops::{Bound, Range, RangeBounds},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use bytes::Bytes;
use rustix::fs::{FileType, MemfdFlags, SealFlags, Stat, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs};
use zerosink_core::{Memory, MemoryFacts, Reuse, Ring, memory::Backing, ring::RingBuilder};

use super::{mapping::Mapping, memfd};

/// Memory that is never written again, from files and memfds, as `Bytes` that every mechanism can send.
///
/// The kernel may go on reading such bytes for as long as it likes, so they are released as soon as they are accepted, to any
/// peer on any path. [`owner_of`](zerosink_core::owner_of) finds them by address, and the descriptor and offset behind them are known, so that they can
/// be sent with `sendfile(2)`.
///
/// Each call maps the range and duplicates the descriptor. Both live until the last clone or slice of the `Bytes` is dropped. Of a
/// file that is sent in many pieces, map the whole and cut it with [`Bytes::slice`], which costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {}

impl Region {
    /// Maps a range of a regular file. It need not begin or end on a page.
    ///
    /// Nothing is read now: pages come from the page cache, or from the disk when somebody first needs them, be it the CPU or
    /// the kernel on behalf of a send. The bytes can be shared with other processes that map the file.
    ///
    /// # Safety
    ///
    /// From this call on, and for as long as *a peer* may still read what was sent of it (which can be long after the last
    /// `Bytes` is gone):
    ///
    /// * **nobody writes to the range of the file**, through whatever descriptor or mapping. A write would change what a `&[u8]`
    ///   reads, which is undefined behaviour, and what is already on its way to a peer. Bytes that are appended behind
    ///   the range do no harm. Replace a file by renaming a new one over it; whoever has the old one mapped keeps it;
    /// * **nobody truncates the file** to less than the end of the range. Bytes that are not there raise `SIGBUS` in whoever
    ///   touches them, and a send of them fails with `EFAULT`.
    ///
    /// A device or a network file system that cannot read a page raises `SIGBUS` too. Where the files are not yours to
    /// protect, make a copy with [`copied`](Self::copied).
    ///
    /// # Errors
    ///
    /// [`RegionError`] inside the `io::Error`: an empty range, one that ends behind the end of the file, a directory, a pipe, a
    /// device, a descriptor that is not open for reading. Otherwise as `mmap(2)`.
    pub unsafe fn from_file(file: impl AsFd, range: impl RangeBounds<u64>) -> io::Result<Bytes> {
        let file = file.as_fd();
        let stat = fstat(file)?;
        map(file, &stat, Backing::File, range)
    }

    /// Maps a range of a memfd whose content is sealed: `F_SEAL_WRITE` and `F_SEAL_SHRINK`. It need not begin or end on a page.
    ///
    /// Nobody can lift a seal, and the kernel grants the one against writing only if there is no writable mapping, so what
    /// [`from_file`](Self::from_file) has to ask for is certain here.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotSealed`] if a seal is missing or the file is no memfd, otherwise as [`from_file`](Self::from_file).
    pub fn sealed(memfd: impl AsFd, range: impl RangeBounds<u64>) -> io::Result<Bytes> {
        let memfd = memfd.as_fd();
        let stat = fstat(memfd)?;
        is_regular(&stat)?;
        let needed = SealFlags::WRITE | SealFlags::SHRINK;
        // EINVAL is what files without seals answer.
        let seals = match fcntl_get_seals(memfd) {
            Err(rustix::io::Errno::INVAL) => SealFlags::empty(),
            seals => seals?,
        };
        if !seals.contains(needed) {
            let (write, shrink) = (seals.contains(SealFlags::WRITE), seals.contains(SealFlags::SHRINK));
            return Err(RegionError::NotSealed { write, shrink }.into());
        }
        map(memfd, &stat, Backing::Memfd, range)
    }

    /// Copies bytes into a new memfd, seals it, and maps it. For what is sent often: the copy is made once.
    ///
    /// # Errors
    ///
    /// [`RegionError::Empty`] without a byte; as `memfd_create(2)` and `write(2)`.
    pub fn copied(bytes: &[u8]) -> io::Result<Bytes> {
        if bytes.is_empty() {
            return Err(RegionError::Empty.into());
        }
        let mut memfd = File::from(memfd::new(MemfdFlags::empty())?);
        memfd.write_all(bytes)?;
        fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::sealed(&memfd, ..)
    }
}

/// Why there is no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionError {
    /// The range has no bytes.
    Empty,
    /// The range ends behind the end of the file.
    BeyondEnd {
        /// Where the range ends, in bytes.
        end: u64,
        /// The length of the file in bytes.
        length: u64,
    },
    /// The range has more bytes than an address space.
    TooLong {
        /// The bytes of the range.
        bytes: u64,
    },
    /// The descriptor is of something that cannot be mapped.
    NotAFile {
        /// What it is of.
        what: &'static str,
    },
    /// The descriptor is not open for reading.
    NotReadable,
    /// The content could still change.
    NotSealed {
        /// `F_SEAL_WRITE` is set.
        write: bool,
        /// `F_SEAL_SHRINK` is set.
        shrink: bool,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the range has no bytes; give one of at least one byte, or send nothing"),
            Self::BeyondEnd { end, length } => write!(
                f,
                "the range ends at byte {end} but the file has {length}; end it there, or write the file first"
            ),
            Self::TooLong { bytes } => {
                write!(f, "{bytes} bytes are more than an address space can hold; map the file in parts")
            }
            Self::NotAFile { what } => {
                write!(f, "{what} cannot be mapped; give a regular file or a memfd, or read it into a ring")
            }
            Self::NotReadable => f.write_str("the file is not open for reading; open it for reading"),
            Self::NotSealed { write, shrink } => {
                f.write_str("the content could still change: ")?;
                match (write, shrink) {
                    (false, false) => f.write_str("no memfd, or one without F_SEAL_WRITE and F_SEAL_SHRINK"),
                    (false, true) => f.write_str("F_SEAL_WRITE is missing"),
                    _ => f.write_str("F_SEAL_SHRINK is missing"),
                }?;
                f.write_str("; add the seals, or make a sealed copy with Region::copied")
            }
        }
    }
}

impl Error for RegionError {}

impl From<RegionError> for io::Error {
    fn from(error: RegionError) -> Self {
        let kind = match error {
            RegionError::BeyondEnd { .. } => io::ErrorKind::UnexpectedEof,
            RegionError::NotReadable => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

fn is_regular(stat: &Stat) -> Result<(), RegionError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "a descriptor without content",
    };
    Err(RegionError::NotAFile { what })
}

/// The range in bytes, checked against the length of the file.
fn resolve(range: impl RangeBounds<u64>, length: u64) -> Result<Range<u64>, RegionError> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => length,
    };
    if end > length {
        return Err(RegionError::BeyondEnd { end, length });
    }
    if start >= end {
        return Err(RegionError::Empty);
    }
    Ok(start..end)
}

/// Maps a range of a file that, as the callers have made sure, nobody writes or truncates any more.
fn map(file: BorrowedFd<'_>, stat: &Stat, backing: Backing, range: impl RangeBounds<u64>) -> io::Result<Bytes> {
    /// `f_type` of hugetlbfs, from `include/uapi/linux/magic.h`.
    const HUGETLBFS_MAGIC: i64 = 0x958458f6;

    is_regular(stat)?;
    let range = resolve(range, stat.st_size as u64)?;
    let sendable = fstatfs(file)?.f_type as i64 != HUGETLBFS_MAGIC;
    let unit = if sendable { rustix::param::page_size() } else { stat.st_blksize as usize };
    // A mapping starts on a page; the lease is cut to the range below.
    let offset = range.start - range.start % unit as u64;
    let too_long = RegionError::TooLong { bytes: range.end - range.start };
    let length = usize::try_from(range.end - offset).map_err(|_| too_long)?;
    let whole = length.checked_next_multiple_of(unit).filter(|whole| *whole <= isize::MAX as usize).ok_or(too_long)?;
    let mapping = match Mapping::read_only(file, offset, whole) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(RegionError::NotReadable.into()),
        mapping => mapping?,
    };
    let facts = MemoryFacts::new(backing, Reuse::Immutable).with_unit(unit);
    let memory = FileMemory { mapping, file: file.try_clone_to_owned()?, offset, sendable, length, facts };

    // A ring of one lease, which everything that asks by address already knows. The lease keeps it alive.
    let granule = length.next_power_of_two().max(RingBuilder::GRANULE);
    let ring = Ring::builder().granule(granule).build_on(memory)?;
    let mut grant = ring.try_reserve(length)?;
    // SAFETY: all `length` bytes are the file's own: they lie before its end, which does not move any more. They are
    // initialised without having been written here.
    unsafe { grant.assume_filled(length) };
    Ok(grant.commit().slice((range.start - offset) as usize..))
}

/// A range of a file, mapped for reading only.
#[derive(Debug)]
struct FileMemory {
    mapping: Mapping,
    file: OwnedFd,
    offset: u64,
    sendable: bool,
    length: usize,
    facts: MemoryFacts,
}

// SAFETY: the mapping is exclusive and lives until drop, wherever the value moves; the caller of `from_file`, or the seals, promise that
// the bytes do not change and stay there. They are readable by every thread. They are *not* writable, which `Memory` asks
// for so that grants can be filled; this value is private to this module, which gives it to one ring only (`map`), and
// that ring never writes: its one grant is committed whole, without a `&mut` to a byte of it, so nothing is ever left to be
// granted; as an immutable ring it retires the lease when it comes back; and it neither scrubs nor poisons. Dropping unmaps,
// it hands nothing to an allocator.
unsafe impl Memory for FileMemory {
    fn as_ptr(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    fn len(&self) -> usize {
        self.length
    }

    fn facts(&self) -> MemoryFacts {
        self.facts
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.sendable.then_some((self.file.as_fd(), self.offset))
    }
}
