//! What it costs to find out whose memory a slice is, while another thread inserts and removes.

#![allow(missing_docs, clippy::allow_attributes, reason = "criterion_group! makes an undocumented function")]

use std::{
    hint::black_box,
    mem::ManuallyDrop,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::{BufMut, Bytes};
use criterion::{Criterion, criterion_group, criterion_main};
use zerosink_core::{
    region::{Registration, owner_of, register},
    ring::Ring,
};

/// Leases of 1 KiB from one ring.
fn leases(ring: &Ring, count: usize) -> Vec<Bytes> {
    let lease = |_| {
        let mut grant = ring.try_reserve(1024).expect("space");
        grant.put_bytes(7, 1024);
        grant.commit()
    };
    (0..count).map(lease).collect()
}

/// Asks for the ranges in a fixed stride that skips about. The call is measured, not the drop of its answer: answers are
/// forgotten, so the ranges of a bench stay until the process ends.
fn bench(c: &mut Criterion, name: &str, ranges: &[Bytes]) {
    let slices: Vec<&[u8]> = (0..ranges.len()).map(|n| &ranges[n * 7919 % ranges.len()][10..1000]).collect();
    let mut next = slices.iter().cycle();
    c.bench_function(name, |b| {
        b.iter(|| {
            let slice = *next.next().expect("a cycle");
            let owner = ManuallyDrop::new(owner_of(black_box(slice)).expect("an owner"));
            assert_eq!(owner.as_ptr(), slice.as_ptr());
        });
    });
}

/// Runs `f` while another thread does `change` over and over.
fn beside(change: impl Fn() + Sync, f: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                change();
            }
        });
        f();
        done.store(true, Ordering::Relaxed);
    });
}

fn owner(c: &mut Criterion) {
    let heap = |_| Bytes::from(vec![7_u8; 1024]);
    let nobody = vec![7_u8; 1024];
    c.bench_function("owner_of/nobody", |b| b.iter(|| assert!(owner_of(black_box(&nobody)).is_none())));

    // What the answer itself costs, a clone, and what the loop of the bench does: the floors of what follows. What the
    // answer's drop costs is the difference between the two clones.
    let lease = leases(&Ring::builder().capacity(1024).build().expect("a ring"), 1).remove(0);
    let slices = [&lease[10..1000]];
    let mut next = slices.iter().cycle();
    c.bench_function("owner_of/loop_floor", |b| {
        b.iter(|| {
            let slice = black_box(*next.next().expect("a cycle"));
            assert_eq!(black_box(slice.as_ptr()), lease[10..].as_ptr());
        });
    });
    c.bench_function("owner_of/clone_floor", |b| {
        b.iter(|| {
            let clone = ManuallyDrop::new(black_box(&lease).clone());
            assert_eq!(clone.as_ptr(), lease.as_ptr());
        });
    });
    c.bench_function("owner_of/slice_floor", |b| {
        b.iter(|| {
            let part = ManuallyDrop::new(black_box(&lease).slice(black_box(10)..black_box(1000)));
            assert_eq!(part.as_ptr(), lease[10..].as_ptr());
        });
    });
    c.bench_function("owner_of/clone_and_drop_floor", |b| b.iter(|| black_box(&lease).clone()));

    for count in [1, 64, 10_000] {
        let ring = Ring::builder().capacity((count + 64) * 1024).build().expect("a ring");
        let held = leases(&ring, count);
        bench(c, &format!("owner_of/leases/{count}"), &held);
        beside(|| drop(leases(&ring, 8)), || bench(c, &format!("owner_of/leases/{count}/beside_leasing"), &held));
        beside(
            || drop(Ring::builder().capacity(4096).build()),
            || bench(c, &format!("owner_of/leases/{count}/beside_new_rings"), &held),
        );
    }
    for count in [1, 64, 10_000] {
        let ranges: Vec<Bytes> = (0..count).map(heap).collect();
        let _registered: Vec<Registration> = ranges.iter().cloned().map(register).collect();
        bench(c, &format!("owner_of/registered/{count}"), &ranges);
        let other = heap(0);
        beside(
            || drop(register(other.clone())),
            || bench(c, &format!("owner_of/registered/{count}/beside_registering"), &ranges),
        );
    }
    let other = heap(0);
    c.bench_function("owner_of/register_and_drop", |b| b.iter(|| drop(register(other.clone()))));
    let rings: Vec<Ring> = (0..10_000).map(|_| Ring::builder().capacity(1024).build().expect("a ring")).collect();
    let held: Vec<Bytes> = rings.iter().flat_map(|ring| leases(ring, 1)).collect();
    bench(c, "owner_of/rings/10000", &held);
}

criterion_group!(benches, owner);
criterion_main!(benches);
