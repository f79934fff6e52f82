//! The user's word about an `AF_UNIX` reader, kept and broken.

use std::{io::Read as _, os::fd::OwnedFd};

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

use super::{
    support::{
        POISON, lease,
        mapped::{Kind, mapped_ring},
        pattern::Verdict,
    },
    *,
};

const BYTES: usize = 128 << 10;

/// A reader that moves references instead of bytes: the socket is empty, and the sender's pages are in the pipe.
fn spliced_away(socket: &UnixStream) -> OwnedFd {
    let (reader, writer) = pipe().unwrap();
    fcntl_setpipe_size(&writer, 1 << 20).unwrap();
    let mut left = BYTES;
    while left > 0 {
        left -= splice(socket, None, &writer, None, left, SpliceFlags::MOVE).unwrap();
    }
    reader
}

/// Sends the whole ring to a reader that splices, waits for the release if one comes, and fills the ring again. What the reader
/// then finds.
fn read_after_release(kind: Kind, reuse: Reuse, config: SinkConfig) -> (Verdict, SinkStats) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(4 * BYTES).unwrap();
    let ring = mapped_ring(kind, BYTES, reuse);
    let (reader, stats) = harness::runtime().block_on(async {
        let mut sink = ours.into_sink(config).await.unwrap();
        harness::within("send", sink.send(lease(&ring, 0, BYTES).await)).await.unwrap();
        let reader = tokio::task::spawn_blocking(move || spliced_away(&theirs)).await.unwrap();
        harness::within("release", sink.released(BYTES as u64)).await.unwrap();
        // The whole ring, which came back, for the next tenant.
        let mut next = harness::within("the ring", ring.reserve(BYTES)).await.unwrap();
        next.as_mut_slice().fill(!POISON);
        (reader, sink.stats())
    });
    let mut received = vec![0; BYTES];
    std::fs::File::from(reader).read_exact(&mut received).unwrap();
    let mut verdict = Verdict::default();
    verdict.take(&received);
    (verdict, stats)
}

/// What the documentation of `peer_copies` warns of: the reader gets the next tenant's bytes.
#[test]
fn a_word_given_for_a_reader_that_splices_gives_away_what_is_written_later() {
    for kind in [Kind::Anonymous, Kind::Memfd] {
        let config = by(Mechanism::Splice).peer_copies();
        let (verdict, stats) = read_after_release(kind, Reuse::InPlace, config);
        assert_eq!(sent_by(&stats, Mechanism::Splice), BYTES as u64, "{stats:?}");
        assert!(verdict.wrong > BYTES as u64 * 9 / 10, "{kind:?}: {verdict:?}");
    }
}

#[test]
fn the_same_reader_gets_the_right_bytes_without_a_word() {
    for (reuse, config, by) in [
        (Reuse::InPlace, SinkConfig::new(), Mechanism::Copy),
        (Reuse::InPlace, by(Mechanism::Splice), Mechanism::Copy),
        (Reuse::InPlace, by(Mechanism::Gift), Mechanism::Gift),
        (Reuse::FreshPages, by(Mechanism::Splice), Mechanism::Splice),
        (Reuse::FreshPages, by(Mechanism::Splice).peer_copies(), Mechanism::Splice),
        (Reuse::FreshPages, by(Mechanism::Gift), Mechanism::Gift),
    ] {
        for kind in [Kind::Anonymous, Kind::Memfd] {
            let (verdict, stats) = read_after_release(kind, reuse, config.clone());
            assert_eq!(sent_by(&stats, by), BYTES as u64, "{kind:?} {reuse}: {stats:?}");
            assert_eq!(verdict, Verdict::flawless(BYTES as u64), "{kind:?} {reuse} {by}");
        }
    }
}

/// A sender that never waits leaves the driver no turn, and the driver alone would hear that the reader goes on.
#[test]
fn what_the_reader_has_makes_room_for_a_sender_that_never_waits() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ring = mapped_ring(Kind::Anonymous, 2 * BYTES, Reuse::InPlace);
    let config = by(Mechanism::Splice).peer_copies().max_pinned_bytes(BYTES as u64);
    let stats = harness::runtime().block_on(async {
        let pieces = [lease(&ring, 0, BYTES).await, lease(&ring, BYTES as u64, BYTES).await];
        let mut sink = ours.into_sink(config).await.unwrap();
        for piece in pieces {
            sink.send(piece).await.unwrap();
            // In this thread, so that nobody else has a turn.
            theirs.read_exact(&mut [0; BYTES]).unwrap();
        }
        sink.stats()
    });
    assert_eq!(sent_by(&stats, Mechanism::Splice), 2 * BYTES as u64, "{stats:?}");
}
