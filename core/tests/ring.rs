//! Properties of rings, grants and leases.

#[path = "support/pages.rs"]
mod pages;
mod support;

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::{BufMut, Bytes};
use zerosink_core::{
    memory::{Backing, HeapMemory, Reuse},
    region::owner_of,
    ring::{Reserve, Ring, RingError},
};

use pages::Pages;
use support::{GRANULE, lease, ring};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(future: &mut Reserve) -> Poll<Result<zerosink_core::ring::Grant, RingError>> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn commit_sends_exactly_what_was_filled_and_returns_the_tail() {
    let ring = ring(16);
    let mut grant = ring.try_reserve(1000).unwrap();
    assert_eq!((grant.remaining(), grant.remaining_mut()), (1000, 1000));
    grant.put_slice(b"abc");
    assert_eq!((grant.filled(), grant.remaining()), (&b"abc"[..], 997));
    grant.filled_mut()[0] = b'A';
    assert_eq!(ring.stats().granted, 1024);
    let lease = grant.commit();
    assert_eq!(lease, "Abc");
    let stats = ring.stats();
    assert_eq!((stats.granted, stats.leased, stats.free), (0, GRANULE, 15 * GRANULE));
    drop(lease);
    assert_eq!((ring.stats().free, ring.stats().high_water), (ring.capacity(), 1024));
}

#[test]
fn a_grant_takes_no_more_than_was_asked_for() {
    let ring = ring(4);
    let mut grant = ring.try_reserve(10).unwrap();
    assert_eq!(grant.spare_capacity_mut().len(), 10);
    grant.put_bytes(1, 10);
    assert!(!grant.has_remaining_mut());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| grant.put_u8(1))).is_err());
}

#[test]
fn a_wrong_count_never_sends_a_previous_lap() {
    let ring = ring(4);
    drop(lease(&ring, 4 * GRANULE, b'S'));
    let mut grant = ring.try_reserve(600).unwrap();
    assert_eq!(grant.fill(1), Err(RingError::NotWritten { asked: 1, written: 0 }));
    grant.as_mut_slice()[..2].copy_from_slice(b"ok");
    assert_eq!(grant.fill(601), Err(RingError::NotWritten { asked: 601, written: 600 }));
    grant.fill(4).unwrap();
    assert_eq!(grant.filled(), b"ok\0\0");
    let _spare = grant.spare_capacity_mut();
    assert_eq!(grant.fill(1), Err(RingError::NotWritten { asked: 1, written: 0 }));
    grant.put_slice(b"!");
    assert!(grant.as_mut_slice().iter().all(|b| *b == 0));
    grant.fill(595).unwrap();
    assert!(!grant.commit().contains(&b'S'));
}

#[test]
fn an_empty_commit_and_a_dropped_grant_give_everything_back() {
    let ring = ring(4);
    let empty = ring.try_reserve(1024).unwrap().commit();
    assert!(empty.is_empty());
    assert_eq!(ring.stats().free, 1024);
    let mut grant = ring.try_reserve(1024).unwrap();
    grant.put_u8(1);
    drop(grant);
    assert_eq!(ring.stats().free, 1024);
    drop(lease(&ring, 1024, 1));
}

#[test]
fn a_held_lease_blocks_only_its_own_bytes() {
    let ring = ring(16);
    let _before: Vec<Bytes> = (0..3).map(|_| lease(&ring, GRANULE, 0)).collect();
    let held = lease(&ring, GRANULE, b'h');
    for lap in 0..1000_u32 {
        drop(lease(&ring, 12 * GRANULE, lap as u8));
        assert!(held.iter().all(|b| *b == b'h'));
    }
    assert_eq!(ring.stats().leased, 4 * GRANULE);
}

#[test]
fn leases_come_back_in_any_order() {
    let ring = ring(8);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let mut leases: Vec<Option<Bytes>> = (0..4).map(|n| Some(lease(&ring, 2 * GRANULE, n))).collect();
        assert!(matches!(ring.try_reserve(1), Err(RingError::Full { asked: 1, free: 0 })));
        for n in order {
            leases[n] = None;
        }
        drop(lease(&ring, 8 * GRANULE, 9));
    }
}

