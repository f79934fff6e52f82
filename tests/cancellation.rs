//! A future may be dropped after any poll: the stream stays exact, and custody empties.

mod harness;

use std::pin::Pin;

use bytes::Bytes;
use harness::{
    MECHANISMS, Peer, SMALL, Tally, connection, cut_after, read_all, runtime, sink_by, stream, until, within,
};
use zerosink::prelude::*;

const TOTAL: usize = 512 << 10;
const PIECE: usize = 16 << 10;
const HEAD: usize = 37;
/// Drops after 0, 1, ... so many polls.
const MOST_POLLS: usize = 8;

/// `TOTAL` bytes of the stream in lent pieces, each after a head that is only borrowed.
fn pieces(tally: &Tally) -> Vec<(Vec<u8>, Bytes)> {
    (0..TOTAL)
        .step_by(PIECE)
        .map(|start| {
            let start = start as u64;
            (stream(start, HEAD), tally.lend(stream(start + HEAD as u64, PIECE - HEAD)))
        })
        .collect()
}

fn queue_of(pieces: &[(Vec<u8>, Bytes)]) -> SendQueue<'_> {
    let mut queue = SendQueue::new();
    for (head, body) in pieces {
        queue.push_borrowed(head);
        queue.push(body.clone());
    }
    queue
}

#[test]
fn send_queue_dropped_after_any_poll_leaves_the_rest_on_the_queue() {
    for (mechanism, polls) in MECHANISMS.iter().flat_map(|m| (0..=MOST_POLLS).map(move |polls| (*m, polls))) {
        let received = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let mut sink = sink_by(mechanism, socket).await;
            {
                let pieces = pieces(&tally);
                let mut queue = queue_of(&pieces);
                let mut cuts = 0;
                within("sending, cut by cut", async {
                    // Without a poll nothing would ever be sent: then only the first future goes unpolled.
                    while cut_after(
                        if cuts > 0 { polls.max(1) } else { polls },
                        || peer.start(),
                        sink.send_queue(&mut queue),
                    )
                    .await
                    .is_none_or(|sent| sent.is_err())
                    {
                        let accepted = sink.position().accepted as usize;
                        assert_eq!(accepted + queue.remaining(), TOTAL, "{mechanism} cut after {polls} polls");
                        if cuts == 0 {
                            assert_eq!(accepted > 0, polls > 0, "the peer reads nothing yet, so this send is partial");
                        }
                        cuts += 1;
                        peer.start();
                        tokio::task::yield_now().await;
                    }
                })
                .await;
                assert!(queue.is_empty());
                assert!(polls > 1 || cuts > 0, "one poll cannot send what no buffer holds");
            }
            within("close", sink.close()).await.unwrap();
            within("release", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!((sink.stats().pinned_bytes, sink.stats().strays, tally.out()), (0, 0, 0));
            drop(sink);
            peer.finish()
        });
        received.is_exactly(TOTAL);
    }
}

#[test]
fn send_dropped_after_any_poll_is_continued_from_the_position() {
    for (mechanism, polls) in MECHANISMS.iter().flat_map(|m| (0..=MOST_POLLS).map(move |polls| (*m, polls))) {
        let received = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let mut sink = sink_by(mechanism, socket).await;
            let block = tally.lend(stream(0, TOTAL));
            let cut = cut_after(polls, || peer.start(), sink.send(block.clone())).await;
            let accepted = sink.position().accepted as usize;
            assert!(cut.is_some() || accepted < TOTAL, "an unfinished send is not complete");
            assert!(polls != 1 || (accepted > 0 && cut.is_none()), "{accepted} of {TOTAL} after one poll");
            if cut.is_some() {
                assert_eq!(accepted, TOTAL);
            }
            peer.start();
            within("the rest", sink.send(block.slice(accepted..))).await.unwrap();
            drop(block);
            within("close", sink.close()).await.unwrap();
            within("release", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!((sink.stats().pinned_bytes, tally.out()), (0, 0));
            drop(sink);
            peer.finish()
        });
        received.is_exactly(TOTAL);
    }
}

