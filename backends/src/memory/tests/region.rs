#![expect(unsafe_code, reason = "files that the tests alone write")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use zerosink_core::{
    Reuse,
    memory::Backing,
    owner_of,
    region::{facts_of, locate},
};

use super::super::*;

/// A file of so many bytes that tell their place, gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: usize) -> Self {
        let path = std::env::temp_dir().join(format!("zerosink-region-{}-{name}", std::process::id()));
        fs::write(&path, pattern(0..bytes)).unwrap();
        Self(path)
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }

    fn is_mapped(&self) -> bool {
        fs::read_to_string("/proc/self/maps").unwrap().contains(self.0.to_str().unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn pattern(range: Range<usize>) -> Vec<u8> {
    range.map(|place| (place % 251) as u8).collect()
}

fn from_file(file: &File, range: impl std::ops::RangeBounds<u64>) -> io::Result<bytes::Bytes> {
    // SAFETY: the tests' own files, which nobody writes or truncates.
    unsafe { Region::from_file(file, range) }
}

fn reason(result: io::Result<bytes::Bytes>) -> RegionError {
    let error = result.unwrap_err();
    *error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error:?}"))
}

#[test]
fn any_range_of_a_file_has_the_bytes_of_the_file() {
    const LENGTH: usize = (1 << 20) + 777;
    let scratch = Scratch::new("ranges", LENGTH);
    let file = scratch.open();
    assert_eq!(from_file(&file, ..).unwrap(), pattern(0..LENGTH));
    for range in [0..1, 0..4096, 1..4096, 4095..4097, 8192..8193, 5000..900_001, LENGTH - 1..LENGTH] {
        let bytes = from_file(&file, range.start as u64..range.end as u64).unwrap();
        assert_eq!(bytes, pattern(range.clone()), "{range:?}");
    }
    assert_eq!(from_file(&file, 4096..=8191).unwrap(), pattern(4096..8192));
    assert_eq!(from_file(&file, 1_000_000..).unwrap(), pattern(1_000_000..LENGTH));
}

#[test]
fn a_region_is_known_by_its_address_until_its_last_slice_is_gone() {
    let scratch = Scratch::new("known", 100_000);
    let region = from_file(&scratch.open(), 5000..).unwrap();
    let facts = facts_of(&region[10..20]).unwrap();
    assert_eq!((facts.backing, facts.reuse), (Backing::File, Reuse::Immutable));
    let mut read = [0; 10];
    let sent = locate(&region[10..20], |location| {
        let (file, offset) = location.file.unwrap();
        rustix::io::pread(file, &mut read, offset)
    });
    assert_eq!((sent, &read[..]), (Some(Ok(10)), &pattern(5010..5020)[..]), "the file, and where in it");
    let middle = owner_of(&region[1000..2000]).expect("it is a lease");
    assert_eq!(middle, pattern(6000..7000));
    drop(region);
    assert!(scratch.is_mapped());
    assert_eq!(middle, pattern(6000..7000), "the slice keeps the mapping");
    drop(middle);
    assert!(!scratch.is_mapped(), "nothing is left behind");
}

#[test]
fn what_is_no_region_is_an_error_that_says_what_to_do() {
    const LENGTH: u64 = 10_000;
    let scratch = Scratch::new("errors", LENGTH as usize);
    let file = scratch.open();
    for range in [0..0, 5..5, LENGTH..LENGTH, Range { start: 9, end: 3 }] {
        assert_eq!(reason(from_file(&file, range)), RegionError::Empty);
    }
    for end in [LENGTH + 1, LENGTH + 4096, u64::MAX] {
        assert_eq!(reason(from_file(&file, 3..end)), RegionError::BeyondEnd { end, length: LENGTH });
    }
    assert!(matches!(reason(from_file(&file, ..=u64::MAX)), RegionError::BeyondEnd { .. }));

    let (read, _write) = rustix::pipe::pipe().unwrap();
    for (file, name) in [
        (File::open(std::env::temp_dir()).unwrap(), "a directory"),
        (File::from(read), "a pipe"),
        (File::open("/dev/zero").unwrap(), "a device"),
        (File::from(OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0)), "a socket"),
    ] {
        assert_eq!(reason(from_file(&file, ..)), RegionError::NotAFile { what: name });
        assert_eq!(reason(Region::sealed(&file, ..)), RegionError::NotAFile { what: name });
    }
    let write_only = OpenOptions::new().append(true).open(&scratch.0).unwrap();
    assert_eq!(reason(from_file(&write_only, ..)), RegionError::NotReadable);
    assert_eq!(reason(Region::copied(&[])), RegionError::Empty);
}

