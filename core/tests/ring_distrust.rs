//! Leases whose release nobody can prove.

#[path = "support/pages.rs"]
mod pages;
mod support;

use std::{
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use zerosink_core::{
    memory::{HeapMemory, Memory, MemoryFacts, Reuse},
    region::{Keeper, distrust, give_away, keep_pages, keep_pages_for, locate, owner_of, register},
    ring::{Ring, RingStats},
};

use pages::{Log, Pages};
use support::{GRANULE, lease, ring};

const UNIT: usize = Pages::UNIT;

/// A ring of four pages that is reused in place, and overwrites what comes back with `0xEE`.
fn in_place() -> (Ring, Arc<Log>) {
    let (pages, log) = Pages::new(4);
    (Ring::builder().reuse(Reuse::InPlace).poison(0xEE).build_on(pages).unwrap(), log)
}

/// Distrusted, quarantined and free bytes.
fn sizes(ring: &Ring) -> (usize, usize, usize) {
    let RingStats { distrusted, quarantined, free, .. } = ring.stats();
    (distrusted, quarantined, free)
}

#[test]
fn a_trusted_lease_is_reused_in_place() {
    // The control of all that follows: without `distrust` the pages stay, and are written at once.
    let (ring, log) = in_place();
    let one = lease(&ring, UNIT, 1);
    drop(one);
    assert!(log.recycled.lock().unwrap().is_empty());
    assert_eq!(sizes(&ring), (0, 0, 4 * UNIT));
}

#[test]
fn a_distrusted_lease_of_whole_units_is_replaced_before_it_is_written() {
    let (ring, log) = in_place();
    let _before = lease(&ring, UNIT, 0);
    let bad = lease(&ring, 2 * UNIT, 2);
    assert!(distrust(&bad[5..6]));
    let clone = bad.clone();
    drop(bad);
    assert_eq!(sizes(&ring), (2 * UNIT, 0, UNIT), "out, and still read");
    assert!(clone.iter().all(|b| *b == 2) && owner_of(&clone).is_some() && log.recycled.lock().unwrap().is_empty());
    drop(clone);
    assert_eq!(log.recycled.lock().unwrap().first(), Some(&(UNIT..3 * UNIT)));
    assert_eq!(*log.seen.lock().unwrap(), [2], "the old pages were left as they were sent");
    assert_eq!(sizes(&ring), (0, 0, 3 * UNIT));
    drop(lease(&ring, 3 * UNIT, 3));
    assert_eq!(log.recycled.lock().unwrap().len(), 1, "distrust ends with the lease");
}

#[test]
fn what_cannot_be_replaced_is_never_written_again() {
    // Parts of a unit; a unit that does not start on a boundary; whole units whose replacement fails.
    for (before, bytes, fail) in [(0, UNIT - GRANULE, false), (GRANULE, UNIT, false), (0, UNIT, true)] {
        let (ring, log) = in_place();
        log.fail.store(fail, Ordering::SeqCst);
        let _before = (before > 0).then(|| lease(&ring, before, 0));
        let bad = lease(&ring, bytes, 7);
        let address = bad.as_ptr().addr();
        assert!(distrust(&bad));
        drop(bad);
        assert_eq!(sizes(&ring), (0, bytes, 4 * UNIT - before - bytes));
        assert!(log.recycled.lock().unwrap().is_empty());
        let mut rest = Vec::new();
        while let Ok(grant) = ring.try_reserve(GRANULE) {
            assert!(!(address..address + bytes).contains(&grant_address(&grant)), "quarantined bytes were granted");
            rest.push(grant);
        }
        assert_eq!(rest.len(), (4 * UNIT - before - bytes) / GRANULE);
    }
}

fn grant_address(grant: &zerosink_core::ring::Grant) -> usize {
    grant.filled().as_ptr().addr()
}

#[test]
fn every_lease_under_a_slice_is_distrusted() {
    let (ring, _log) = in_place();
    let (one, two, three) = (lease(&ring, 1000, 1), lease(&ring, 2000, 2), lease(&ring, 100, 3));
    let rest = ring.try_reserve(GRANULE).unwrap();
    let (from, to) = (one.as_ptr(), three.as_ptr().addr());
    #[expect(unsafe_code, reason = "makes the slice that safe code cannot")]
    // SAFETY: the leases lie side by side in one allocation that was zeroed, and nobody writes them.
    let across = unsafe { std::slice::from_raw_parts(from, to - from.addr()) };
    assert!(distrust(across));
    assert_eq!(ring.stats().distrusted, 1024 + 2048);
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: as above; nobody writes the grant either.
    let into_a_grant = unsafe { std::slice::from_raw_parts(from, grant_address(&rest) - from.addr() + 1) };
    assert!(!distrust(into_a_grant), "a grant is no lease");
    drop((one, two, three, rest));
    assert_eq!(ring.stats().quarantined, 1024 + 2048 + 256);
}

#[test]
fn memory_that_no_ring_leases_is_the_callers_to_keep() {
    let stranger = Bytes::from(vec![1; 100]);
    assert!(!distrust(&stranger) && !distrust(&[]));
    let registration = register(stranger.clone());
    assert!(!distrust(&stranger) && !keep_pages(&stranger));
    drop(registration);
    let ring = ring(4);
    let mut grant = ring.try_reserve(100).unwrap();
    grant.as_mut_slice()[0] = 1;
    grant.fill(1).unwrap();
    assert!(!distrust(grant.filled()));
    drop(grant.commit());
    assert_eq!(sizes(&ring), (0, 0, 1024), "a grant is not distrusted, nor the lease that it becomes");
}

#[test]
fn other_disciplines_go_on_as_ever() {
    let (pages, log) = Pages::new(4);
    let ring = Ring::builder().build_on(pages).unwrap();
    let fresh = lease(&ring, UNIT, 1);
    assert!(distrust(&fresh) && !keep_pages(&fresh));
    drop(fresh);
    assert_eq!(sizes(&ring), (0, 0, 4 * UNIT));
    drop(ring.try_reserve(4 * UNIT).unwrap());
    let replaced = log.recycled.lock().unwrap().clone();
    assert_eq!(
        replaced.iter().map(ExactSizeIterator::len).sum::<usize>(),
        UNIT,
        "before it is granted again: {replaced:?}"
    );

    let (pages, log) = Pages::new(4);
    let ring = Ring::builder().reuse(Reuse::Immutable).build_on(pages).unwrap();
    let spent = lease(&ring, UNIT, 1);
    assert!(distrust(&spent) && keep_pages(&spent));
    drop(spent);
    assert_eq!((log.recycled.lock().unwrap().len(), ring.stats().retired), (0, UNIT));
}

#[test]
fn pages_that_somebody_relies_on_are_not_replaced() {
    let (ring, log) = in_place();
    let bad = lease(&ring, UNIT, 1);
    assert!(distrust(&bad) && keep_pages(&bad));
    drop(bad);
    assert_eq!((log.recycled.lock().unwrap().len(), sizes(&ring)), (0, (0, UNIT, 3 * UNIT)));
}

/// Notes which ring is over, and whether its memory was freed by then.
struct Noting {
    freed: Arc<AtomicBool>,
    over: Mutex<Vec<(Range<usize>, bool)>>,
}

impl Keeper for Noting {
    fn let_go(&self, addresses: Range<usize>) {
        self.over.lock().unwrap().push((addresses, self.freed.load(Ordering::SeqCst)));
    }
}

#[test]
fn who_relies_on_the_pages_is_told_before_the_memory_goes() {
    let freed = Arc::new(AtomicBool::new(false));
    let ring = Ring::builder().build_on(Told(HeapMemory::new(UNIT).unwrap(), freed.clone())).unwrap();
    let last = lease(&ring, 100, 1);
    let block = locate(&last, |location| location.block.clone()).unwrap();
    let keeper = || Arc::new(Noting { freed: freed.clone(), over: Mutex::default() });
    let (stays, goes) = (keeper(), keeper());
    for keeper in [&stays, &goes] {
        let keeper: Weak<dyn Keeper> = Arc::<Noting>::downgrade(keeper);
        assert!(keep_pages_for(&last[10..20], &keeper));
        assert!(!keep_pages_for(&[1; 10], &keeper) && !keep_pages_for(&[], &keeper));
    }
    drop(goes);
    drop(ring);
    assert!(stays.over.lock().unwrap().is_empty(), "a lease is left");
    drop(last);
    assert_eq!(*stays.over.lock().unwrap(), [(block, false)]);
    assert!(freed.load(Ordering::SeqCst));
}

#[test]
fn a_ring_that_replaces_its_pages_has_nobody_to_tell() {
    let (pages, _log) = Pages::new(4);
    let ring = Ring::builder().build_on(pages).unwrap();
    let keeper = Arc::new(Noting { freed: Arc::default(), over: Mutex::default() });
    let weak: Weak<dyn Keeper> = Arc::<Noting>::downgrade(&keeper);
    assert!(!keep_pages_for(&lease(&ring, UNIT, 1), &weak));
    drop(ring);
    assert!(keeper.over.lock().unwrap().is_empty());
}

/// Heap that tells when it is freed.
#[derive(Debug)]
struct Told(HeapMemory, Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[expect(unsafe_code, reason = "a fake Memory")]
// SAFETY: the heap memory's own promises.
unsafe impl Memory for Told {
    fn as_ptr(&self) -> NonNull<u8> {
        self.0.as_ptr()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn facts(&self) -> MemoryFacts {
        self.0.facts()
    }
}

#[test]
fn heap_with_a_quarantine_never_returns_to_the_allocator() {
    for distrusted in [false, true] {
        let freed = Arc::new(AtomicBool::new(false));
        let ring = Ring::builder().build_on(Told(HeapMemory::new(UNIT).unwrap(), freed.clone())).unwrap();
        let last = lease(&ring, UNIT, 1);
        drop(ring);
        assert_eq!(distrust(if distrusted { &last } else { &[] }), distrusted);
        assert!(!freed.load(Ordering::SeqCst));
        drop(last);
        assert_eq!(freed.load(Ordering::SeqCst), !distrusted);
    }
}

#[test]
fn pages_that_mappings_unmap_are_unmapped_with_a_quarantine_too() {
    let (ring, log) = in_place();
    let bad = lease(&ring, 1, 1);
    assert!(distrust(&bad));
    drop(ring);
    drop(bad);
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn pages_are_given_away_only_if_they_will_be_replaced() {
    let (ring, log) = in_place();
    let whole = lease(&ring, 2 * UNIT, 1);
    let part = lease(&ring, UNIT - GRANULE, 2);
    assert!(give_away(&whole[..10]) && !give_away(&part) && !give_away(&[7; 10]) && !give_away(&[]));
    drop((whole, part));
    let recycled = log.recycled.lock().unwrap().clone();
    assert_eq!((recycled.len(), recycled.first()), (1, Some(&(0..2 * UNIT))), "the part was reused in place");
    assert_eq!(sizes(&ring), (0, 0, 4 * UNIT));

    let whole = lease(&ring, UNIT, 3);
    assert!(keep_pages(&whole) && !give_away(&whole), "somebody relies on the pages");
    let heap = Ring::builder().capacity(4 * UNIT).build().unwrap();
    assert!(!give_away(&lease(&heap, UNIT, 4)), "heap cannot replace its pages");
}
