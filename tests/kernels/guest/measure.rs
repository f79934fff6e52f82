//! One path: a stream by every way, to a receiver that is late and slow at first; which mechanism carried it, whether a byte was
//! wrong, whether the kernel copied, and where the oracle thinks that the packets go.

use std::{
    error::Error as _,
    io::{self, Read as _},
    net::TcpStream,
    time::Duration,
};

use zerosink::{
    AttachError, AutoSink, Path, SinkStats,
    conformance::{Link as _, Socket},
    prelude::*,
};
use zerosink_kernels::{Record, Topology, Way};

use crate::{
    controls, memory,
    place::Place,
    run::say,
    support::{
        PATIENCE, lease,
        pattern::Verdict,
        peer::{Pace, Peer, narrow},
    },
    tls::{self, Decrypting},
};

const RING: usize = 512 << 10;
const TOTAL: u64 = 8 << 20;

/// 4 KiB every 20 ms, then as fast as it can: sends wait in the socket, and their memory with them.
pub(crate) const SLOW: Pace =
    Pace { receive_buffer: Some(64 << 10), gated: false, late: Duration::from_millis(100), slow_reads: 20 };

/// What this kernel permits.
pub(crate) fn probe() {
    for (mechanism, support) in zerosink::probe::host().mechanisms {
        say(&Record::new("probe").with("mechanism", mechanism).with("answer", support));
    }
}

/// Measures everything on one path.
pub(crate) fn path(topology: Topology) -> io::Result<()> {
    let place = Place::build(topology)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for way in Way::ALL {
        let record = Record::new("send").with("path", topology).with("way", way);
        let (socket, peer) = match ends(&place, SLOW) {
            Err(error) if topology == Topology::Ktls && error.kind() == io::ErrorKind::NotFound => {
                say(&record.with("refusal", "no-kernel-tls"));
                continue;
            }
            ends => ends?,
        };
        let sent = runtime.block_on(async { tokio::time::timeout(PATIENCE, send(way, &place, socket)).await });
        let record = match sent {
            Err(_) => record.with("error", format!("not done after {PATIENCE:?}")),
            Ok(Err(error)) => refused(record, &error),
            Ok(Ok((first, sink))) => {
                let stats = sink.stats();
                let record = observed(record.with("first", first).with("oracle", sink.path()), &stats);
                // Closing may cut kernel TLS in mid-record: its receiver needs no end of file.
                let verdict = if topology == Topology::Ktls { peer.verdict() } else { closed(sink, peer) };
                record.with("bytes", verdict.bytes).with("wrong", wrong(&verdict)).with("total", TOTAL)
            }
        };
        say(&record);
    }
    if topology.has_controls() {
        controls::run(&place)?;
    }
    Ok(())
}

/// What the receiver found, after the sink is gone.
fn closed(sink: AutoSink, peer: Peer) -> Verdict {
    drop(sink);
    peer.verdict()
}

/// Wrong bytes, and those that are missing.
fn wrong(verdict: &Verdict) -> u64 {
    verdict.wrong + TOTAL.abs_diff(verdict.bytes)
}

/// A connection, and the receiver at its far end.
pub(crate) fn ends(place: &Place, pace: Pace) -> io::Result<(Socket, Peer)> {
    if place.topology == Topology::Unix {
        let (near, peer) = Peer::unix(pace);
        return Ok((Socket::Unix(near), peer));
    }
    if place.topology == Topology::Ktls {
        let listener = place.listen()?;
        if let Some(bytes) = pace.receive_buffer {
            narrow(&listener, bytes);
        }
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        tls::encrypt(&near)?;
        return Ok((Socket::Tcp(near), Peer::reading(pace, || Decrypting::new(far).unwrap().take(TOTAL))));
    }
    let peer = Peer::listening(place.listen()?, pace);
    Ok((Socket::Tcp(TcpStream::connect(peer.address())?), peer))
}

/// Sends the stream and waits until all of it is released. The path at first, and the sink.
async fn send(way: Way, place: &Place, socket: Socket) -> io::Result<(Path, AutoSink)> {
    let config = way.config(place.family());
    let mut sink = match socket {
        Socket::Tcp(socket) => socket.into_sink(config).await?,
        Socket::Unix(socket) => socket.into_sink(config).await?,
        other => return Err(io::Error::other(format!("no sink for {other:?}"))),
    };
    let first = sink.path();
    let ring = memory::ring(way, RING, TOTAL as usize)?;
    let mut offset = 0;
    for bytes in [16 << 10, 64 << 10, 32 << 10, 48 << 10].into_iter().cycle() {
        let bytes = bytes.min(usize::try_from(TOTAL - offset).unwrap_or(usize::MAX));
        if bytes == 0 {
            break;
        }
        sink.send(lease(&ring, offset, bytes).await).await?;
        offset += bytes as u64;
    }
    if place.topology != Topology::Ktls {
        sink.close().await?;
    }
    sink.released(TOTAL).await.map_err(io::Error::other)?;
    Ok((first, sink))
}

/// The sink was not made, or failed: with the reason as programs know it, if it has one.
fn refused(record: Record, error: &io::Error) -> Record {
    let attach = error.get_ref().and_then(|inner| inner.downcast_ref::<AttachError>());
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match attach {
        Some(attach) => record.with("refusal", attach.refusal()).with("why", text),
        None => record.with("error", text),
    }
}

fn observed(record: Record, stats: &SinkStats) -> Record {
    let list = |pairs: Vec<String>| pairs.join(" ");
    record
        .with("used", stats.main_mechanism())
        .with("zero-copy", stats.bytes_zero_copy)
        .with("notified", stats.notified)
        .with("notified-copied", stats.notified_copied)
        .with("copied-by", list(stats.copied_by().map(|(why, bytes)| format!("{why}:{bytes}")).collect()))
        .with("refused", list(stats.refusals().map(|(mechanism, why)| format!("{mechanism}:{why}")).collect()))
}