fn memfd(bytes: &[u8]) -> File {
    let mut memfd = File::from(memfd_create("region-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    memfd.write_all(bytes).unwrap();
    memfd
}

#[test]
fn only_content_that_can_never_change_is_safe() {
    let content = pattern(0..50_000);
    for (seals, missing) in [
        (SealFlags::empty(), RegionError::NotSealed { write: false, shrink: false }),
        (SealFlags::WRITE, RegionError::NotSealed { write: true, shrink: false }),
        (SealFlags::SHRINK | SealFlags::GROW, RegionError::NotSealed { write: false, shrink: true }),
        // Leaves mappings writable that are there already.
        (SealFlags::SHRINK | SealFlags::FUTURE_WRITE, RegionError::NotSealed { write: false, shrink: true }),
    ] {
        let memfd = memfd(&content);
        fcntl_add_seals(&memfd, seals).unwrap();
        assert_eq!(reason(Region::sealed(&memfd, ..)), missing);
    }
    let scratch = Scratch::new("unsealed", 5000);
    assert_eq!(
        reason(Region::sealed(scratch.open(), ..)),
        RegionError::NotSealed { write: false, shrink: false },
        "a file on disk has no seals"
    );

    let memfd = memfd(&content);
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    let region = Region::sealed(&memfd, 1234..40_000).unwrap();
    assert_eq!(region, content[1234..40_000]);
    let facts = facts_of(&region).unwrap();
    assert_eq!((facts.backing, facts.reuse), (Backing::Memfd, Reuse::Immutable));
    drop(memfd);
    assert_eq!(region, content[1234..40_000], "it has a descriptor of its own");
}

/// The seals do what the safety of [`Region::sealed`] rests on.
#[test]
fn nobody_can_change_what_is_sealed() {
    let mut memfd = memfd(&pattern(0..8192));
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    let region = Region::sealed(&memfd, ..).unwrap();
    assert!(rustix::io::pwrite(&memfd, &[1], 0).is_err());
    assert!(memfd.set_len(4096).is_err());
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    assert!(rustix::fs::fallocate(&memfd, hole, 0, 4096).is_err());
    assert!(Mapping::shared(memfd.as_fd(), 4096).is_err(), "no writable mapping afterwards");
    memfd.write_all(b"appended, which is permitted").unwrap_err();
    assert_eq!(region, pattern(0..8192));

    let mapped = self::memfd(&pattern(0..8192));
    let before = Mapping::shared(mapped.as_fd(), 4096).unwrap();
    assert_eq!(fcntl_add_seals(&mapped, SealFlags::WRITE), Err(rustix::io::Errno::BUSY), "nor before");
    drop(before);
    fcntl_add_seals(&mapped, SealFlags::WRITE).unwrap();
}

#[test]
fn a_copy_is_a_sealed_region() {
    for length in [1, 4095, 4096, 100_001] {
        let content = pattern(0..length);
        let region = Region::copied(&content).unwrap();
        assert_eq!(region, content);
        let facts = facts_of(&region).unwrap();
        assert_eq!((facts.backing, facts.reuse), (Backing::Memfd, Reuse::Immutable));
    }
}

#[test]
fn a_huge_file_needs_no_huge_index() {
    const LENGTH: u64 = (1 << 41) + 5;
    let file = memfd(b"");
    file.set_len(LENGTH).unwrap();
    let region = from_file(&file, ..).unwrap();
    assert_eq!((region.len() as u64, region[region.len() - 1]), (LENGTH, 0));
    assert_eq!(owner_of(&region[1 << 40..(1 << 40) + 9]).unwrap(), [0; 9][..]);
}

/// Why [`Region::from_file`] is unsafe.
#[test]
fn control_a_truncated_file_raises_sigbus() {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};
    const CHILD: &str = "ZEROSINK_TRUNCATED";
    if std::env::var_os(CHILD).is_some() {
        let file = memfd(&pattern(0..8192));
        let region = from_file(&file, ..).unwrap();
        file.set_len(10).unwrap();
        assert_eq!(region[10], 0, "the rest of the page is there, and zeroed under a shared reference");
        panic!("byte 5000 cannot be {}", region[5000]);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::tests::region::control_a_truncated_file_raises_sigbus"])
        .env(CHILD, "1")
        // Under the sanitizer, which would make an exit of it.
        .env("ASAN_OPTIONS", "handle_sigbus=0")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
}
