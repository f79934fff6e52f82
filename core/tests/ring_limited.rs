//! Handles that have only so many leases out.

mod support;

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
};

use bytes::{BufMut as _, Bytes};
use proptest::prelude::*;
use zerosink_core::ring::{Grant, Reserve, Ring, RingError};

use support::{GRANULE, ring};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_with(future: &mut Reserve, waker: &Waker) -> Poll<Result<Grant, RingError>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn poll(future: &mut Reserve) -> Poll<Result<Grant, RingError>> {
    poll_with(future, Waker::noop())
}

fn lease(ring: &Ring) -> Bytes {
    support::lease(ring, 1, 1)
}

fn limited<T: std::fmt::Debug>(outcome: Result<T, RingError>) -> bool {
    matches!(outcome, Err(RingError::Limited { .. }))
}

#[test]
fn a_lease_counts_until_its_last_clone_is_gone() {
    let ring = ring(16);
    let two = ring.limited(2);
    assert_eq!((ring.limit(), two.limit(), two.clone().limit()), (None, Some(2), Some(2)));
    let grant = two.try_reserve(1).unwrap();
    let lease = lease(&two.clone());
    assert!(limited(two.try_reserve(1)), "clones share the limit");
    drop(grant);
    let custody = lease.clone();
    drop(lease);
    let grant = two.try_reserve(1).unwrap();
    assert!(limited(two.try_reserve(1)), "the clone holds the lease");
    drop(custody);
    drop((two.try_reserve(1).unwrap(), grant));
    // Others are not bound by it, nor it by them.
    let held: Vec<_> = (0..8).map(|_| ring.try_reserve(1).unwrap()).collect();
    drop((two.limited(1).try_reserve(1).unwrap(), two.try_reserve(1).unwrap(), held));
    assert_eq!(ring.stats().free, ring.capacity());
}

#[test]
fn an_empty_commit_and_a_failed_reservation_count_no_more() {
    let ring = ring(4);
    let one = ring.limited(1);
    assert!(one.try_reserve(1).unwrap().commit().is_empty());
    assert_eq!(one.try_reserve(0).err(), Some(RingError::ZeroReserve));
    let full = ring.try_reserve(4 * GRANULE).unwrap();
    assert!(matches!(one.try_reserve(1), Err(RingError::Full { .. })));
    drop(full);
    drop(one.try_reserve(1).unwrap());
    assert_eq!(ring.limited(0).limit(), Some(1));
}

#[test]
fn what_can_never_be_does_not_wait_for_the_limit() {
    let ring = ring(4);
    let one = ring.limited(1);
    let _held = lease(&one);
    assert!(matches!(poll(&mut one.reserve(5 * GRANULE)), Poll::Ready(Err(RingError::TooLong { .. }))));
    assert!(matches!(poll(&mut one.reserve(0)), Poll::Ready(Err(RingError::ZeroReserve))));
    assert!(poll(&mut one.reserve(1)).is_pending(), "the control");
}

#[test]
fn who_waits_for_the_limit_is_woken_in_order_and_finds_the_space() {
    let ring = ring(1);
    let one = ring.limited(1);
    let held = lease(&one);
    let wakes: [Arc<Wakes>; 2] = Default::default();
    let mut waiting = [one.reserve(1), one.reserve(1)];
    for (future, wakes) in waiting.iter_mut().zip(&wakes) {
        assert!(poll_with(future, &wakes.clone().into()).is_pending());
    }
    assert_eq!(ring.stats().waiters, 0, "they do not stand in the ring's queue");
    drop(held);
    let count = || wakes.each_ref().map(|wakes| wakes.0.load(Ordering::SeqCst));
    assert_eq!(count(), [1, 0]);
    assert!(limited(one.try_reserve(1)), "nobody overtakes who was served");
    assert!(poll(&mut waiting[1]).is_pending());
    let Poll::Ready(Ok(grant)) = poll(&mut waiting[0]) else { panic!("served") };
    drop(grant);
    assert!(matches!(poll(&mut waiting[1]), Poll::Ready(Ok(_))));
}

#[test]
fn a_reservation_with_a_permit_stands_in_the_rings_queue_like_any_other() {
    let ring = ring(4);
    let one = ring.limited(1);
    let all = ring.try_reserve(4 * GRANULE).unwrap();
    let (mut large, mut small) = (one.reserve(4 * GRANULE), ring.reserve(1));
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    drop(all);
    assert!(poll(&mut small).is_pending(), "the large one came first");
    let Poll::Ready(Ok(grant)) = poll(&mut large) else { panic!("served") };
    drop(grant);
    assert!(poll(&mut small).is_ready());
}

