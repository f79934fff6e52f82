//! Threads that end with sends under way: the kernel gives up what they have submitted.

use std::thread;

use zerosink::prelude::*;

use crate::{
    harness::{Peer, SMALL, Tally, connection, cut_after, sink_by, stream, within},
    missing,
};

const PIECE: usize = 256 << 10;

#[test]
fn the_stream_goes_on_when_the_thread_that_submitted_ends() {
    if missing("the_stream_goes_on_when_the_thread_that_submitted_ends") {
        return;
    }
    // The driver has a thread that stays.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for _ in 0..4 {
        let (socket, reader) = connection(SMALL);
        let (tally, peer) = (Tally::default(), Peer::reading(reader));
        let mut sink = runtime.block_on(sink_by(Mechanism::IoUring, socket));
        let handle = runtime.handle().clone();
        let lender = tally.clone();
        let submitting = thread::spawn(move || {
            handle.block_on(async {
                let mut queue = SendQueue::new();
                queue.push(lender.lend(stream(0, PIECE)));
                // The second part waits for the first, which does not fit into the socket.
                let sent = cut_after(1, || {}, sink.send_queue(&mut queue)).await;
                assert!(sent.is_some() && queue.is_empty(), "it was queued as one send");
                let position = sink.position();
                assert!(position.flushed < position.accepted, "it is all in the socket: {position:?}");
            });
            sink
        });
        sink = submitting.join().unwrap();
        // Not before, or it may be all in the socket when the thread ends.
        peer.start();
        runtime.block_on(async {
            within("flush", sink.flush()).await.unwrap();
            within("send", sink.send(tally.lend(stream(PIECE as u64, PIECE)))).await.unwrap();
            within("close", sink.close()).await.unwrap();
            within("release", sink.released(2 * PIECE as u64)).await.unwrap();
            let stats = sink.stats();
            assert_eq!((stats.bytes_zero_copy, stats.strays), (2 * PIECE as u64, 0), "{stats:?}");
        });
        tally.wait_for_all();
        peer.finish().is_exactly(2 * PIECE);
    }
}
