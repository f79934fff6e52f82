//! What looks like a replacement and is none. Each is a reason for something in `memory`.

use super::{
    folio::{FOLIO, Folio},
    *,
};

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
        let late = Late::put(route, Put::Vmsplice, bytes);
        advise(bytes, libc::MADV_REMOVE).expect("it claims to have succeeded");
        memory.write(NEW);
        assert_eq!(Seen::of(&late.read()), Seen::ALL_NEW, "{route:?}");

        memory.write(OLD);
        let late = Late::put(route, Put::Vmsplice, bytes);
        advise(bytes, libc::MADV_REMOVE).unwrap();
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
        let late = Late::put(route, Put::Vmsplice, &memory.bytes()[..BYTES]);
        advise(memory.bytes(), libc::MADV_REMOVE).unwrap();
        memory.write(NEW);
        assert_eq!(Seen::of(&late.read()), Seen::ALL_OLD, "{route:?}");
    }
}

/// What keeps a ring's memfd in base pages: `MADV_NOHUGEPAGE`. (That its mapping has that flag is a unit test.)
#[test]
fn pages_that_are_advised_to_stay_small_cannot_be_collapsed() {
    for (advice, small) in [(libc::MADV_NORMAL, false), (libc::MADV_NOHUGEPAGE, true)] {
        let memfd = rustix::fs::memfd_create("small", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, FOLIO as u64).unwrap();
        let folio = Folio::map(&memfd, true).unwrap();
        advise(folio.bytes(), advice).unwrap();
        folio.write(1);
        match folio.collapse() {
            Ok(()) => assert!(!small),
            Err(error) if small => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
            Err(error) => return skip(&format!("no folio of 2 MiB in a memfd here: {error}"), true),
        }
    }
}

/// A memfd of one folio; `None`, loudly, where the kernel makes none.
fn one_folio() -> Option<Folio> {
    let memfd = rustix::fs::memfd_create("folio", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, FOLIO as u64).unwrap();
    let folio = Folio::map(&memfd, true).unwrap();
    folio.write(0);
    let collapsed = folio.collapse();
    if let Err(error) = &collapsed {
        skip(&format!("no folio of 2 MiB in a memfd here: {error}"), true);
    }
    collapsed.ok().map(|()| folio)
}