#[test]
fn the_space_comes_back_with_the_last_clone_of_any_part() {
    let ring = ring(4);
    let whole = lease(&ring, 1024, 7);
    let part = whole.slice(100..101);
    drop(whole);
    assert_eq!(ring.stats().free, 0);
    drop(part);
    assert_eq!(ring.stats().free, 1024);
}

#[test]
fn memory_outlives_the_ring_while_a_lease_lives() {
    let (pages, log) = Pages::new(2);
    let ring = Ring::builder().build_on(pages).unwrap();
    let lease = lease(&ring, 5000, b'x');
    drop(ring);
    assert!(lease.iter().all(|b| *b == b'x'));
    assert_eq!(owner_of(&lease[1..]).unwrap(), lease[1..]);
    drop(lease);
    assert!(log.recycled.lock().unwrap().is_empty(), "nobody will write them");
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    let errors = [
        Ring::builder().build().unwrap_err(),
        Ring::builder().capacity(0).build().unwrap_err(),
        Ring::builder().capacity(usize::MAX).build().unwrap_err(),
        Ring::builder().capacity(1 << 50).build().unwrap_err(),
        Ring::builder().capacity(1).reuse(Reuse::FreshPages).build().unwrap_err(),
        Ring::builder().capacity(1).reuse(Reuse::Immutable).build().unwrap_err(),
        Ring::builder().reuse(Reuse::FreshPages).build_on(HeapMemory::new(4096).unwrap()).unwrap_err(),
        Ring::builder().capacity(5000).build_on(HeapMemory::new(4096).unwrap()).unwrap_err(),
        Ring::builder().build_on(HeapMemory::new(100).unwrap()).unwrap_err(),
        ring(1).try_reserve(0).unwrap_err(),
        ring(1).try_reserve(257).unwrap_err(),
        ring(1).try_reserve(usize::MAX).unwrap_err(),
    ];
    use RingError::*;
    for (i, error) in errors.into_iter().enumerate() {
        let as_expected = match i {
            0 | 1 | 8 => matches!(error, ZeroCapacity),
            2 => matches!(error, TooLarge { .. }),
            3 => matches!(error, Memory(_)),
            4..=6 => matches!(error, CannotKeep { backing: Backing::Heap, .. }),
            7 => matches!(error, MemoryTooSmall { capacity: 5000, len: 4096 }),
            9 => matches!(error, ZeroReserve),
            _ => matches!(error, TooLong { longest: 256, .. }),
        };
        assert!(as_expected, "{i}: {error:?}");
        let kind = io::Error::from(error).kind();
        assert_ne!(kind, io::ErrorKind::WouldBlock, "{error}");
    }
}

#[test]
fn waiters_are_served_in_order_and_a_large_one_is_not_starved() {
    let ring = ring(8);
    let mut leases: Vec<Bytes> = (0..8).map(|n| lease(&ring, GRANULE, n)).collect();
    let mut large = ring.reserve(6 * GRANULE);
    let mut small = ring.reserve(GRANULE);
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    assert_eq!(ring.stats().waiters, 2);
    for _ in 0..5 {
        leases.pop();
        assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
        assert!(matches!(ring.try_reserve(1), Err(RingError::Full { .. })), "nobody jumps the queue");
    }
    leases.pop();
    assert_eq!(ring.stats().waiters, 1);
    leases.pop();
    let Poll::Ready(Ok(grant)) = poll(&mut small) else { panic!("there is space for the small one too") };
    drop(grant);
    assert!(matches!(poll(&mut large), Poll::Ready(Ok(grant)) if grant.remaining() == 6 * GRANULE));
}

