//! What the tests share: a stream whose every byte depends on its position, and peers that are no part of zerosink.
#![allow(clippy::allow_attributes, reason = "which helpers are used differs from test to test")]
#![allow(dead_code, reason = "which helpers are used differs from test to test")]

pub(crate) mod events;
#[cfg(zerosink_linux)]
pub(crate) mod mapped;
pub(crate) mod pattern;
pub(crate) mod peer;
#[cfg(zerosink_linux)]
pub(crate) mod raw;
#[cfg(zerosink_linux)]
pub(crate) mod seccomp;

use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use zerosink::prelude::*;

/// Written over whatever a ring takes back. The pattern has it only as often as chance wants it.
pub(crate) const POISON: u8 = 0xA5;

/// No test may wait for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A ring that poisons what comes back.
pub(crate) fn poisoned_ring(bytes: usize) -> Ring {
    Ring::builder().capacity(bytes).poison(POISON).build().unwrap()
}

/// The piece `offset .. offset + bytes` of the stream, in ring memory.
pub(crate) async fn lease(ring: &Ring, offset: u64, bytes: usize) -> Bytes {
    filled(ring.reserve(bytes).await.unwrap(), offset, bytes)
}

/// The same from a grant that somebody has already.
pub(crate) fn filled(mut grant: zerosink::Grant, offset: u64, bytes: usize) -> Bytes {
    pattern::fill(offset, grant.as_mut_slice());
    grant.fill(bytes).unwrap();
    assert_eq!(grant.remaining_mut(), 0);
    grant.commit()
}

/// Sends the stream `0 .. total` through the ring, in pieces of 16 to 64 KiB of which some are odd.
pub(crate) async fn send_stream(sink: &mut (impl ZeroCopySink + Unpin), ring: &Ring, total: u64) {
    const PIECES: [usize; 5] = [16 << 10, 64 << 10, 20_001, 48 << 10, 32_769];
    let mut offset = 0;
    for piece in PIECES.into_iter().cycle() {
        let bytes = usize::try_from(total - offset).unwrap().min(piece);
        if bytes == 0 {
            break;
        }
        let lease = lease(ring, offset, bytes).await;
        sink.send(lease).await.unwrap();
        offset += bytes as u64;
    }
    sink.close().await.unwrap();
}
