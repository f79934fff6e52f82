//! Properties of `owner_of`, `facts_of` and registered ranges.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use zerosink_core::{
    memory::{Backing, HeapMemory, Memory},
    region::{facts_of, owner_of, register},
    ring::Ring,
};

use support::{GRANULE, lease, ring};

#[test]
fn clone_from_the_table_is_a_handle_like_any_other() {
    let ring = ring(4);
    for _ in 0..100 {
        let lease = lease(&ring, 300, 3);
        let found = owner_of(&lease[1..299]).unwrap();
        assert_eq!((found.as_ptr(), found.len()), (lease[1..].as_ptr(), 298));
        drop(lease);
        let again = owner_of(&found).unwrap();
        drop(found);
        assert_eq!(ring.stats().leased, 512, "the last handle keeps the lease");
        assert!(again.iter().all(|b| *b == 3));
        assert!(again.try_into_mut().is_err(), "a lease cannot become mutable");
        assert_eq!(ring.stats().leased, 0);
    }
}

#[test]
fn grants_and_strangers_have_no_owner() {
    let ring = ring(8);
    let before = lease(&ring, 100, 0);
    let mut grant = ring.try_reserve(1000).unwrap();
    grant.put_bytes(1, 1000);
    assert!(owner_of(grant.filled()).is_none() && owner_of(&grant.filled()[500..]).is_none());
    assert_eq!(facts_of(grant.filled()).unwrap().backing, Backing::Heap);
    assert!(owner_of(&before[..0]).is_none() && owner_of(&[]).is_none() && facts_of(&before[..0]).is_none());
    let stranger = vec![1_u8; 100];
    assert!(owner_of(&stranger).is_none() && facts_of(&stranger).is_none());
    assert_eq!(owner_of(&before).unwrap(), before);
    assert_eq!(facts_of(&before), Some(ring.facts()));
}

#[test]
fn a_slice_across_two_leases_has_no_owner() {
    let ring = ring(2);
    let (one, two) = (lease(&ring, GRANULE, 1), lease(&ring, GRANULE, 2));
    assert_eq!(one.as_ptr().addr() + GRANULE, two.as_ptr().addr());
    #[expect(unsafe_code, reason = "makes the slice that safe code cannot")]
    // SAFETY: both leases lie side by side in one allocation and are alive, initialised and unwritten.
    let across = unsafe { std::slice::from_raw_parts(one.as_ptr(), 2 * GRANULE) };
    assert!(owner_of(across).is_none() && owner_of(&across[200..300]).is_none());
    assert_eq!(owner_of(&across[..GRANULE]).unwrap(), one);
    assert_eq!(owner_of(&across[GRANULE..]).unwrap(), two);
}

#[test]
fn a_large_lease_is_found_from_any_of_its_bytes() {
    let ring = Ring::builder().capacity(8 << 20).build().unwrap();
    let _before = lease(&ring, 1, 0);
    let large = lease(&ring, (8 << 20) - 512, 1);
    let _after = lease(&ring, 1, 0);
    for at in (0..large.len()).step_by(4093) {
        assert_eq!(owner_of(&large[at..]).unwrap().len(), large.len() - at);
    }
}

#[test]
fn registered_ranges_are_found_while_registered() {
    let body = Bytes::from(vec![5_u8; 5 << 20]);
    assert!(owner_of(&body).is_none());
    let first = register(body.clone());
    let second = register(body.clone());
    assert_eq!(owner_of(&body[3 << 20..]).unwrap().as_ptr(), body[3 << 20..].as_ptr());
    drop(first);
    let found = owner_of(&body[10..20]).unwrap();
    assert_eq!(facts_of(&body), None);
    drop(second);
    assert!(owner_of(&body).is_none());
    assert_eq!(found, body[10..20]);
    assert_eq!(register(Bytes::new()).bytes().len(), 0);
}

