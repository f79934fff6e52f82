//! A ring's allocator against a naive model.

#[path = "support/pages.rs"]
mod pages;
mod support;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use zerosink_core::{
    region::owner_of,
    ring::{Ring, RingError},
};

use pages::{Log, Pages};
use support::{GRANULE, lease, ring};

#[derive(Debug, Clone)]
enum Step {
    Lease(usize, usize),
    Cancel(usize),
    Drop(usize),
}

/// Of up to twelve granules.
fn steps(granule: usize) -> impl Strategy<Value = Vec<Step>> {
    let bytes = 1..12 * granule;
    let step = prop_oneof![
        3 => (bytes.clone(), any::<usize>()).prop_map(|(n, filled)| Step::Lease(n, filled % (n + 1))),
        1 => bytes.prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..200)
}

const GRANULES: usize = 32;

/// The model is one flag per granule, and one more for those that came back and have not got fresh pages since.
fn agree(ring: &Ring, granule: usize, steps: Vec<Step>, log: Option<&Log>) -> Result<(), TestCaseError> {
    let base = ring.try_reserve(ring.capacity()).unwrap().as_mut_slice().as_ptr().addr();
    let (mut used, mut stale) = ([false; GRANULES], [false; GRANULES]);
    let mut held: Vec<(u8, Bytes)> = Vec::new();
    let room = |used: &[bool; GRANULES], n: usize| used.windows(n).any(|run| run.iter().all(|u| !u));
    let granules = |lease: &Bytes| {
        let at = (lease.as_ptr().addr() - base) / granule;
        at..at + lease.len().div_ceil(granule)
    };
    for (i, step) in steps.into_iter().enumerate() {
        let reserve = |bytes| {
            let reserved = ring.try_reserve(bytes);
            let recycled = log.map(|log| std::mem::take(&mut *log.recycled.lock().unwrap())).unwrap_or_default();
            (reserved, recycled.into_iter().map(|range| range.start / granule..range.end / granule))
        };
        match step {
            Step::Lease(bytes, filled) => {
                let (reserved, recycled) = reserve(bytes);
                for range in recycled {
                    prop_assert!(used[range.clone()].iter().all(|used| !used), "pages of a lease were replaced");
                    prop_assert!(stale[range.clone()].iter().all(|stale| *stale), "pages were replaced for nothing");
                    stale[range].fill(false);
                }
                match reserved {
                    Ok(mut grant) => {
                        prop_assert!(room(&used, bytes.div_ceil(granule)));
                        grant.put_bytes(i as u8, filled);
                        let lease = grant.commit();
                        prop_assert_eq!(lease.len(), filled);
                        if filled > 0 {
                            let its = granules(&lease);
                            prop_assert!(used[its.clone()].iter().all(|used| !used), "two leases on one granule");
                            prop_assert!(stale[its.clone()].iter().all(|stale| !stale), "old pages are written");
                            used[its].fill(true);
                            held.push((i as u8, lease));
                        }
                    }
                    Err(error) => {
                        let full = matches!(error, RingError::Full { .. });
                        prop_assert!(full);
                        prop_assert!(!room(&used, bytes.div_ceil(granule)), "there was room for {bytes}");
                    }
                }
            }
            Step::Cancel(bytes) => {
                let (_, recycled) = reserve(bytes);
                recycled.for_each(|range| stale[range].fill(false));
            }
            Step::Drop(which) if !held.is_empty() => {
                let (fill, lease) = held.swap_remove(which % held.len());
                prop_assert!(lease.iter().all(|b| *b == fill));
                used[granules(&lease)].fill(false);
                stale[granules(&lease)].fill(log.is_some());
            }
            Step::Drop(_) => {}
        }
        let leased = used.iter().filter(|u| **u).count() * granule;
        let stats = ring.stats();
        prop_assert_eq!((stats.leased, stats.granted, stats.free), (leased, 0, ring.capacity() - leased));
        for (_, lease) in &held {
            let found = owner_of(lease);
            prop_assert_eq!(found.as_ref(), Some(lease));
        }
    }
    held.clear();
    drop(lease(ring, ring.capacity(), 0));
    Ok(())
}

proptest! {
    #[test]
    fn the_allocator_agrees_with_a_naive_model(steps in steps(GRANULE)) {
        agree(&ring(GRANULES), GRANULE, steps, None)?;
    }

    #[test]
    fn pages_are_fresh_when_they_are_granted_and_replaced_for_nothing_else(steps in steps(Pages::UNIT)) {
        let (pages, log) = Pages::new(GRANULES);
        agree(&Ring::builder().build_on(pages).unwrap(), Pages::UNIT, steps, Some(&log))?;
    }
}
