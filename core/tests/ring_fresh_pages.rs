//! Rings whose pages are replaced before they are written again.

#[path = "support/pages.rs"]
mod pages;
mod support;

use std::{
    future::Future as _,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes};
use zerosink_core::{
    memory::Reuse,
    region,
    ring::{Grant, Reserve, Ring, RingError},
};

use pages::Pages;
use support::lease;

fn poll(future: &mut Reserve) -> Poll<Result<Grant, RingError>> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The lease, not the addresses: what is written there next was sent by nobody.
#[test]
fn that_a_lease_was_sent_is_forgotten_with_the_lease() {
    let (pages, _) = Pages::new(1);
    let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(pages).unwrap();
    for _ in 0..2 {
        let lease = lease(&ring, Pages::UNIT, 1);
        region::note_sent(&lease[..Pages::UNIT / 2]);
        assert!(!region::was_sent(&lease), "a part of it");
        region::note_sent(&lease[Pages::UNIT / 2..]);
        assert!(region::was_sent(&lease) && region::was_sent(&lease[1..2]));
    }
    let heap = [1, 2, 3];
    region::note_sent(&heap);
    assert!(!region::was_sent(&heap) && !region::was_sent(&[]));
}

#[test]
fn pages_of_a_ring_that_wipes_are_replaced_at_once_and_not_written_before() {
    for builder in [Ring::builder().scrub(true), Ring::builder().poison(0xAA), Ring::builder().scrub(true).poison(0xAA)]
    {
        let (pages, log) = Pages::new(4);
        let ring = builder.build_on(pages).unwrap();
        assert_eq!((ring.reuse(), ring.facts().unit), (Reuse::FreshPages, Pages::UNIT));
        let one = lease(&ring, 1, 0x11);
        let two = lease(&ring, 4097, 0x22);
        assert_eq!(ring.stats().leased, 3 * Pages::UNIT, "no two leases share a unit");
        drop(ring.try_reserve(1).unwrap());
        assert!(log.recycled.lock().unwrap().is_empty(), "what was never sent needs no replacement");
        drop(two);
        drop(one);
        assert_eq!(*log.recycled.lock().unwrap(), [4096..12288, 0..4096]);
        assert_eq!(*log.seen.lock().unwrap(), [0x22, 0x11], "old pages are left as they were sent");
    }
}

#[test]
fn what_comes_back_gets_fresh_pages_in_batches_when_it_is_needed() {
    const BATCH: usize = 256 << 10;
    const UNITS: usize = BATCH / Pages::UNIT;
    let (pages, log) = Pages::new(3 * UNITS);
    let ring = Ring::builder().build_on(pages).unwrap();
    let leases: Vec<_> = (0..3 * UNITS).map(|n| lease(&ring, 1, n as u8)).collect();
    let start = leases[0].as_ptr();
    drop(leases);
    assert_eq!((ring.stats().free, ring.stats().oldest_lease_age), (ring.capacity(), None));
    assert!(log.recycled.lock().unwrap().is_empty());
    let mut held = Vec::new();
    for n in 0..2 * UNITS {
        held.push(lease(&ring, 1, 0xee));
        assert_eq!(held[n].as_ptr().addr() - start.addr(), n * Pages::UNIT);
        assert_eq!(log.recycled.lock().unwrap().len(), 1 + n / UNITS);
    }
    assert_eq!(*log.recycled.lock().unwrap(), [0..BATCH, BATCH..2 * BATCH]);
    drop(held);
    drop(ring.try_reserve(3 * BATCH).unwrap());
    assert_eq!(log.recycled.lock().unwrap()[2..], [0..BATCH, BATCH..2 * BATCH, 2 * BATCH..3 * BATCH]);
    assert_eq!(ring.stats().high_water, 3 * BATCH);
}

#[test]
fn what_came_back_before_or_after_somebody_waits_is_renewed_for_him() {
    let (pages, log) = Pages::new(4);
    let ring = Ring::builder().build_on(pages).unwrap();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|fill| lease(&ring, 4096, fill));
    let address = second.as_ptr();
    drop(second);
    let mut large = ring.reserve(2 * 4096);
    assert!(poll(&mut large).is_pending());
    assert_eq!(log.recycled.lock().unwrap().first(), Some(&(4096..8192)), "it may be what he waits for");
    let mut small = ring.reserve(1);
    assert!(poll(&mut small).is_pending(), "first come, first served");
    drop(fourth);
    assert!(poll(&mut large).is_pending());
    drop(third);
    let Poll::Ready(Ok(grant)) = poll(&mut large) else { panic!("not served") };
    assert!(matches!(poll(&mut small), Poll::Ready(Ok(_))));
    assert_eq!(*log.recycled.lock().unwrap(), [4096..8192, 12288..16384, 8192..12288]);
    assert_eq!(log.seen.lock().unwrap()[..], [2, 4, 3], "old pages are left as they were sent");
    let mut written = grant;
    written.put_u8(0);
    let written = written.commit();
    assert_eq!((written.as_ptr(), first[0]), (address, 1));
}

