//! What a lease costs: reserve, commit, drop, on one thread.

#![allow(missing_docs, clippy::allow_attributes, reason = "criterion_group! makes an undocumented function")]

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::{BufMut, Bytes};
use criterion::{Criterion, criterion_group, criterion_main};
use zerosink_core::ring::Ring;

/// A lease of eight bytes comes and goes.
#[inline]
fn lease(ring: &Ring, reserved: usize) {
    let mut grant = ring.try_reserve(reserved).expect("space");
    grant.put_u64(black_box(7));
    assert_eq!(grant.commit().len(), 8);
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    let ring = Ring::builder().capacity(1 << 20).build().expect("a ring");

    // A piece of 4 KiB is filled with 8 bytes, so that the commit gives the rest back.
    group.bench_function("reserve_commit_drop", |b| b.iter(|| lease(&ring, 4096)));
    // What was reserved is filled.
    group.bench_function("reserve_commit_drop_full", |b| b.iter(|| lease(&ring, 8)));
    group.bench_function("reserve_commit_drop_full/beside_another_thread", |b| {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    lease(&ring, 8);
                }
            });
            b.iter(|| lease(&ring, 8));
            done.store(true, Ordering::Relaxed);
        });
    });
    group.bench_function("reserve_cancel", |b| b.iter(|| drop(ring.try_reserve(4096).expect("space"))));
    // The owned handle that Bytes itself offers, without a ring: the floor.
    group.bench_function("bytes_from_owner_floor", |b| b.iter(|| drop(Bytes::from_owner(black_box([7_u8; 56])))));

    // 64 leases of 4 KiB in flight, the oldest returned as the newest is taken.
    group.bench_function("window_of_64", |b| {
        let mut window: Vec<Bytes> = vec![Bytes::new(); 64];
        let mut at = 0;
        b.iter(|| {
            let mut grant = ring.try_reserve(4096).expect("space");
            grant.put_u64(black_box(7));
            window[at] = grant.commit();
            at = (at + 1) % window.len();
        });
    });
    group.finish();
    assert_eq!(ring.stats().free, ring.capacity(), "everything came back");
}

criterion_group!(benches, ring);
criterion_main!(benches);
