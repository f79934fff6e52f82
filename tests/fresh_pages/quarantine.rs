//! A replacement that fails takes its range out of use, and nothing else.

use zerosink::{RingError, mapped::Replacement};

use super::{
    folio::{FOLIO, Folio},
    *,
};

/// What the mapping's advice prevents is done from outside here: the ring's base pages become one folio, which is larger
/// than a lease. While a pipe refers to the folio, a hole in it succeeds and replaces nothing, and the ring must notice.
#[test]
fn a_hole_that_replaces_nothing_is_noticed() {
    for in_flight in [true, false] {
        let memory = MappedMemory::memfd(FOLIO).unwrap();
        let memfd = memory.file().unwrap().0.try_clone_to_owned().unwrap();
        let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
        let leases: Vec<_> = (0..FOLIO / BYTES).map(|_| lease_of(&ring, BYTES, OLD)).collect();
        if let Err(error) = Folio::map(&memfd, false).unwrap().collapse() {
            return skip(&format!("no folio of 2 MiB in a memfd here: {error}"), true);
        }
        let late = in_flight.then(|| Late::put(Route::Pipe, Put::Vmsplice, &leases[3]));
        drop(leases);
        need_all_of(&ring);
        let stats = ring.stats();
        if in_flight {
            assert_eq!((stats.quarantined, stats.free), (FOLIO, 0), "{stats:?}");
            assert!(matches!(ring.try_reserve(BYTES), Err(RingError::TooLong { longest: 0, .. })));
        } else {
            assert_eq!((stats.quarantined, stats.free), (0, FOLIO), "the kernel splits a folio of its own: {stats:?}");
        }
        drop(late);
    }
}

/// `mseal(2)` (Linux 6.10) forbids mapping anything over a range.
#[test]
fn pages_that_cannot_be_mapped_anew_are_quarantined_and_the_rest_goes_on() {
    const SYS_MSEAL: libc::c_long = 462;
    let memory = MapOptions::new().replacement(Replacement::MapFixed).anonymous(2 * BYTES).unwrap();
    let start = memory.as_ptr();
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
    let (first, second) = (lease_of(&ring, BYTES, OLD), lease_of(&ring, BYTES, OLD));
    assert_eq!(first.as_ptr(), start.as_ptr());
    #[expect(unsafe_code, reason = "neither rustix nor libc has a name for it")]
    // SAFETY: seals the first lease's addresses against changes of the mapping; they are this ring's own.
    let sealed = unsafe { libc::syscall(SYS_MSEAL, start.as_ptr(), BYTES, 0) };
    if sealed != 0 {
        return skip(&format!("no mseal here: {}", io::Error::last_os_error()), true);
    }
    drop((first, second));
    need_all_of(&ring);
    let stats = ring.stats();
    assert_eq!((stats.quarantined, stats.free), (BYTES, BYTES), "{stats:?}");
    for _ in 0..10 {
        assert_ne!(lease_of(&ring, BYTES, OLD).as_ptr(), start.as_ptr(), "never handed out again");
    }
    assert!(ring.try_reserve(BYTES + 1).is_err());
}

/// A touch of a page that the pool does not have raises SIGBUS. Replaced pages are taken from it at once, so that it is an
/// error instead.
#[test]
fn reserved_pages_that_run_out_cost_the_range_and_not_the_process() {
    let options = MapOptions::new();
    let Some(memory) = with_pages(&options, Pages::Reserved, FOLIO, true) else { return };
    let unit = memory.facts().unit;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let count = |name: &str| -> usize {
        let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let free = count("HugePages_Free:") - count("HugePages_Rsvd:");
    let everything_else = (free > 0).then(|| options.clone().pages(Pages::Reserved).memfd(free * unit).unwrap());
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
    let first = lease(&ring, OLD);
    let late = Late::put(Route::Pipe, Put::Vmsplice, &first[..BYTES]);
    drop(first);
    need_all_of(&ring);
    let stats = ring.stats();
    if stats.quarantined == 0 {
        skip("somebody gave reserved pages back meanwhile", false);
    } else {
        assert_eq!((stats.quarantined, stats.free), (unit, 0), "{stats:?}");
    }
    assert_eq!(Seen::of(&late.read()), Seen::ALL_OLD);
    drop(everything_else);
}
