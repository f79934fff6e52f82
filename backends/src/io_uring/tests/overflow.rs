//! Completions that do not fit into their queue wait in the kernel, and none is lost.

use std::{
    future::poll_fn,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    pin::Pin,
    sync::{Arc, mpsc},
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use zerosink_core::{SendQueue, SinkConfig, ZeroCopySink as _};

use crate::{
    auto::connect,
    io_uring::{Sender, Size},
    probe,
    sys::uring::How,
};

const PIECE: usize = 4 << 10;
const MOST_SENDS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn bursts_of_notifications_that_overflow_a_tiny_queue_release_everything() {
    let abilities = match probe::io_uring_abilities() {
        Ok(abilities) => abilities,
        Err(failed) => {
            assert!(std::env::var_os("CI").is_none(), "{failed}");
            std::io::stderr().write_all(format!("\n*** SKIPPED: {failed} ***\n").as_bytes()).unwrap();
            return;
        }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Packets that the peer has no room for stay with the sender, and their memory with them.
    socket2::SockRef::from(&listener).set_recv_buffer_size(16 << 10).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut reader, _) = listener.accept().unwrap();
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    let (go, told) = mpsc::channel::<()>();
    let peer = thread::spawn(move || {
        told.recv().unwrap();
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        received
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sends = runtime.block_on(async {
        let (connection, socket) = connect(socket, &SinkConfig::new()).unwrap();
        let how = How::ZeroCopy { report_usage: abilities.reports_usage };
        // The kernel rounds up to the number of submissions, at least.
        let uring = socket.uring(Size { submissions: 1, completions: 2 }, how).unwrap();
        let mut sink = connection.sink(Sender::new(socket, Arc::clone(&uring)));
        let mut sends = 0;
        while sends < MOST_SENDS {
            let mut queue = SendQueue::new();
            queue.push(Bytes::from(vec![sends as u8; PIECE]));
            let once = poll_fn(|cx| Poll::Ready(Pin::new(&mut sink).poll_send(cx, &mut queue)));
            match once.await {
                Poll::Ready(sent) => assert_eq!(sent.unwrap(), PIECE),
                Poll::Pending => break,
            }
            sends += 1;
        }
        let pinned = connection.stats().pinned_bytes / PIECE as u64;
        assert!(pinned > 8, "{pinned} of {sends} sends are pinned");
        go.send(()).unwrap();
        let released = poll_fn(|cx| Pin::new(&mut sink).poll_released(cx, (sends * PIECE) as u64));
        tokio::time::timeout(PATIENCE, released).await.unwrap().unwrap();
        assert!(uring.overflows() > 0, "a queue that held all of them shows nothing");
        let stats = connection.stats();
        assert_eq!((stats.pinned_bytes, stats.strays), (0, 0), "{stats:?}");
        sends
    });
    drop(runtime);
    let received = peer.join().unwrap();
    assert_eq!(received.len(), sends * PIECE);
    assert!(received.chunks(PIECE).enumerate().all(|(index, piece)| piece.iter().all(|byte| *byte == index as u8)));
}