/// Negative control: the same harness, but whoever continues starts over instead of going on where the stream is.
#[test]
fn control_continuing_without_the_position_is_seen_by_the_peer() {
    let received = runtime().block_on(async {
        let (socket, reader) = connection(SMALL);
        let peer = Peer::reading(reader);
        let mut sink = sink_by(Mechanism::Copy, socket).await;
        let block = Bytes::from(stream(0, TOTAL));
        assert!(cut_after(1, || {}, sink.send(block.clone())).await.is_none());
        peer.start();
        within("from the start again", sink.send(block)).await.unwrap();
        drop(sink);
        peer.finish()
    });
    assert!(harness::first_wrong_byte(&received.bytes).is_some(), "{received:?}");
}

#[test]
fn a_send_given_up_by_one_task_goes_on_in_another() {
    for mechanism in MECHANISMS {
        let received = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let mut sink = sink_by(*mechanism, socket).await;
            let mut queue = SendQueue::from(tally.lend(stream(0, TOTAL)));
            // The first task waits for the full socket, and is aborted while it waits.
            let (waits, waiting) = tokio::sync::oneshot::channel();
            let (back, returned) = tokio::sync::oneshot::channel();
            let first = tokio::spawn(async move {
                let mut waits = Some(waits);
                let mut returns = ReturnOnDrop(Some((sink, queue, back)));
                let (sink, queue, _) = returns.0.as_mut().unwrap();
                let tell = || assert!(waits.take().is_none_or(|waits| waits.send(()).is_ok()));
                cut_after(usize::MAX, tell, sink.send_queue(queue)).await
            });
            within("a full socket", waiting).await.unwrap();
            first.abort();
            (sink, queue) = within("the queue", returned).await.unwrap();
            assert!(!queue.is_empty());
            peer.start();
            let second = tokio::spawn(async move { sink.send_queue(&mut queue).await.map(|()| sink) });
            let mut sink = within("the second task", second).await.unwrap().unwrap();
            within("release", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!(tally.out(), 0);
            drop(sink);
            peer.finish()
        });
        received.is_exactly(TOTAL);
    }
}

type Returned = (AutoSink, SendQueue<'static>);

/// Gives sink and queue back when the task that uses them is aborted.
struct ReturnOnDrop(Option<(AutoSink, SendQueue<'static>, tokio::sync::oneshot::Sender<Returned>)>);

impl Drop for ReturnOnDrop {
    fn drop(&mut self) {
        if let Some((sink, queue, back)) = self.0.take() {
            back.send((sink, queue)).ok();
        }
    }
}

#[test]
fn released_dropped_after_any_poll_can_be_asked_again() {
    for (mechanism, polls) in MECHANISMS.iter().flat_map(|m| (0..=MOST_POLLS).map(move |polls| (*m, polls))) {
        let received = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let mut sink = sink_by(mechanism, socket).await;
            let mut queue = SendQueue::from(tally.lend(stream(0, TOTAL)));
            // Until the socket is full: with msg-zerocopy, memory is in custody now.
            assert!(cut_after(1, || {}, sink.send_queue(&mut queue)).await.is_none());
            let accepted = sink.position().accepted;
            let asked = cut_after(polls, || peer.start(), sink.released(accepted)).await;
            if polls == 1 && mechanism == Mechanism::MsgZerocopy {
                assert!(asked.is_none(), "the peer has read nothing, so the last bytes are in custody");
            }
            peer.start();
            within("release, asked again", sink.released(accepted)).await.unwrap();
            assert!(sink.position().released >= accepted);
            within("the rest", sink.send_queue(&mut queue)).await.unwrap();
            within("release of all", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!((sink.stats().pinned_bytes, tally.out()), (0, 0));
            drop(sink);
            peer.finish()
        });
        received.is_exactly(TOTAL);
    }
}

#[test]
fn flush_and_close_dropped_after_any_poll_can_be_asked_again() {
    for (mechanism, polls) in MECHANISMS.iter().flat_map(|m| (0..=2).map(move |polls| (*m, polls))) {
        let received = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let (tally, peer) = (Tally::default(), Peer::reading(reader));
            let mut sink = sink_by(mechanism, socket).await;
            let mut queue = SendQueue::from(tally.lend(stream(0, TOTAL)));
            assert!(cut_after(1, || {}, sink.send_queue(&mut queue)).await.is_none());
            // A queued send is flushed only when the peer has read some of it.
            if let Some(flushed) = cut_after(polls, || peer.start(), sink.flush()).await {
                flushed.unwrap();
            }
            peer.start();
            within("the rest", sink.send_queue(&mut queue)).await.unwrap();
            within("flush", sink.flush()).await.unwrap();
            if let Some(closed) = cut_after(polls, || {}, sink.close()).await {
                closed.unwrap();
            }
            within("close, asked again", sink.close()).await.unwrap();
            // The sink lives on: it was close, not drop, that ended the stream.
            let received = tokio::task::spawn_blocking(|| peer.finish()).await.unwrap();
            within("release", sink.released(TOTAL as u64)).await.unwrap();
            assert_eq!((sink.stats().pinned_bytes, tally.out()), (0, 0));
            received
        });
        received.is_exactly(TOTAL);
    }
}