#[test]
fn a_waiter_is_woken_once_by_its_last_waker() {
    let ring = ring(1);
    let held = lease(&ring, 1, 0);
    let (first, last) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let mut waiting = pin!(ring.reserve(1));
    for wakes in [&first, &last] {
        let waker = Waker::from(wakes.clone());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(held);
    assert_eq!((first.0.load(Ordering::SeqCst), last.0.load(Ordering::SeqCst)), (0, 1));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn a_cancelled_reserve_loses_nothing_at_any_step() {
    // Dropped before the first poll, while queued, after it was served, and after it was collected.
    for step in 0..4 {
        let ring = ring(2);
        let held = lease(&ring, 512, 0);
        let mut first = ring.reserve(512);
        let mut second = ring.reserve(256);
        if step > 0 {
            assert!(poll(&mut first).is_pending());
        }
        assert!(poll(&mut second).is_pending());
        if step == 1 {
            drop(first);
            drop(held);
        } else {
            drop(held);
            if step == 3 {
                assert!(matches!(poll(&mut first), Poll::Ready(Ok(_))));
            }
            drop(first);
        }
        let Poll::Ready(Ok(grant)) = poll(&mut second) else { panic!("step {step}: the second was forgotten") };
        drop(grant);
        drop(second);
        let stats = ring.stats();
        assert_eq!((stats.free, stats.waiters), (512, 0), "step {step}");
    }
}

#[test]
fn cancelling_the_large_waiter_in_front_serves_those_behind() {
    let ring = ring(4);
    let _held = lease(&ring, GRANULE, 0);
    let mut large = ring.reserve(1024);
    let mut small = ring.reserve(GRANULE);
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    drop(large);
    assert!(matches!(poll(&mut small), Poll::Ready(Ok(_))));
}

#[test]
fn committed_bytes_of_an_immutable_ring_are_never_written_again() {
    let (pages, log) = Pages::new(1);
    let ring = Ring::builder().reuse(Reuse::Immutable).scrub(true).poison(1).build_on(pages).unwrap();
    let first = lease(&ring, 256, b'i');
    let address = first.as_ptr().addr();
    drop(first);
    assert_eq!(ring.stats().retired, 256);
    for n in 1..16 {
        drop(ring.try_reserve(256).unwrap());
        assert_eq!(lease(&ring, 256, 0).as_ptr().addr(), address + n * 256);
    }
    assert!(matches!(ring.try_reserve(1), Err(RingError::TooLong { longest: 0, .. })));
    assert!(log.recycled.lock().unwrap().is_empty());
}

#[test]
fn scrub_zeroes_what_comes_back() {
    let ring = Ring::builder().capacity(1024).scrub(true).build().unwrap();
    assert!(ring.scrubs());
    drop(lease(&ring, 1024, b's'));
    let mut grant = ring.try_reserve(1024).unwrap();
    grant.spare_capacity_mut().fill(std::mem::MaybeUninit::new(b's'));
    grant.put_u8(b's');
    let committed = grant.commit();
    // Everything but the committed byte was wiped; looked at through an in-place grant of the rest and of the whole.
    for (bytes, known) in [(768, 0), (1024, 0)] {
        if bytes == 1024 {
            assert_eq!(committed[..], b"s"[..]);
        }
        let Ok(mut grant) = ring.try_reserve(bytes) else { continue };
        #[expect(unsafe_code, reason = "looks at what a former lap left")]
        // SAFETY: heap memory starts zeroed and was only ever written with bytes.
        unsafe {
            grant.assume_filled(bytes);
        }
        assert!(grant.filled()[known..].iter().all(|b| *b == 0));
    }
}

#[test]
fn the_oldest_lease_age_appears_and_goes() {
    let ring = ring(4);
    assert_eq!(ring.stats().oldest_lease_age, None);
    let held = lease(&ring, 1, 0);
    let first = ring.stats().oldest_lease_age.unwrap();
    let mut later = first;
    while later == first {
        later = ring.stats().oldest_lease_age.unwrap();
    }
    assert!(later > first && later < Duration::from_secs(3600));
    drop(held);
    assert_eq!(ring.stats().oldest_lease_age, None);
}

#[test]
fn threads_never_see_each_others_bytes() {
    let ring = Ring::builder().capacity(64 * GRANULE).poison(0xEE).build().unwrap();
    thread::scope(|scope| {
        for seed in 1..=4_u64 {
            let ring = ring.clone();
            scope.spawn(move || {
                let mut held: Vec<(u8, Bytes)> = Vec::new();
                let mut random = seed;
                for _ in 0..20_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let bytes = 1 + (random >> 33) as usize % 2000;
                    let fill = (random >> 40) as u8 & 0x3F;
                    if let Ok(mut grant) = ring.try_reserve(bytes) {
                        grant.put_bytes(fill, bytes - bytes / 3);
                        assert!(owner_of(grant.filled()).is_none());
                        held.push((fill, grant.commit()));
                    }
                    if held.len() > 4 || (random >> 50) % 3 == 0 {
                        let at = (random >> 20) as usize % held.len().max(1);
                        if at < held.len() {
                            let (fill, lease) = held.swap_remove(at);
                            let found = owner_of(&lease[lease.len() / 2..]).unwrap();
                            drop(lease);
                            assert!(found.iter().all(|b| *b == fill));
                        }
                    }
                }
            });
        }
    });
    assert_eq!(ring.stats().free, ring.capacity());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_wait_all_get_their_turn() {
    let ring = ring(16);
    let tasks: Vec<_> = (1..=8_usize)
        .map(|n| {
            let ring = ring.clone();
            tokio::spawn(async move {
                for _ in 0..500 {
                    let mut grant = ring.reserve(n * 2 * GRANULE).await.unwrap();
                    grant.put_bytes(n as u8, n * 2 * GRANULE);
                    let lease = grant.commit();
                    tokio::task::yield_now().await;
                    assert!(lease.iter().all(|b| *b == n as u8));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ring.stats().free, ring.capacity());
}

#[tokio::test]
async fn a_grant_is_a_target_of_tokios_read_buf() {
    use tokio::io::AsyncReadExt;
    let ring = ring(4);
    let mut grant = ring.reserve(8).await.unwrap();
    let mut source = &b"hello, world"[..];
    assert_eq!(source.read_buf(&mut grant).await.unwrap(), 8);
    assert_eq!(grant.commit(), "hello, w");
}

#[test]
fn a_granule_is_as_large_as_asked() {
    let ring = Ring::builder().capacity(10_000).granule(4096).build().unwrap();
    assert_eq!(ring.capacity(), 3 * 4096);
    let leases: Vec<Bytes> = (0..3).map(|n| lease(&ring, 1, n)).collect();
    assert_eq!((ring.stats().leased, leases[1].as_ptr().addr() - leases[0].as_ptr().addr()), (3 * 4096, 4096));
    for granule in [0, 128, 300] {
        let error = Ring::builder().capacity(1).granule(granule).build().unwrap_err();
        assert_eq!(error, RingError::BadGranule { granule });
        assert!(error.to_string().contains("power of two"));
    }
    let (pages, _log) = Pages::new(4);
    let ring = Ring::builder().granule(256).build_on(pages).unwrap();
    let _one = lease(&ring, 1, 1);
    assert_eq!(ring.stats().leased, Pages::UNIT, "no two leases share a unit");
}

#[test]
fn a_granule_as_large_as_the_ring_makes_one_lease_of_it() {
    for granule in [1 << 13, 1 << 63] {
        let ring = Ring::builder().granule(granule).build_on(HeapMemory::new(5001).unwrap()).unwrap();
        assert_eq!((ring.capacity(), ring.stats().free), (5001, 5001), "not rounded");
        assert!(matches!(ring.try_reserve(5002), Err(RingError::TooLong { longest: 5001, .. })));
        for _ in 0..2 {
            let whole = lease(&ring, 5001, 1);
            assert_eq!((whole.len(), ring.stats().leased, ring.stats().free), (5001, 5001, 0));
            assert_eq!(owner_of(&whole[5000..]).unwrap(), [1][..]);
            assert!(matches!(ring.try_reserve(1), Err(RingError::Full { free: 0, .. })));
            drop(whole);
            drop(lease(&ring, 1, 1));
        }
    }
    let heap = Ring::builder().capacity(1000).granule(1024).build().unwrap();
    assert_eq!((heap.capacity(), heap.stats().free), (1000, 1000));
    let error = Ring::builder().capacity(5000).granule(8192).build_on(HeapMemory::new(4999).unwrap()).unwrap_err();
    assert_eq!(error, RingError::MemoryTooSmall { capacity: 5000, len: 4999 });
}