#[test]
fn pages_that_cannot_be_replaced_are_quarantined() {
    let (pages, log) = Pages::new(4);
    let ring = Ring::builder().build_on(pages).unwrap();
    let before = lease(&ring, 4096, 0);
    let bad = lease(&ring, 4096, 0);
    let bad_start = bad.as_ptr();
    let mut hopeless = ring.reserve(4 * 4096);
    assert!(poll(&mut hopeless).is_pending());
    log.fail.store(true, Ordering::SeqCst);
    drop(bad);
    assert!(matches!(poll(&mut hopeless), Poll::Ready(Err(RingError::TooLong { longest: 8192, .. }))));
    log.fail.store(false, Ordering::SeqCst);
    drop(before);
    let stats = ring.stats();
    assert_eq!((stats.quarantined, stats.free), (4096, 3 * 4096));
    assert!(matches!(ring.try_reserve(8193), Err(RingError::TooLong { longest: 8192, .. })));
    for _ in 0..20 {
        let lease = lease(&ring, 4096, 0);
        assert_ne!(lease.as_ptr(), bad_start);
    }
}

#[test]
fn all_that_came_back_is_renewed_before_a_ring_is_full() {
    let (pages, log) = Pages::new(4);
    let ring = Ring::builder().build_on(pages).unwrap();
    let [first, _held, third, fourth] = [1, 2, 3, 4].map(|fill| lease(&ring, 4096, fill));
    drop((third, fourth));
    // The last to come back is looked at first.
    drop(first);
    let two = ring.try_reserve(2 * 4096).unwrap();
    assert_eq!(*log.recycled.lock().unwrap(), [0..4096, 8192..16384]);
    drop(two.commit());
    assert!(matches!(ring.try_reserve(3 * 4096), Err(RingError::Full { free: 12288, .. })));
    assert_eq!(log.recycled.lock().unwrap().len(), 2, "what was never sent needs no replacement");
}

#[test]
fn a_page_that_cannot_be_replaced_costs_no_other() {
    let (pages, log) = Pages::new(8);
    let ring = Ring::builder().build_on(pages).unwrap();
    drop(lease(&ring, 8 * 4096, 1));
    log.bad_unit.store(4, Ordering::SeqCst);
    assert!(matches!(ring.try_reserve(5 * 4096), Err(RingError::TooLong { longest: 16384, .. })));
    assert_eq!((ring.stats().quarantined, ring.stats().free, ring.stats().granted), (4096, 7 * 4096, 0));
    let replaced: Vec<_> = log.recycled.lock().unwrap().iter().map(|range| (range.start / 4096, range.len())).collect();
    assert_eq!(replaced, [0, 1, 2, 4, 5, 6, 7].map(|unit| (unit, 4096)));
    drop(ring.try_reserve(4 * 4096).unwrap());
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Nobody polls again but who was woken.
fn served(mut reserve: Reserve) -> Grant {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let start = Instant::now();
    loop {
        if let Poll::Ready(grant) = pin!(&mut reserve).poll(&mut Context::from_waker(&waker)) {
            return grant.unwrap();
        }
        thread::park_timeout(Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(20), "waits for ever");
    }
}

#[test]
fn threads_that_wait_for_fresh_pages_are_all_served() {
    let (pages, log) = Pages::new(2);
    let ring = Ring::builder().build_on(pages).unwrap();
    thread::scope(|scope| {
        for fill in 0..4_u8 {
            let ring = ring.clone();
            scope.spawn(move || {
                for n in 0..10_000 {
                    let bytes = Pages::UNIT * (1 + n % 2);
                    let mut grant = served(ring.reserve(bytes));
                    grant.put_bytes(fill, bytes);
                    let lease: Bytes = grant.commit();
                    assert!(lease.iter().step_by(512).all(|byte| *byte == fill));
                }
            });
        }
    });
    assert_eq!((ring.stats().free, ring.stats().waiters), (ring.capacity(), 0));
    assert!(log.recycled.lock().unwrap().len() > 10_000);
}
