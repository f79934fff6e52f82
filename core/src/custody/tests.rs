use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn send(custody: &mut Custody, until: Until, start: u64, bytes: usize) -> u64 {
    let number = custody.open(until, start, [Bytes::from(vec![0; bytes])], Instant::now());
    custody.settle(number, bytes, &mut Released::new());
    number
}

#[test]
fn out_of_order_notification_gives_memory_back_but_holds_the_watermark() {
    let mut custody = Custody::default();
    for start in [0, 10, 20] {
        send(&mut custody, Until::Notified, start, 10);
    }
    let mut out = Released::new();
    assert_eq!(custody.notify(2, 2, Instant::now(), &mut out), 1);
    assert_eq!((out.len(), custody.released(), custody.pinned()), (1, Some(0), 20));
    custody.notify(0, 1, Instant::now(), &mut out);
    assert_eq!((out.len(), custody.released(), custody.pinned()), (3, None, 0));
}

#[test]
fn a_notification_that_overtakes_the_call_is_not_lost() {
    let mut custody = Custody::default();
    let number = custody.open(Until::Notified, 0, [Bytes::from_static(b"abcdef")], Instant::now());
    let mut out = Released::new();
    assert_eq!(custody.notify(0, 0, Instant::now(), &mut out), 1);
    assert!(!custody.is_empty(), "the call has not returned");
    custody.settle(number, 4, &mut out);
    assert_eq!((custody.released(), custody.pinned(), custody.is_empty()), (None, 0, true));
    assert_eq!((custody.next_number(), custody.next_id()), (1, 1));
}

#[test]
fn a_failed_send_takes_no_id_and_a_partial_one_keeps_only_what_was_accepted() {
    let mut custody = Custody::starting_at(u32::MAX);
    let number = custody.open(Until::Notified, 0, [Bytes::from_static(b"abc")], Instant::now());
    let mut out = Released::new();
    custody.settle(number, 0, &mut out);
    assert_eq!((out.len(), custody.pinned(), custody.next_id()), (1, 0, u32::MAX));

    for until in [Until::Notified, Until::Completed, Until::Reached] {
        let mut custody = Custody::starting_at(u32::MAX);
        let parts = [&b"abc"[..], b"def", b"ghi"].map(Bytes::from_static);
        let number = custody.open(until, 0, parts, Instant::now());
        out.clear();
        custody.settle(number, 4, &mut out);
        let reaching = if until == Until::Reached { 4 } else { 0 };
        assert_eq!((out.len(), custody.pinned(), custody.reaching()), (1, 4, reaching));
        assert_eq!(custody.next_id(), if until == Until::Notified { 0 } else { u32::MAX });
    }
}

#[test]
fn a_send_that_is_released_when_its_call_returns_leaves_custody_at_once_and_is_counted_as_pinned() {
    let mut custody = Custody::default();
    let mut out = Released::new();
    let first = send(&mut custody, Until::Completed, 0, 10);
    let second = custody.open(Until::Completed, 10, [Bytes::from_static(b"abcdef")], Instant::now());
    custody.settle_released(second, &mut out);
    assert_eq!((out.len(), custody.pinned(), custody.high_water(), custody.released()), (1, 10, 16, Some(0)));
    assert!(!custody.complete(second, Instant::now(), &mut out), "it was released");
    assert!(custody.complete(first, Instant::now(), &mut out));
    assert!(custody.is_empty() && custody.strays() == 1 && custody.next_number() == 2);
}

#[test]
fn notifications_for_nobody_are_counted_and_release_nothing() {
    let mut custody = Custody::default();
    send(&mut custody, Until::Notified, 0, 8);
    send(&mut custody, Until::Reached, 8, 8);
    let mut out = Released::new();
    assert_eq!(custody.notify(1, 5, Instant::now(), &mut out), 0, "a send that waits for the peer has no id");
    assert_eq!(custody.notify(u32::MAX - 2, u32::MAX, Instant::now(), &mut out), 0);
    assert!(!custody.complete(7, Instant::now(), &mut out));
    assert_eq!((custody.strays(), custody.pinned(), out.len()), (9, 16, 0));
}

#[test]
fn what_the_peer_has_is_released_piece_by_piece() {
    let mut custody = Custody::default();
    let parts = [&b"abc"[..], b"def", b"ghi"].map(Bytes::from_static);
    let number = custody.open(Until::Reached, 100, parts, Instant::now());
    let mut out = Released::new();
    custody.settle(number, 8, &mut out);
    assert_eq!(custody.reach(102, Instant::now(), &mut out), 0, "two bytes of a piece of three");
    assert_eq!(custody.reach(103, Instant::now(), &mut out), 3);
    assert_eq!((custody.released(), custody.reaching(), out.len()), (Some(103), 5, 1));
    assert_eq!(custody.reach(107, Instant::now(), &mut out), 3);
    assert_eq!(custody.reach(108, Instant::now(), &mut out), 2, "the last piece was accepted in part");
    assert_eq!((custody.released(), custody.pinned(), out.len()), (None, 0, 3));
}

#[test]
fn abandoned_is_what_waits_for_the_peer_and_nothing_else() {
    let mut custody = Custody::default();
    send(&mut custody, Until::Notified, 0, 4);
    send(&mut custody, Until::Reached, 4, 5);
    send(&mut custody, Until::Completed, 9, 6);
    let mut out = Released::new();
    assert_eq!(custody.abandon(&mut out), Some((5, 4)));
    assert_eq!((out.len(), custody.pinned(), custody.reaching(), custody.released()), (1, 10, 0, Some(0)));
    assert_eq!(custody.abandon(&mut out), None);
}

