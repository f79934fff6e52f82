//! A ring's allocator against a naive model.

mod support;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use zerosink_core::{region::owner_of, ring::RingError};

use support::{GRANULE, lease, ring};

#[derive(Debug, Clone)]
enum Step {
    Lease(usize, usize),
    Cancel(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = 1..3000_usize;
    let step = prop_oneof![
        3 => (bytes.clone(), any::<usize>()).prop_map(|(n, filled)| Step::Lease(n, filled % (n + 1))),
        1 => bytes.prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// The model is one flag per granule.
    #[test]
    fn the_allocator_agrees_with_a_naive_model(steps in steps()) {
        const GRANULES: usize = 32;
        let ring = ring(GRANULES);
        let base = { let all = lease(&ring, GRANULES * GRANULE, 0); all.as_ptr().addr() };
        let mut used = [false; GRANULES];
        let mut held: Vec<(u8, Bytes)> = Vec::new();
        let room = |used: &[bool; GRANULES], n: usize| used.windows(n).any(|run| run.iter().all(|u| !u));
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Lease(bytes, filled) => match ring.try_reserve(bytes) {
                    Ok(mut grant) => {
                        prop_assert!(room(&used, bytes.div_ceil(GRANULE)));
                        grant.put_bytes(i as u8, filled);
                        let lease = grant.commit();
                        prop_assert_eq!(lease.len(), filled);
                        if filled > 0 {
                            let at = (lease.as_ptr().addr() - base) / GRANULE;
                            for granule in &mut used[at..at + filled.div_ceil(GRANULE)] {
                                prop_assert!(!*granule, "two leases on one granule");
                                *granule = true;
                            }
                            held.push((i as u8, lease));
                        }
                    }
                    Err(error) => {
                        let full = matches!(error, RingError::Full { .. });
                        prop_assert!(full);
                        prop_assert!(!room(&used, bytes.div_ceil(GRANULE)), "there was room for {bytes}");
                    }
                },
                Step::Cancel(bytes) => drop(ring.try_reserve(bytes)),
                Step::Drop(which) if !held.is_empty() => {
                    let (fill, lease) = held.swap_remove(which % held.len());
                    prop_assert!(lease.iter().all(|b| *b == fill));
                    let at = (lease.as_ptr().addr() - base) / GRANULE;
                    used[at..at + lease.len().div_ceil(GRANULE)].fill(false);
                }
                Step::Drop(_) => {}
            }
            let leased = used.iter().filter(|u| **u).count() * GRANULE;
            let stats = ring.stats();
            prop_assert_eq!((stats.leased, stats.granted, stats.free), (leased, 0, ring.capacity() - leased));
            for (_, lease) in &held {
                let found = owner_of(lease);
                prop_assert_eq!(found.as_ref(), Some(lease));
            }
        }
        held.clear();
        drop(lease(&ring, GRANULES * GRANULE, 0));
    }
}
