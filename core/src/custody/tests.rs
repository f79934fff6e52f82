use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn open(custody: &mut Custody, bytes: usize) -> u32 {
    let id = custody.open([Bytes::from(vec![0; bytes])], Instant::now());
    custody.settle(id, bytes, &mut Released::new());
    id
}

#[test]
fn out_of_order_completion_gives_memory_back_but_holds_the_watermark() {
    let mut custody = Custody::default();
    let ids: Vec<_> = (0..3).map(|_| open(&mut custody, 10)).collect();
    let mut out = Released::new();
    assert_eq!(custody.complete(ids[2], ids[2], Instant::now(), &mut out), 1);
    assert_eq!((out.len(), custody.released(), custody.pinned()), (1, 0, 20));
    custody.complete(ids[0], ids[1], Instant::now(), &mut out);
    assert_eq!((out.len(), custody.released(), custody.pinned()), (3, 30, 0));
}

#[test]
fn a_notification_that_overtakes_the_call_is_not_lost() {
    let mut custody = Custody::default();
    let id = custody.open([Bytes::from_static(b"abcdef")], Instant::now());
    let mut out = Released::new();
    assert_eq!(custody.complete(id, id, Instant::now(), &mut out), 1);
    custody.settle(id, 4, &mut out);
    assert_eq!((custody.accepted(), custody.released(), custody.pinned(), custody.is_empty()), (4, 4, 0, true));
    assert_eq!(custody.next_id(), id.wrapping_add(1));
}

#[test]
fn a_failed_send_takes_no_id_and_a_partial_one_keeps_only_what_was_accepted() {
    let mut custody = Custody::starting_at(u32::MAX);
    let id = custody.open([Bytes::from_static(b"abc")], Instant::now());
    let mut out = Released::new();
    custody.settle(id, 0, &mut out);
    assert_eq!((out.len(), custody.pinned(), custody.next_id()), (1, 0, u32::MAX));

    let parts = [&b"abc"[..], b"def", b"ghi"].map(Bytes::from_static);
    let id = custody.open(parts, Instant::now());
    assert_eq!(id, u32::MAX);
    out.clear();
    custody.settle(id, 4, &mut out);
    assert_eq!((out.len(), custody.pinned(), custody.accepted(), custody.next_id()), (1, 4, 4, 0));
}

#[test]
fn notifications_for_nobody_are_counted_and_release_nothing() {
    let mut custody = Custody::default();
    let id = open(&mut custody, 8);
    let mut out = Released::new();
    assert_eq!(custody.complete(id.wrapping_add(1), id.wrapping_add(5), Instant::now(), &mut out), 0);
    assert_eq!(custody.complete(id.wrapping_sub(3), id.wrapping_sub(1), Instant::now(), &mut out), 0);
    assert_eq!((custody.strays(), custody.pinned(), out.len()), (8, 8, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Send { bytes: usize, accepted: usize },
    Copy(usize),
    Complete { which: prop::sample::Index, span: u32 },
    Duplicate(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..100, 0usize..100).prop_map(|(bytes, a)| Step::Send { bytes, accepted: a.min(bytes) }),
        (1usize..50).prop_map(Step::Copy),
        (any::<prop::sample::Index>(), 0u32..6).prop_map(|(which, span)| Step::Complete { which, span }),
        any::<prop::sample::Index>().prop_map(Step::Duplicate),
    ]
}

proptest! {
    /// Against a model that knows, per id, the byte range and whether it was notified.
    #[test]
    fn memory_is_in_custody_exactly_from_the_call_to_its_notification(
        first_id in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut custody = Custody::starting_at(first_id);
        let mut model: Vec<(u64, u64, bool)> = Vec::new();
        let mut end = 0u64;
        let mut gone = HashSet::new();
        for step in steps {
            let mut out = Released::new();
            match step {
                Step::Send { bytes, accepted } => {
                    let number = model.len() as u64;
                    let mut memory = vec![0; bytes.max(8)];
                    memory[..8].copy_from_slice(&number.to_le_bytes());
                    let id = custody.open([Bytes::from(memory)], Instant::now());
                    prop_assert_eq!(id, first_id.wrapping_add(number as u32));
                    custody.settle(id, accepted, &mut out);
                    if accepted > 0 {
                        model.push((end, end + accepted as u64, false));
                        end += accepted as u64;
                        prop_assert!(out.is_empty());
                    }
                    out.clear();
                }
                Step::Copy(bytes) => {
                    custody.copied(bytes);
                    end += bytes as u64;
                }
                Step::Complete { which, span } if !model.is_empty() => {
                    let first = which.index(model.len());
                    let last = (first + span as usize).min(model.len() - 1);
                    let fresh = model[first..=last].iter().filter(|entry| !entry.2).count();
                    model[first..=last].iter_mut().for_each(|entry| entry.2 = true);
                    let id = |n: usize| first_id.wrapping_add(n as u32);
                    prop_assert_eq!(custody.complete(id(first), id(last), Instant::now(), &mut out) as usize, fresh);
                }
                Step::Duplicate(which) if !model.is_empty() => {
                    let n = which.index(model.len());
                    if model[n].2 {
                        let id = first_id.wrapping_add(n as u32);
                        prop_assert_eq!(custody.complete(id, id, Instant::now(), &mut out), 0);
                    }
                }
                Step::Complete { .. } | Step::Duplicate(_) => {}
            }
            for memory in out {
                let number = u64::from_le_bytes(memory[..8].try_into().unwrap());
                prop_assert!(model[number as usize].2, "released before its notification");
                prop_assert!(gone.insert(number), "released twice");
            }
            let held = model.iter().filter(|entry| !entry.2);
            prop_assert_eq!(custody.pinned(), held.clone().map(|entry| entry.1 - entry.0).sum::<u64>());
            prop_assert_eq!(custody.released(), held.map(|entry| entry.0).min().unwrap_or(end));
            prop_assert_eq!(gone.len(), model.iter().filter(|entry| entry.2).count());
        }
    }
}
