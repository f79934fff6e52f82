//! What goes wrong by hand: memory written again when the call returned, and when the peer has acknowledged.
//!
//! The first must show as wrong bytes, or the measurements prove nothing. The second does on a host's own paths, and does not where
//! packets leave through a device: this is what the path is asked for.

use std::{
    io,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use zerosink::prelude::*;
use zerosink_kernels::Record;

use crate::{
    measure::SLOW,
    place::Place,
    run::say,
    support::{
        PATIENCE, lease,
        peer::{Pace, Peer},
        poisoned_ring,
        raw::HastySink,
        send_stream,
    },
    wire::unacknowledged,
};

const RING: usize = 256 << 10;
const TOTAL: u64 = 4 << 20;
const ROUNDS: u32 = 10;
/// Fits into a receive buffer of any kernel.
const PIECE: usize = 32 << 10;

type Make = fn(TcpStream) -> io::Result<HastySink>;

pub(crate) fn run(place: &Place) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ways: [(&str, Make); 2] = [("splice", HastySink::by_splice), ("msg-zerocopy", HastySink::by_msg_zerocopy)];
    for (way, make) in ways {
        let (socket, peer) = ends(place, SLOW)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut sink = make(socket)?;
        let ring = poisoned_ring(RING);
        runtime.block_on(send_stream(&mut sink, &ring, TOTAL));
        let verdict = peer.verdict();
        drop((sink, ring));
        say(&Record::new("control")
            .with("path", place.topology)
            .with("way", way)
            .with("bytes", verdict.bytes)
            .with("wrong", verdict.wrong));
    }
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        wrong += u32::from(runtime.block_on(written_when_acknowledged(place))?);
    }
    say(&Record::new("acknowledged").with("path", place.topology).with("rounds", ROUNDS).with("wrong", wrong));
    Ok(())
}

fn ends(place: &Place, pace: Pace) -> io::Result<(TcpStream, Peer)> {
    let peer = Peer::listening(place.listen()?, pace);
    Ok((TcpStream::connect(peer.address())?, peer))
}

/// Splices a piece to a receiver that does not read yet, writes over it when everything is acknowledged, and lets the receiver read.
async fn written_when_acknowledged(place: &Place) -> io::Result<bool> {
    let (socket, peer) = ends(place, Pace { gated: true, ..Pace::default() })?;
    let queue = socket.try_clone()?;
    let mut sink = HastySink::by_splice(socket)?;
    let ring = poisoned_ring(PIECE);
    let piece = lease(&ring, 0, PIECE).await;
    sink.send(piece.clone()).await?;
    let start = Instant::now();
    while unacknowledged(&queue)? > 0 {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer's kernel acknowledges nothing"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // The ring poisons it.
    drop(piece);
    sink.close().await?;
    peer.go();
    Ok(peer.verdict().wrong > 0)
}