#[test]
fn a_registered_range_is_kept_alive() {
    struct Owner(Arc<AtomicBool>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            b"kept alive"
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicBool::new(false));
    let registration = register(Bytes::from_owner(Owner(gone.clone())));
    let found = owner_of(&registration.bytes()[5..]).unwrap();
    drop(registration);
    assert!(!gone.load(Ordering::SeqCst));
    drop(found);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn rings_come_and_go_while_others_are_looked_up() {
    let ring = ring(4);
    let kept = lease(&ring, 1000, 1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                let rings: Vec<Ring> = (0..40).map(|_| self::ring(1)).collect();
                for ring in &rings {
                    let lease = lease(ring, 10, 2);
                    assert_eq!(owner_of(&lease).unwrap(), lease);
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            assert_eq!(owner_of(&kept[5..]).unwrap().len(), 995);
        }
    });
}

#[test]
fn a_range_is_found_at_every_moment_while_wider_ones_come_and_go() {
    let body = Bytes::from(vec![1_u8; 1 << 20]);
    let middle = body.slice(400_000..400_100);
    let _registered = register(middle.clone());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for lap in 0..20_000_usize {
                // Each of them takes the place of the one within it, at another level most times.
                let wider: Vec<_> = (1..4)
                    .map(|n| register(body.slice(400_000 - n * (lap % 100_000)..400_100 + (lap << n) % 500_000)))
                    .collect();
                drop(wider);
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            assert_eq!(owner_of(&middle[10..90]).map(|found| found.len()), Some(80));
            assert!(owner_of(&body[..1]).is_none(), "nobody ever registered that");
        }
    });
}

#[test]
fn one_body_can_be_registered_a_thousand_times() {
    let body = Bytes::from(vec![1_u8; 10_000]);
    let mut registered: Vec<_> = (0..1000).map(|_| register(body.clone())).collect();
    let part = register(body.slice(10..20));
    while let Some(first) = (!registered.is_empty()).then(|| registered.remove(0)) {
        assert_eq!(owner_of(&body).unwrap(), body);
        drop(first);
    }
    assert!(owner_of(&body).is_none() && owner_of(&body[10..20]).is_some());
    drop(part);
    assert!(owner_of(&body[10..20]).is_none());
}

#[test]
fn threads_that_read_one_range_at_once_all_get_it() {
    let body = Bytes::from(vec![7_u8; 1000]);
    let registered = register(body.clone());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..20_000).for_each(|n| assert_eq!(owner_of(&body[n % 1000..]).unwrap().len(), 1000 - n % 1000))
            });
        }
    });
    drop(registered);
    assert!(body.is_unique(), "every handle that was found is gone");
}

proptest! {
    /// The model asks every registered range.
    #[test]
    fn registered_ranges_agree_with_a_naive_model(
        ranges in prop::collection::vec((0..64_usize, 1..64_usize, any::<bool>(), any::<usize>()), 1..60),
        big in any::<bool>(),
    ) {
        // In steps of 64 KiB the ranges cross blocks, in steps of one byte they do not.
        let step = if big { 65536 } else { 1 };
        let body = Bytes::from_owner(HeapBytes(HeapMemory::new(128 * step).unwrap()));
        let mut registered = Vec::new();
        for (start, len, remove, which) in ranges {
            let range = start * step..(start + len) * step;
            registered.push((range.clone(), register(body.slice(range))));
            if remove {
                drop(registered.swap_remove(which % registered.len()));
            }
            for asked in [start..start + len, start..start + 1, start + len / 2..start + len, which % 64..which % 64 + 3] {
                let asked = asked.start * step..asked.end * step;
                let expected = registered.iter().any(|(r, _)| r.start <= asked.start && asked.end <= r.end);
                let found = owner_of(&body[asked.clone()]);
                prop_assert_eq!(found.is_some(), expected);
                prop_assert!(found.is_none_or(|f| f.as_ptr() == body[asked.clone()].as_ptr() && f.len() == asked.len()));
            }
        }
        registered.clear();
        prop_assert!(owner_of(&body).is_none());
    }
}

struct HeapBytes(HeapMemory);

impl AsRef<[u8]> for HeapBytes {
    #[expect(unsafe_code, reason = "a megabyte of zeroes that costs nothing")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: zeroed, and nobody writes it.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().as_ptr(), self.0.len()) }
    }
}
