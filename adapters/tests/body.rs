//! Bodies by themselves: what they give, when they take from the ring, and how they end.

mod support;

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut as _, Bytes};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use support::{Portion, Scripted, lease, pattern, ring, within};
use tokio::sync::oneshot;
use zerosink_adapters::body::{BodyError, BodyRing, Budget, RingBody};
use zerosink_core::{owner_of, ring::RingError};

async fn frame(body: &mut RingBody) -> Option<Result<Bytes, BodyError>> {
    within(body.frame()).await.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

fn poll(body: &mut RingBody) -> Poll<Option<Result<Bytes, BodyError>>> {
    let poll = pin!(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    poll.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
}

#[tokio::test]
async fn given_pieces_are_frames_as_they_are_and_their_length_is_exact() {
    let ring = ring(1 << 16);
    let (one, two) = (lease(&ring, b"first"), lease(&ring, b"second"));
    let addresses = [one.as_ptr(), two.as_ptr()];
    let mut body: RingBody = [one, Bytes::new(), two].into_iter().collect();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(11), false));
    let first = frame(&mut body).await.unwrap().unwrap();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(6), false));
    let second = frame(&mut body).await.unwrap().unwrap();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
    assert_eq!([first.as_ptr(), second.as_ptr()], addresses, "nothing was copied");
    assert!(frame(&mut body).await.is_none());
    drop((first, second));
    assert_eq!(ring.stats().leased, 0);

    for mut empty in [RingBody::empty(), RingBody::default(), RingBody::new(""), RingBody::pieces([])] {
        assert_eq!((empty.size_hint().exact(), empty.is_end_stream()), (Some(0), true));
        assert!(frame(&mut empty).await.is_none());
    }
    assert_eq!(RingBody::new("abc").exactly(7).size_hint().exact(), Some(3), "given bytes know better");
}

#[tokio::test]
async fn a_reader_is_read_into_the_ring_in_pieces_no_larger_than_a_chunk() {
    let ring = ring(1 << 20);
    let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().leases(8).chunk(4096));
    let bytes = pattern(10_000);
    let mut body = RingBody::reader(&bodies, io::Cursor::new(bytes.clone()));
    assert_eq!((body.size_hint().lower(), body.size_hint().upper(), body.is_end_stream()), (0, None, false));
    let mut frames = Vec::new();
    while let Some(piece) = frame(&mut body).await {
        let piece = piece.unwrap();
        assert_eq!(owner_of(&piece).unwrap(), piece, "the frame lies in the ring");
        frames.push(piece);
    }
    assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
    assert_eq!(frames.concat(), bytes);
}

#[tokio::test]
async fn nothing_is_reserved_read_or_started_before_the_first_poll() {
    let ring = ring(1 << 20);
    let reader = Scripted::new([Portion::Bytes(pattern(100))]);
    let polls = reader.polls.clone();
    let read = RingBody::reader(&ring, reader).exactly(100);
    let produced = RingBody::produce(&ring, |_| async { panic!("started") as Result<(), BodyError> }).exactly(5);
    assert_eq!((read.size_hint().exact(), produced.size_hint().exact()), (Some(100), Some(5)));
    drop((read, produced));
    assert_eq!((ring.stats().high_water, polls.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn a_known_length_ends_the_body_without_a_further_read() {
    let ring = ring(1 << 20);
    let reader = Scripted::new([Portion::Bytes(pattern(150)), Portion::Panic]);
    let mut body = RingBody::reader(&ring, reader).exactly(100);
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), pattern(150)[..100]);
    assert!(body.is_end_stream());
    assert!(frame(&mut body).await.is_none());
    assert!(RingBody::reader(&ring, Scripted::new([Portion::Panic])).exactly(0).is_end_stream());
}

#[tokio::test]
async fn a_body_of_another_length_than_stated_fails() {
    let ring = ring(1 << 20);
    let mut short = RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(60))])).exactly(100);
    assert_eq!(frame(&mut short).await.unwrap().unwrap().len(), 60);
    assert_eq!(short.size_hint().exact(), Some(40));
    assert!(matches!(frame(&mut short).await, Some(Err(BodyError::TooShort { missing: 40 }))));
    assert!(frame(&mut short).await.is_none());

    let long = RingBody::produce(&ring, |writer| async move { writer.send("eight by").await });
    let mut long = long.exactly(5);
    assert!(matches!(frame(&mut long).await, Some(Err(BodyError::TooLong { more: 3 }))));
    assert!(frame(&mut long).await.is_none());
}