#[derive(Debug, Clone)]
enum Step {
    Send { until: Until, bytes: usize, accepted: usize },
    Copy(usize),
    Notify { which: prop::sample::Index, span: u32 },
    Complete(prop::sample::Index),
    Reach(prop::sample::Index),
    Abandon,
}

fn step() -> impl Strategy<Value = Step> {
    let until = prop_oneof![2 => Just(Until::Notified), 1 => Just(Until::Completed), 1 => Just(Until::Reached)];
    let which = any::<prop::sample::Index>;
    prop_oneof![
        6 => (until, 1usize..100, 0usize..100).prop_map(|(until, bytes, a)| Step::Send { until, bytes, accepted: a.min(bytes) }),
        2 => (1usize..50).prop_map(Step::Copy),
        4 => (which(), 0u32..6).prop_map(|(which, span)| Step::Notify { which, span }),
        3 => which().prop_map(Step::Complete),
        3 => which().prop_map(Step::Reach),
        1 => Just(Step::Abandon),
    ]
}

/// What the model knows of a send that accepted something.
#[derive(Debug, Clone)]
struct Sent {
    until: Until,
    start: u64,
    end: u64,
    /// Notified, completed, reached or abandoned.
    over: bool,
}

proptest! {
    /// Against a model that knows, per send, the byte range, what it waits for, and whether that has come.
    #[test]
    fn memory_is_in_custody_exactly_from_the_call_to_what_ends_it(
        first_id in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut custody = Custody::starting_at(first_id);
        let mut model: Vec<Sent> = Vec::new();
        let mut end = 0u64;
        let mut gone = HashSet::new();
        for step in steps {
            let mut out = Released::new();
            match step {
                Step::Send { until, bytes, accepted } => {
                    let number = model.len() as u64;
                    let mut memory = vec![0; bytes.max(8)];
                    memory[..8].copy_from_slice(&number.to_le_bytes());
                    prop_assert_eq!(custody.open(until, end, [Bytes::from(memory)], Instant::now()), number);
                    custody.settle(number, accepted, &mut out);
                    if accepted > 0 {
                        model.push(Sent { until, start: end, end: end + accepted as u64, over: false });
                        end += accepted as u64;
                        prop_assert!(out.is_empty());
                    }
                    out.clear();
                }
                Step::Copy(bytes) => end += bytes as u64,
                Step::Notify { which, span } => {
                    // Positions in the model of the sends that have ids, in order of their ids.
                    let ids: Vec<usize> = (0..model.len()).filter(|n| model[*n].until == Until::Notified).collect();
                    if ids.is_empty() { continue }
                    let first = which.index(ids.len());
                    let last = (first + span as usize).min(ids.len() - 1);
                    let fresh = ids[first..=last].iter().filter(|n| !model[**n].over).count();
                    ids[first..=last].iter().for_each(|n| model[*n].over = true);
                    let id = |n: usize| first_id.wrapping_add(n as u32);
                    prop_assert_eq!(custody.notify(id(first), id(last), Instant::now(), &mut out) as usize, fresh);
                }
                Step::Complete(which) => {
                    let made: Vec<usize> = (0..model.len()).filter(|n| model[*n].until == Until::Completed).collect();
                    if made.is_empty() { continue }
                    let number = made[which.index(made.len())];
                    prop_assert_eq!(custody.complete(number as u64, Instant::now(), &mut out), !model[number].over);
                    model[number].over = true;
                }
                Step::Reach(which) => {
                    let upto = which.index(end as usize + 1) as u64;
                    custody.reach(upto, Instant::now(), &mut out);
                    let reached = |sent: &&mut Sent| sent.until == Until::Reached && sent.end <= upto;
                    model.iter_mut().filter(reached).for_each(|sent| sent.over = true);
                }
                Step::Abandon => {
                    let held = |sent: &&mut Sent| sent.until == Until::Reached && !sent.over;
                    let bytes: u64 = model.iter_mut().filter(held).map(|sent| { sent.over = true; sent.end - sent.start }).sum();
                    prop_assert_eq!(custody.abandon(&mut out).map_or(0, |(bytes, _)| bytes), bytes);
                }
            }
            for memory in out {
                let number = u64::from_le_bytes(memory[..8].try_into().unwrap());
                prop_assert!(model[number as usize].over, "released before what it waits for");
                prop_assert!(gone.insert(number), "released twice");
            }
            let held = model.iter().filter(|sent| !sent.over);
            prop_assert_eq!(custody.pinned(), held.clone().map(|sent| sent.end - sent.start).sum::<u64>());
            let reaching = held.clone().filter(|sent| sent.until == Until::Reached);
            prop_assert_eq!(custody.reaching(), reaching.map(|sent| sent.end - sent.start).sum::<u64>());
            prop_assert_eq!(custody.released(), held.map(|sent| sent.start).min());
            prop_assert_eq!(gone.len(), model.iter().filter(|sent| sent.over).count());
        }
    }
}

#[test]
fn what_was_abandoned_is_never_released() {
    use std::task::{Context, Poll, Waker};

    let ledger = Ledger::default();
    ledger.open(Until::Reached, [Bytes::from_static(b"abc"), Bytes::from_static(b"def")]).accepted(6);
    ledger.passed(4);
    assert_eq!((ledger.reach(3), ledger.released()), (3, 3));
    assert_eq!(ledger.abandon(), 3);
    assert_eq!(ledger.abandon(), 0, "once");
    assert_eq!((ledger.is_empty(), ledger.pinned(), ledger.accepted()), (true, 0, 10));
    assert_eq!(ledger.released(), 3, "nobody has said that it is");
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(ledger.poll_released(&mut cx, 3), Poll::Ready(Ok(())));
    assert_eq!(ledger.poll_released(&mut cx, 4).map_err(|error| error.quarantined), Poll::Ready(Err(3)));
}
