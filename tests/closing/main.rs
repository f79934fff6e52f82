//! However a connection ends: the peer gets right bytes or a reset, memory comes back, and nobody waits for ever.

#[path = "../harness/mod.rs"]
mod harness;

use std::{
    error::Error,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use harness::{
    MECHANISMS, Peer, Received, SMALL, Tally, connection, cut_after, read_all, runtime, sink_by, stream, until, within,
};
use zerosink::{SendError, prelude::*};

const TOTAL: usize = 512 << 10;
const PIECE: usize = 16 << 10;

/// The error with all its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(cause) = error.source() {
        text = format!("{text}: {cause}");
        error = cause;
    }
    text
}

/// `TOTAL` bytes of the stream, in lent pieces.
fn queue_of(tally: &Tally) -> SendQueue<'static> {
    let mut queue = SendQueue::new();
    for start in (0..TOTAL).step_by(PIECE) {
        queue.push(tally.lend(stream(start as u64, PIECE)));
    }
    queue
}

/// Sends until the socket is full.
async fn fill(sink: &mut AutoSink, queue: &mut SendQueue<'_>) {
    assert!(cut_after(1, || {}, sink.send_queue(queue)).await.is_none(), "the socket took all {TOTAL} bytes");
    assert!(sink.position().accepted > 0);
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

mod dropped_in_flight;

mod runtimes;

mod peers;

/// Packets that wait in a queue of the network keep their memory even when the connection is revoked.
#[cfg(zerosink_linux)]
#[test]
fn what_a_revoke_does_not_free_is_quarantined_and_counted_until_it_is() {
    let name = "what_a_revoke_does_not_free_is_quarantined_and_counted_until_it_is";
    if !harness::is_child() {
        return harness::run_in_network_namespace(name);
    }
    let run = |command: &str| {
        let mut words = command.split(' ');
        std::process::Command::new(words.next().unwrap()).args(words).output().is_ok_and(|out| out.status.success())
    };
    assert!(run("ip link set lo mtu 1500"));
    let (socket, reader) = connection(None);
    // A few packets, and then one in twelve seconds.
    if !run("tc qdisc add dev lo root tbf rate 1kbit burst 6000 limit 10000000") {
        return harness::skip(name, "this kernel has no token bucket filter");
    }
    let tally = Tally::default();
    runtime().block_on(async {
        let timeout = Duration::from_millis(300);
        let config = SinkConfig::new().mechanism(Mechanism::MsgZerocopy).release_timeout(timeout);
        let mut sink = socket.into_sink(config).await.unwrap();
        let mut queue = queue_of(&tally);
        drop(cut_after(1, || {}, sink.send_queue(&mut queue)).await);
        drop(queue);
        let accepted = sink.position().accepted;
        let error = within("release", sink.released(accepted)).await.unwrap_err();
        assert!(error.quarantined > 0 && error.to_string().contains("will not be reused"), "{error}");
        assert_eq!(sink.stats().quarantined_bytes, error.quarantined);
        assert_eq!(sink.stats().pinned_bytes, error.quarantined);
        assert!(tally.out() > 0, "not given back: somebody still reads it");
        // Asked again, it says so again, and at once.
        assert_eq!(within("release", sink.released(accepted)).await.unwrap_err(), error);
        assert!(run("tc qdisc del dev lo root"));
        until("proof", || sink.stats().quarantined_bytes == 0).await;
        within("release", sink.released(accepted)).await.unwrap();
        assert_eq!((sink.stats().pinned_bytes, sink.stats().strays, tally.out()), (0, 0, 0));
    });
    // The reset was in that queue also: what has come is all that comes.
    reader.set_nonblocking(true).unwrap();
    read_all(reader).is_right();
}
