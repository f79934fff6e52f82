//! Locked memory, in children: `mlockall` is for a whole process.

use std::process::Command;

use rustix::mm::{MlockAllFlags, mlockall};
use zerosink::mapped::Replacement;

use super::{folio::FOLIO, *};

const CHILD: &str = "ZEROSINK_LOCKED";

/// True in a child in which all memory is locked from now on; what was there before may be more than a user may lock. Otherwise
/// runs the test in such a child and checks it.
fn in_a_locked_child(test: &str) -> bool {
    if env::var_os(CHILD).is_some() {
        let locked = mlockall(MlockAllFlags::FUTURE).map_err(io::Error::from);
        if let Err(error) = locked.and_then(|()| MappedMemory::anonymous(3 * FOLIO, Pages::Base)) {
            // The limit of locked memory of users who are not root.
            println!("not locked: {error}");
            return false;
        }
        println!("locked");
        return true;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{child:?}");
    if said.contains("not locked") {
        let why = said.lines().find(|line| line.contains("not locked")).unwrap_or_default();
        skip(&format!("no memory can be locked here: {why}"), true);
    }
    false
}

#[test]
fn locked_pages_are_replaced() {
    if !in_a_locked_child("locked::locked_pages_are_replaced") {
        return;
    }
    let options = MapOptions::new();
    let fixed = options.clone().replacement(Replacement::MapFixed);
    for route in [Route::Pipe, Route::Tcp, Route::Unix] {
        let memories = [
            Some(options.anonymous(BYTES).unwrap()),
            Some(options.clone().populate(false).anonymous(BYTES).unwrap()),
            Some(fixed.anonymous(BYTES).unwrap()),
            Some(options.memfd(BYTES).unwrap()),
            with_pages(&options, Pages::Huge, FOLIO, false),
        ];
        for memory in memories.into_iter().flatten() {
            assert!(memory.fallbacks().is_empty(), "{memory:?}");
            let what = format!("{route:?}, {memory:?}");
            assert_eq!(seen_by_a_late_reader(memory, Reuse::FreshPages, route, Put::Vmsplice), Seen::ALL_OLD, "{what}");
        }
    }
}

/// Why there is `MADV_DONTNEED_LOCKED`.
#[test]
fn control_madv_dontneed_alone_is_refused_for_locked_memory() {
    if !in_a_locked_child("locked::control_madv_dontneed_alone_is_refused_for_locked_memory") {
        return;
    }
    let memory = MappedMemory::anonymous(BYTES, Pages::Base).unwrap();
    let alone = ReplacedBy { memory, replace: |bytes: &[u8]| advise(bytes, libc::MADV_DONTNEED) };
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(alone).unwrap();
    drop(lease(&ring, OLD));
    need_all_of(&ring);
    assert_eq!(ring.stats().quarantined, BYTES);
}

/// Also when only this memory is locked, after the ring was built, and unlocked again.
#[test]
fn pages_that_are_locked_later_are_replaced() {
    let memory = MappedMemory::anonymous(BYTES, Pages::Base).unwrap();
    let start = memory.as_ptr().as_ptr().cast();
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
    for locked in [true, false, true] {
        let call = if locked { rustix::mm::mlock } else { rustix::mm::munlock };
        #[expect(unsafe_code, reason = "locks a range by address")]
        // SAFETY: the ring's own mapping, alive; locking changes no content.
        let result = unsafe { call(start, BYTES) };
        if let Err(error) = result {
            return skip(&format!("64 KiB cannot be locked here: {error}"), true);
        }
        let first = lease(&ring, OLD);
        let late = Late::put(Route::Tcp, Put::Vmsplice, &first);
        drop(first);
        drop(lease(&ring, NEW));
        assert_eq!(Seen::of(&late.read()), Seen::ALL_OLD);
        assert_eq!(ring.stats().quarantined, 0);
    }
}