#[test]
fn auto_dropped_after_any_poll_closes_the_socket_and_nothing_else() {
    for polls in 0..=2 {
        let (socket, reader) = connection(None);
        runtime().block_on(async {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            drop(cut_after(polls, || {}, ZeroCopySink::auto(socket)).await);
            // Whether it had become a sink or not: the descriptor is closed, the peer sees the end, and no reset.
            tokio::task::spawn_blocking(|| read_all(reader)).await.unwrap().is_exactly(0);
        });
    }
}

#[test]
fn a_future_that_is_never_polled_sends_nothing() {
    let (socket, reader) = connection(None);
    runtime().block_on(async {
        let tally = Tally::default();
        let mut sink = sink_by(Mechanism::Copy, socket).await;
        drop(sink.send(tally.lend(stream(0, PIECE))));
        drop(sink.close());
        assert_eq!((sink.position().accepted, tally.out()), (0, 0));
        // Closing was never asked for: the stream is still open.
        within("send", sink.send(Bytes::from(stream(0, 10)))).await.unwrap();
    });
    read_all(reader).is_exactly(10);
}

#[test]
fn a_pending_send_accepts_nothing_behind_the_callers_back() {
    for mechanism in MECHANISMS {
        let peer = runtime().block_on(async {
            let (socket, reader) = connection(SMALL);
            let peer = Peer::reading(reader);
            let mut sink = sink_by(*mechanism, socket).await;
            let mut queue = SendQueue::from(Bytes::from(stream(0, TOTAL)));
            assert!(cut_after(1, || {}, sink.send_queue(&mut queue)).await.is_none());
            let (accepted, rest) = (sink.position().accepted, queue.remaining());
            peer.start();
            let stats = sink.stats();
            // The socket drains, and nobody polls: nothing more goes out by itself.
            let mut writable = false;
            until("release", || {
                writable = sink.position().released == accepted;
                writable
            })
            .await;
            assert_eq!((sink.position().accepted, queue.remaining()), (accepted, rest));
            assert_eq!(sink.stats().would_block, stats.would_block);
            let polled = within("send", std::future::poll_fn(|cx| Pin::new(&mut sink).poll_send(cx, &mut queue))).await;
            assert!(polled.unwrap() > 0);
            within("the rest", sink.send_queue(&mut queue)).await.unwrap();
            drop(sink);
            peer
        });
        // With the runtime gone: who blocks it here would keep the driver from closing what is queued.
        peer.finish().is_exactly(TOTAL);
    }
}