#[tokio::test]
async fn what_was_read_goes_out_when_the_reader_pauses_and_a_pause_holds_nothing() {
    let ring = ring(1 << 20);
    let mut body = RingBody::reader(&ring, Scripted::new([Portion::Bytes(b"so far".into()), Portion::Never]));
    let piece = frame(&mut body).await.unwrap().unwrap();
    assert_eq!(piece, "so far");
    assert!(poll(&mut body).is_pending());
    drop(piece);
    let stats = ring.stats();
    assert_eq!((stats.granted, stats.leased, stats.waiters), (0, 0, 0));
}

#[tokio::test]
async fn an_error_of_the_reader_ends_the_body_and_gives_everything_back() {
    let ring = ring(1 << 20);
    let mut body =
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(10)), Portion::NotYet, Portion::Error]));
    assert_eq!(frame(&mut body).await.unwrap().unwrap().len(), 10);
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(&error, BodyError::Read(source) if source.kind() == io::ErrorKind::ConnectionReset), "{error}");
    assert!(body.is_end_stream() && frame(&mut body).await.is_none());
    assert_eq!((ring.stats().granted, ring.stats().leased), (0, 0), "also while the body lives");
}

#[tokio::test]
async fn a_piece_that_the_ring_can_never_give_is_an_error() {
    let ring = ring(4096);
    let mut body = RingBody::produce(&ring, |writer| async move { writer.reserve(8192).await.map(drop) });
    let error = frame(&mut body).await.unwrap().unwrap_err();
    let BodyError::Producer(source) = error else { panic!("{error}") };
    assert!(matches!(source.downcast_ref(), Some(RingError::TooLong { .. })), "{source}");
    // A chunk is cut to the ring.
    let mut body = RingBody::reader(&ring, io::Cursor::new(pattern(5000)));
    assert_eq!(frame(&mut body).await.unwrap().unwrap().len(), 4096);
}

#[tokio::test]
async fn a_panic_is_an_error_of_the_body_and_poisons_nothing() {
    let ring = ring(1 << 20);
    let mut read =
        RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(10)), Portion::NotYet, Portion::Panic]));
    let mut produced = RingBody::produce(&ring, |writer| async move {
        let mut grant = writer.reserve(100).await?;
        let _kept = writer.reserve(100).await?;
        grant.put_slice(b"before");
        writer.send(grant.commit()).await?;
        if writer.ring().capacity() > 0 {
            tokio::task::yield_now().await;
            panic!("the producer's own");
        }
        Ok::<_, BodyError>(())
    });
    for (body, said) in [(&mut read, "the reader's own"), (&mut produced, "the producer's own")] {
        let piece = frame(body).await.unwrap().unwrap();
        let error = frame(body).await.unwrap().unwrap_err();
        assert!(matches!(&error, BodyError::Panicked { message } if message == said), "{error}");
        assert!(frame(body).await.is_none());
        drop(piece);
    }
    assert_eq!((ring.stats().granted, ring.stats().leased), (0, 0));
    assert_eq!(frame(&mut RingBody::reader(&ring, io::Cursor::new(b"as ever"))).await.unwrap().unwrap(), "as ever");
}

#[tokio::test]
async fn a_producer_writes_the_body_and_its_error_comes_behind_what_it_sent() {
    let ring = ring(1 << 20);
    let mut body = RingBody::produce(&ring, |writer| async move {
        for word in ["one ", "", "two "] {
            writer.send(word).await?;
        }
        let mut grant = writer.reserve(100).await?;
        grant.put_slice(b"three");
        writer.send(grant.commit()).await?;
        Err::<(), BoxError>("no four".into())
    });
    for word in ["one ", "two ", "three"] {
        assert_eq!(frame(&mut body).await.unwrap().unwrap(), word);
    }
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(&error, BodyError::Producer(source) if source.to_string() == "no four"), "{error}");
    assert!(frame(&mut body).await.is_none());
}

