//! What looks like a replacement and is none. Each is a reason for something in `memory`.

use super::*;

const MADV_REMOVE: libc::c_int = libc::MADV_REMOVE;
const MADV_COLLAPSE: libc::c_int = 25;

/// Why a memfd takes `PUNCH_HOLE`: the page stays in the file, and the next touch finds it again.
#[test]
fn control_madv_dontneed_on_a_memfd_replaces_nothing() {
    for route in [Route::Pipe, Route::Tcp, Route::Unix] {
        for put in [Put::Vmsplice, Put::File] {
            let memory = MappedMemory::memfd(BYTES).unwrap();
            let broken = ReplacedBy { memory, replace: |bytes: &[u8]| advise(bytes, libc::MADV_DONTNEED) };
            let seen = seen_by_a_late_reader(broken, Reuse::FreshPages, route, put);
            assert_eq!(seen, Seen::ALL_NEW, "{route:?}, {put:?}");
        }
    }
}

/// Why a lease is never less than a folio: the hole says that it succeeded, zeroes what the socket still has to send, and
/// leaves the same memory at the address.
#[test]
fn control_a_hole_in_a_part_of_a_folio_destroys_and_replaces_nothing() {
    for route in [Route::Pipe, Route::Tcp, Route::Unix] {
        let Some(memory) = one_folio() else { return };
        let bytes = &memory.bytes()[..BYTES];
        memory.write(OLD);
        let late = Late::put(route, Put::Vmsplice, bytes, None);
        advise(bytes, MADV_REMOVE).expect("it claims to have succeeded");
        memory.write(NEW);
        assert_eq!(Seen::of(&late.read()), Seen::ALL_NEW, "{route:?}");

        memory.write(OLD);
        let late = Late::put(route, Put::Vmsplice, bytes, None);
        advise(bytes, MADV_REMOVE).unwrap();
        let seen = Seen::of(&late.read());
        assert_eq!((seen.old, seen.zero), (0, BYTES), "{route:?}: it zeroed what was on its way");
    }
}

/// The same with holes of the whole folio: what was wrong was the size.
#[test]
fn a_hole_of_the_whole_folio_replaces_it() {
    for route in [Route::Pipe, Route::Tcp, Route::Unix] {
        let Some(memory) = one_folio() else { return };
        memory.write(OLD);
        let late = Late::put(route, Put::Vmsplice, &memory.bytes()[..BYTES], None);
        advise(memory.bytes(), MADV_REMOVE).unwrap();
        memory.write(NEW);
        assert_eq!(Seen::of(&late.read()), Seen::ALL_OLD, "{route:?}");
    }
}

/// A ring's memfd has base pages because its mapping says so; nobody makes a folio of them through it.
#[test]
fn the_pages_of_a_memfd_ring_cannot_be_collapsed() {
    let huge = 2 << 20;
    let memory = MappedMemory::memfd(2 * huge).unwrap();
    let start = memory.as_ptr().addr().get();
    let aligned = start.next_multiple_of(huge) - start;
    #[expect(unsafe_code, reason = "looks at the mapping as a slice")]
    // SAFETY: inside the mapping, which nobody writes meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr().as_ptr().add(aligned), huge) };
    assert_eq!(advise(bytes, MADV_COLLAPSE).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

/// A memfd of one folio of 2 MiB, mapped without any of our care.
struct Folio {
    start: NonNull<u8>,
    slack: NonNull<u8>,
}

const FOLIO: usize = 2 << 20;

impl Folio {
    #[expect(unsafe_code, reason = "the mapping as a slice")]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `FOLIO` bytes are mapped there until drop; the tests write them only between looks.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), FOLIO) }
    }

    #[expect(unsafe_code, reason = "writes where the kernel still reads, which is the point")]
    fn write(&self, byte: u8) {
        // SAFETY: `FOLIO` bytes are mapped there until drop, writable, and this process has no reference to them now.
        unsafe { self.start.write_bytes(byte, FOLIO) }
    }
}

impl Drop for Folio {
    #[expect(unsafe_code, reason = "unmaps")]
    fn drop(&mut self) {
        // SAFETY: this value's own mapping.
        unsafe { rustix::mm::munmap(self.slack.as_ptr().cast(), 2 * FOLIO) }.unwrap();
    }
}

/// `None`, loudly, where the kernel does not make one.
fn one_folio() -> Option<Folio> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
    let memfd = rustix::fs::memfd_create("folio", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, FOLIO as u64).unwrap();
    #[expect(unsafe_code, reason = "maps")]
    // SAFETY: new mappings; the second takes the place of a part of the first.
    let folio = unsafe {
        let slack = mmap_anonymous(std::ptr::null_mut(), 2 * FOLIO, ProtFlags::empty(), MapFlags::PRIVATE).unwrap();
        let start = slack.byte_add(slack.addr().next_multiple_of(FOLIO) - slack.addr());
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let start = mmap(start, FOLIO, protection, flags, &memfd, 0).unwrap();
        Folio { start: NonNull::new(start.cast()).unwrap(), slack: NonNull::new(slack.cast()).unwrap() }
    };
    folio.write(0);
    match advise(folio.bytes(), MADV_COLLAPSE) {
        Ok(()) => Some(folio),
        Err(error) => {
            skip(&format!("no folio of 2 MiB in a memfd here: {error}"), true);
            None
        }
    }
}
