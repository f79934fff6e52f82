//! Who is measured.

use std::{
    io::{self, Read as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use zerosink::{Path, prelude::*};

use crate::{
    old_method::{Drain, Look, OldMethod},
    pattern::{self, Verdict},
    wire::network::Network,
};

pub(crate) const CHUNK: usize = 64 << 10;
pub(crate) const RING: usize = 8 << 20;

/// One way to send the stream.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    how: How,
    /// Bytes per run: each takes a second or a few.
    pub(crate) total: u64,
    /// The median ratio to [`Contender::MEASURE`] that is aimed at.
    pub(crate) aim: Option<f64>,
}

#[derive(Debug)]
enum How {
    Old(Look, Drain),
    /// zerosink with these settings, from a ring that is written in place.
    Sink(fn() -> SinkConfig),
}

/// What one run showed.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) bytes: u64,
    /// From the first send to the reader's end of file.
    pub(crate) time: Duration,
    /// What a reader of the table should know.
    pub(crate) note: Option<String>,
}

impl Run {
    /// In millions of bytes per second.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64() / 1e6
    }
}

impl Contender {
    pub(crate) const ALL: &[Self] = &[
        Self {
            name: "old method, sleeping, every chunk",
            how: How::Old(Look::Sleep, Drain::EveryChunk),
            total: 8 << 20,
            aim: None,
        },
        Self {
            name: "old method, spinning, every chunk",
            how: How::Old(Look::Spin, Drain::EveryChunk),
            total: 16 << 20,
            aim: None,
        },
        Self {
            name: "old method, sleeping, every lap",
            how: How::Old(Look::Sleep, Drain::EveryLap),
            total: 512 << 20,
            aim: None,
        },
        Self {
            name: "old method, spinning, every lap",
            how: How::Old(Look::Spin, Drain::EveryLap),
            total: 512 << 20,
            aim: None,
        },
        Self {
            name: "zerosink, splice, trusting ACKs",
            // The forwarder copies, so no receiver shares the sender's pages, though the other host is on this machine.
            how: How::Sink(|| SinkConfig::new().mechanism(Mechanism::Splice).trust_peer_acks().path(Path::OffHost)),
            total: 1 << 30,
            aim: Some(20.0),
        },
        Self {
            name: "zerosink, msg-zerocopy",
            how: How::Sink(|| SinkConfig::new().mechanism(Mechanism::MsgZerocopy)),
            total: 1 << 30,
            aim: Some(20.0),
        },
        Self { name: "zerosink, auto", how: How::Sink(SinkConfig::new), total: 1 << 30, aim: Some(20.0) },
    ];

    /// Which of all is the measure.
    pub(crate) const MEASURE: usize = 1;

    /// Sends `total` bytes over the network. The reader compares each.
    ///
    /// A mechanism that is refused here is an error of kind [`io::ErrorKind::Unsupported`] with the reason.
    pub(crate) fn run(&self, network: &Network, total: u64) -> io::Result<Run> {
        let (socket, stream) = network.connection()?;
        let reader = thread::spawn(move || read(stream));
        let start = Instant::now();
        let note = match self.how {
            How::Old(look, drain) => old(socket, look, drain, total).map(|()| None)?,
            // The runtime runs inside the namespace, where a sink that looks for routes finds the right ones.
            How::Sink(config) => network.near.run(|| sink(socket, config(), total)).map(Some)?,
        };
        let verdict = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if verdict == Verdict::flawless(total) {
            Ok(Run { bytes: total, time: start.elapsed(), note })
        } else {
            Err(io::Error::other(format!("{}: {verdict:?} of {total} bytes", self.name)))
        }
    }
}

fn read(mut stream: TcpStream) -> io::Result<Verdict> {
    let mut buffer = vec![0; 256 << 10];
    let mut verdict = Verdict::default();
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(verdict),
            bytes => verdict.take(&buffer[..bytes]),
        }
    }
}

fn old(socket: TcpStream, look: Look, drain: Drain, total: u64) -> io::Result<()> {
    let mut sender = OldMethod::new(socket, RING, CHUNK, look, drain)?;
    while sender.sent() < total {
        sender.send(pattern::fill)?;
    }
    sender.socket().shutdown(Shutdown::Write)?;
    // The ring may go when nothing waits any more.
    sender.drained()
}

fn sink(socket: TcpStream, config: SinkConfig, total: u64) -> io::Result<String> {
    let ring = Ring::builder().capacity(RING).build().map_err(io::Error::other)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut sink = socket.into_sink(config).await?;
        for offset in (0..total).step_by(CHUNK) {
            let mut grant = ring.reserve(CHUNK).await.map_err(io::Error::other)?;
            pattern::fill(offset, grant.as_mut_slice());
            grant.fill(CHUNK).map_err(io::Error::other)?;
            sink.send(grant.commit()).await?;
        }
        sink.close().await?;
        sink.released(total).await.map_err(io::Error::other)?;
        let stats = sink.stats();
        let by_reference = format!("{:.0} % by reference", stats.bytes_zero_copy as f64 / total as f64 * 100.0);
        // Only a mechanism with notifications is told.
        let copied = format!("; {} of {} notifications say copied on the way", stats.notified_copied, stats.notified);
        Ok(if stats.notified > 0 { by_reference + &copied } else { by_reference })
    })
}