type BoxError = zerosink_adapters::body::BoxError;

#[tokio::test]
async fn a_writer_in_another_task_keeps_the_body_open_and_learns_that_it_is_gone() {
    let ring = ring(1 << 20);
    let (tell, told) = oneshot::channel();
    let mut body = RingBody::produce(&ring, |writer| async move {
        tokio::spawn(async move {
            writer.send("from elsewhere").await.unwrap();
            while writer.send("again").await.is_ok() {}
            tell.send(writer.send("too late").await).unwrap();
        });
        Ok::<_, BodyError>(())
    });
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), "from elsewhere");
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), "again");
    drop(body);
    assert!(matches!(within(told).await.unwrap(), Err(BodyError::Gone)));
}

#[tokio::test]
async fn a_reader_that_blocks_is_read_into_the_ring_elsewhere() {
    let ring = ring(1 << 20);
    let here = std::thread::current().id();
    struct Checked(io::Cursor<Vec<u8>>, std::thread::ThreadId);
    impl io::Read for Checked {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert_ne!(std::thread::current().id(), self.1, "this thread must not block");
            match self.0.position() {
                20_000.. => panic!("the reader's own"),
                9_999.. => Err(io::ErrorKind::NotFound.into()),
                _ => self.0.read(buffer),
            }
        }
    }
    let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().leases(8).chunk(4096));
    let mut body = RingBody::blocking(&bodies, Checked(io::Cursor::new(pattern(9000)), here)).exactly(9000);
    let mut received = Vec::new();
    while let Some(piece) = frame(&mut body).await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 4096 && owner_of(&piece).is_some());
        received.extend_from_slice(&piece);
    }
    assert_eq!(received, pattern(9000));

    let mut fails = io::Cursor::new(pattern(30_000));
    fails.set_position(10_000);
    let mut body = RingBody::blocking(&bodies, Checked(fails.clone(), here));
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(&error, BodyError::Read(source) if source.kind() == io::ErrorKind::NotFound), "{error}");
    fails.set_position(20_000);
    let mut body = RingBody::blocking(&bodies, Checked(fails, here));
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(&error, BodyError::Panicked { message } if message == "the reader's own"), "{error}");
    assert_eq!((ring.stats().granted, ring.stats().leased), (0, 0));
}

/// However a client stalls, its body has no more of the ring than its budget: frames that nobody gives back are how a connection's
/// custody looks from here.
#[tokio::test]
async fn a_budget_bounds_what_a_body_holds() {
    const CHUNK: usize = 4096;
    for (leases, held) in [(1, 1), (2, 2), (5, 5), (100, 10)] {
        let ring = ring(1 << 20);
        let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().leases(leases).chunk(CHUNK));
        let mut read = RingBody::reader(&bodies, io::Cursor::new(pattern(10 * CHUNK))).exactly(10 * CHUNK as u64);
        let mut produced = RingBody::produce(&bodies, |writer| async move {
            for _ in 0..10 {
                let mut grant = writer.reserve(CHUNK).await?;
                grant.put_bytes(7, CHUNK);
                writer.send(grant.commit()).await?;
            }
            Ok::<_, BodyError>(())
        });
        for body in [&mut read, &mut produced] {
            let mut frames = VecDeque::new();
            while let Poll::Ready(Some(piece)) = poll(body) {
                frames.push_back(piece.unwrap());
            }
            // What a producer has sent and nobody has taken counts too.
            assert_eq!((frames.len(), ring.stats().leased), (held, held * CHUNK), "budget {leases}");
            assert_eq!(ring.stats().granted, 0);
            let mut rest = 10 - held;
            while rest > 0 {
                drop(frames.pop_front());
                frames.push_back(frame(body).await.unwrap().unwrap());
                rest -= 1;
                assert!(ring.stats().leased <= held * CHUNK);
            }
            assert!(frame(body).await.is_none());
            drop(frames);
            assert_eq!(ring.stats().leased, 0);
        }
        assert!(ring.stats().high_water <= held * CHUNK, "{:?}", ring.stats());
    }
}

