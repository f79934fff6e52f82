//! A replacement that fails takes its range out of use, and nothing else.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerosink::mapped::Replacement;

use super::*;

const MADV_COLLAPSE: libc::c_int = 25;
const FOLIO: usize = 2 << 20;

/// What the mapping's advice prevents is done from outside here: the ring's base pages become one folio, which is larger
/// than a lease. The hole then succeeds and replaces nothing, and the ring must notice.
#[test]
fn a_hole_that_replaces_nothing_is_noticed() {
    let memory = MappedMemory::memfd(FOLIO).unwrap();
    let memfd = memory.as_memfd().unwrap().try_clone_to_owned().unwrap();
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
    drop(lease(&ring, OLD));
    assert_eq!(ring.stats().quarantined, 0, "while the pages are base pages");
    let first = lease(&ring, OLD);
    if let Err(error) = collapse(&memfd) {
        return skip(&format!("no folio of 2 MiB in a memfd here: {error}"), true);
    }
    // The pipe refers to the folio, so the kernel cannot split it.
    let late = Late::put(Route::Pipe, Put::Vmsplice, &first[..BYTES], None);
    drop(first);
    assert_eq!(ring.stats().quarantined, 0, "a hole of the whole folio replaces it");
    assert_eq!(Seen::of(&late.read()), Seen::ALL_OLD);

    let leases: Vec<_> = (0..FOLIO / BYTES)
        .map(|_| {
            let mut grant = ring.try_reserve(BYTES).unwrap();
            grant.as_mut_slice().fill(OLD);
            grant.fill(BYTES).unwrap();
            grant.commit()
        })
        .collect();
    collapse(&memfd).unwrap();
    let late = Late::put(Route::Pipe, Put::Vmsplice, &leases[3], None);
    drop(leases);
    let stats = ring.stats();
    assert!(stats.quarantined >= BYTES, "{stats:?}");
    assert_eq!(stats.free + stats.quarantined, FOLIO, "{stats:?}");
    let addresses = ring.try_reserve(BYTES).map(|_| ()).err();
    assert!(addresses.is_none() || stats.quarantined == FOLIO, "the rest goes on: {stats:?}");
    drop(late);
}

/// `MADV_COLLAPSE` through another mapping of the file.
fn collapse(memfd: &std::os::fd::OwnedFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "maps, with room to start on a boundary")]
    // SAFETY: new mappings; the second takes the place of a part of the first, and both are gone on return.
    unsafe {
        let slack = mmap_private(2 * FOLIO)?;
        let start = slack.byte_add(slack.addr().next_multiple_of(FOLIO) - slack.addr());
        let start = mmap(start, FOLIO, ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED, memfd, 0)?;
        let result = advise(std::slice::from_raw_parts(start.cast::<u8>(), FOLIO), MADV_COLLAPSE);
        munmap(slack, 2 * FOLIO)?;
        result
    }
}

#[expect(unsafe_code, reason = "maps")]
fn mmap_private(bytes: usize) -> io::Result<*mut std::ffi::c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
    Ok(unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE) }?)
}

/// `mseal(2)` (Linux 6.10) forbids mapping anything over a range.
#[test]
fn pages_that_cannot_be_mapped_anew_are_quarantined_and_the_rest_goes_on() {
    const SYS_MSEAL: libc::c_long = 462;
    let memory = MapOptions::new().replacement(Replacement::MapFixed).anonymous(2 * BYTES).unwrap();
    let start = memory.as_ptr();
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
    let reserve = || {
        let mut grant = ring.try_reserve(BYTES).unwrap();
        grant.as_mut_slice().fill(OLD);
        grant.fill(BYTES).unwrap();
        grant.commit()
    };
    let (first, second) = (reserve(), reserve());
    assert_eq!(first.as_ptr(), start.as_ptr());
    #[expect(unsafe_code, reason = "neither rustix nor libc has a name for it")]
    // SAFETY: seals the first lease's addresses against changes of the mapping; they are this ring's own.
    let sealed = unsafe { libc::syscall(SYS_MSEAL, start.as_ptr(), BYTES, 0) };
    if sealed != 0 {
        return skip(&format!("no mseal here: {}", io::Error::last_os_error()), true);
    }
    drop((first, second));
    let stats = ring.stats();
    assert_eq!((stats.quarantined, stats.free), (BYTES, BYTES), "{stats:?}");
    for _ in 0..10 {
        assert_ne!(reserve().as_ptr(), start.as_ptr(), "never handed out again");
    }
    assert!(ring.try_reserve(BYTES + 1).is_err());
}
