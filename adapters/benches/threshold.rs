//! From how many bytes on a frame on heap is worth an entry in the region table: what the layer adds to a frame, against the copy
//! that the entry can save. `ZeroCopyLayer::THRESHOLD` rests on it.

#![allow(missing_docs, clippy::allow_attributes, reason = "criterion_group! makes an undocumented function")]

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http_body::Body as _;
use zerosink_adapters::{body::RingBody, layer::ZeroCopyBody};
use zerosink_core::owner_of;

/// The way of a frame: out of the body, looked up, and gone, with custody that ends later.
fn frame(bytes: &Bytes, threshold: usize) -> bool {
    let mut body = pin!(ZeroCopyBody::new(RingBody::new(bytes.clone()), threshold));
    let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) else {
        return false;
    };
    let Ok(frame) = frame.into_data() else { return false };
    let custody = owner_of(black_box(&frame));
    drop(frame);
    custody.is_some()
}

fn threshold(c: &mut Criterion) {
    // Frames of others, as a busy server has them.
    let others: Vec<_> = (0..1000).map(|_| zerosink_core::region::register(Bytes::from(vec![1_u8; 20_000]))).collect();
    let mut group = c.benchmark_group("frame");
    for kib in [1, 2, 4, 8, 16, 32, 64, 256, 1024] {
        let bytes = Bytes::from(vec![7_u8; kib << 10]);
        let mut copy = vec![0_u8; bytes.len()];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("left alone", kib), |b| {
            b.iter(|| assert!(!frame(&bytes, usize::MAX)));
        });
        group.bench_function(BenchmarkId::new("entered", kib), |b| b.iter(|| assert!(frame(&bytes, 1))));
        group.bench_function(BenchmarkId::new("copied", kib), |b| {
            b.iter(|| copy.copy_from_slice(black_box(&bytes)));
        });
        assert_eq!(copy, bytes);
    }
    group.finish();
    drop(others);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_secs(1)).without_plots();
    targets = threshold
}
criterion_main!(benches);