/// Wherever a reservation is when it is dropped, what it had goes to the next.
#[test]
fn a_dropped_reservation_loses_neither_permit_nor_space() {
    let ring = ring(1);
    let one = ring.limited(1);
    let held = lease(&one);
    // It waits for the permit; it has the permit and has not looked; it waits for space; it has space and has not looked.
    let mut waits = one.reserve(1);
    assert!(poll(&mut waits).is_pending());
    drop(waits);
    let (mut served, mut next) = (one.reserve(1), one.reserve(1));
    assert!(poll(&mut served).is_pending() && poll(&mut next).is_pending());
    drop(held);
    drop(served);
    let Poll::Ready(Ok(grant)) = poll(&mut next) else { panic!("the permit went on") };
    drop(grant);
    let all = ring.try_reserve(1).unwrap();
    let (mut waits, mut next) = (one.reserve(1), one.reserve(1));
    assert!(poll(&mut waits).is_pending() && poll(&mut next).is_pending());
    assert_eq!(ring.stats().waiters, 1);
    drop(waits);
    assert!(poll(&mut next).is_pending(), "it has the permit and stands for space");
    assert_eq!(ring.stats().waiters, 1);
    drop(all);
    drop(next);
    drop(one.try_reserve(1).unwrap());
    assert_eq!((ring.stats().free, ring.stats().waiters), (ring.capacity(), 0));
}

#[test]
fn threads_never_have_more_out_than_the_limit() {
    const LEASES: usize = 3;
    let ring = ring(64);
    let limited = ring.limited(LEASES);
    let (out, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let mut reserve = limited.reserve(GRANULE);
                    let waker = thread_waker();
                    let mut grant = loop {
                        match poll_with(&mut reserve, &waker) {
                            Poll::Ready(grant) => break grant.unwrap(),
                            Poll::Pending => thread::park(),
                        }
                    };
                    most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    grant.put_u8(1);
                    let lease = grant.commit();
                    out.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
    assert!((1..=LEASES).contains(&most.load(Ordering::SeqCst)));
    assert!(ring.stats().high_water <= LEASES * GRANULE, "{:?}", ring.stats());
    assert_eq!(ring.stats().free, ring.capacity());
}

fn thread_waker() -> Waker {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Arc::new(Unpark(thread::current())).into()
}

#[derive(Debug, Clone)]
enum Step {
    Reserve,
    Poll(usize),
    Cancel(usize),
    Return(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Reserve),
        3 => any::<usize>().prop_map(Step::Poll),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Return),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    /// The model: whoever came first and has not given up has a permit, as many as there are. Space is never short, so a permit is
    /// a grant.
    #[test]
    fn permits_agree_with_a_naive_queue(steps in steps(), leases in 1_usize..5) {
        let ring = ring(64);
        let limited = ring.limited(leases);
        let mut held = Vec::new();
        // In order of arrival; what is in front, up to the permits that are not held, is served.
        let mut queue: VecDeque<Reserve> = VecDeque::new();
        for step in steps {
            match step {
                Step::Reserve => {
                    let mut reserve = limited.reserve(1);
                    match poll(&mut reserve) {
                        Poll::Ready(grant) => {
                            prop_assert!(held.len() + queue.len() < leases);
                            held.push(grant.unwrap());
                        }
                        Poll::Pending => {
                            prop_assert!(held.len() + queue.len() >= leases);
                            queue.push_back(reserve);
                        }
                    }
                }
                Step::Poll(which) if !queue.is_empty() => {
                    let which = which % queue.len();
                    match poll(&mut queue[which]) {
                        Poll::Ready(grant) => {
                            prop_assert!(which < leases - held.len());
                            held.push(grant.unwrap());
                            drop(queue.remove(which));
                        }
                        Poll::Pending => prop_assert!(which >= leases - held.len()),
                    }
                }
                Step::Cancel(which) if !queue.is_empty() => drop(queue.remove(which % queue.len())),
                Step::Return(which) if !held.is_empty() => drop(held.swap_remove(which % held.len())),
                _ => {}
            }
            prop_assert!(held.len() <= leases);
        }
        drop((queue, held));
        let all: Vec<_> = (0..leases).map(|_| limited.try_reserve(1)).collect();
        prop_assert!(all.iter().all(Result::is_ok), "a permit was lost");
        prop_assert!(matches!(limited.try_reserve(1), Err(RingError::Limited { .. })), "a permit was made");
    }
}
