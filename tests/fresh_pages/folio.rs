//! The first 2 MiB of a memfd, mapped without any of our care, and made one folio.
#![expect(unsafe_code, reason = "maps, and writes where the kernel still reads, which is the point")]

use std::{ffi::c_void, fs, io, os::fd::AsFd, ptr, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::advise;

pub(crate) const FOLIO: usize = 2 << 20;
const MADV_COLLAPSE: libc::c_int = 25;
const ATTEMPTS: usize = 8;

/// A shared mapping on a boundary of [`FOLIO`] bytes.
pub(crate) struct Folio {
    room: *mut c_void,
    start: *mut u8,
}

impl Folio {
    /// For reading; for writing too if `write`.
    pub(crate) fn map(memfd: impl AsFd, write: bool) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let room = unsafe { mmap_anonymous(ptr::null_mut(), 2 * FOLIO, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let start = room.map_addr(|address| address.next_multiple_of(FOLIO));
        let protection = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: it takes the place of `FOLIO` bytes of the room, which is twice as long and this function's own.
        let placed = unsafe { mmap(start, FOLIO, protection, MapFlags::SHARED | MapFlags::FIXED, memfd, 0) };
        let folio = Self { room, start: start.cast() };
        placed.map(|_| folio).map_err(Into::into)
    }

    /// Makes its pages one folio (Linux 6.1).
    ///
    /// On a machine that has been up for long, memory may be in too small pieces for one: then root has the kernel move them
    /// together.
    pub(crate) fn collapse(&self) -> io::Result<()> {
        let mut result = advise(self.bytes(), MADV_COLLAPSE);
        for _ in 0..ATTEMPTS {
            let in_pieces =
                matches!(&result, Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN)));
            if !in_pieces || fs::write("/proc/sys/vm/compact_memory", "1").is_err() {
                break;
            }
            result = advise(self.bytes(), MADV_COLLAPSE);
        }
        result
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `FOLIO` bytes are mapped there until drop; the tests write them only between looks.
        unsafe { slice::from_raw_parts(self.start, FOLIO) }
    }

    pub(crate) fn write(&self, byte: u8) {
        // SAFETY: `FOLIO` bytes are mapped there for writing until drop, and this process has no reference to them now.
        unsafe { self.start.write_bytes(byte, FOLIO) }
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // SAFETY: this value's own mappings.
        unsafe { munmap(self.room, 2 * FOLIO) }.unwrap();
    }
}