#[tokio::test]
async fn bodies_do_not_share_a_budget() {
    let ring = ring(1 << 20);
    let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().leases(1).chunk(4096));
    let mut one = RingBody::reader(&bodies, io::Cursor::new(pattern(8192)));
    let mut other = RingBody::reader(&bodies, io::Cursor::new(pattern(8192)));
    let held = frame(&mut one).await.unwrap().unwrap();
    assert!(poll(&mut one).is_pending());
    assert_eq!(frame(&mut other).await.unwrap().unwrap().len(), 4096);
    drop(held);
}

#[test]
fn a_budget_says_how_many_stalled_clients_a_ring_bears() {
    let budget = Budget::new().leases(2).chunk(64 << 10);
    assert_eq!((budget.bytes(), budget), (128 << 10, Budget::default()));
    // ring > stalled × (budget + cap), and not for one more.
    for (ring, cap) in
        [(1 << 20, 0), (1 << 20, 128 << 10), (10 << 20, 1 << 20), (1000, 0), (128 << 10, 0), ((128 << 10) + 1, 0)]
    {
        let stalled = budget.stalled(ring, cap);
        assert!(ring > stalled * (budget.bytes() + cap));
        assert!(ring <= (stalled + 1) * (budget.bytes() + cap));
    }
    assert_eq!(Budget::new().leases(0).chunk(0).bytes(), 1);
    assert_eq!(Budget::new().leases(usize::MAX).stalled(usize::MAX, usize::MAX), 0);
}

#[tokio::test]
async fn a_dropped_body_gives_everything_back_wherever_it_was() {
    let ring = ring(1 << 20);
    let given = RingBody::new(lease(&ring, b"given"));
    let mut waits = RingBody::reader(&ring, Scripted::new([Portion::Bytes(pattern(10)), Portion::Never]));
    let sent = frame(&mut waits).await.unwrap().unwrap();
    let mut holds = RingBody::produce(&ring, |writer| async move {
        let _grant = writer.reserve(1000).await?;
        std::future::pending::<Result<(), BodyError>>().await
    });
    assert!(poll(&mut waits).is_pending() && poll(&mut holds).is_pending());
    assert!(ring.stats().leased > 0 && ring.stats().granted > 0);
    drop((given, waits, holds, sent));
    let stats = ring.stats();
    assert_eq!((stats.granted, stats.leased, stats.waiters), (0, 0, 0));
}

proptest! {
    /// However a reader portions its bytes, and whatever the chunk, the frames are those bytes.
    #[test]
    fn the_frames_are_what_the_reader_gave(
        portions in prop::collection::vec(prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 1..3000).prop_map(Portion::Bytes),
            1 => Just(Portion::NotYet),
        ], 0..20),
        chunk in 1_usize..5000,
        known in any::<bool>(),
    ) {
        let ring = ring(1 << 16);
        let bytes: Vec<u8> = portions.iter().filter_map(|p| if let Portion::Bytes(b) = p { Some(b) } else { None }).flatten().copied().collect();
        let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().chunk(chunk));
        let mut body = RingBody::reader(bodies, Scripted::new(portions));
        if known {
            body = body.exactly(bytes.len() as u64);
        }
        let mut received = Vec::new();
        loop {
            match poll(&mut body) {
                Poll::Ready(Some(piece)) => {
                    let piece = piece.unwrap();
                    prop_assert!(!piece.is_empty() && piece.len() <= chunk);
                    received.extend_from_slice(&piece);
                }
                Poll::Ready(None) => break,
                Poll::Pending => prop_assert_eq!(ring.stats().granted, 0),
            }
        }
        prop_assert_eq!(received, bytes);
        prop_assert!(body.is_end_stream());
        prop_assert_eq!((ring.stats().leased, ring.stats().granted), (0, 0));
    }
}
