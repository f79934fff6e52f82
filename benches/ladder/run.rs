//! One transfer.

use std::{
    fmt,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use bytes::{BufMut as _, Bytes};
use rustix::{
    net::sockopt,
    thread::{CpuSet, sched_setaffinity},
};
use zerosink::{
    mapped::{MappedMemory, Pages},
    policy::Family,
    prelude::*,
    *,
};

const RING: usize = 8 << 20;
pub(crate) const CONGESTION: &str = "cubic";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Copy,
    Splice,
    Gift,
    MsgZerocopy,
    Auto,
}

impl Contender {
    pub(crate) const ALL: [Self; 5] = [Self::Copy, Self::Splice, Self::Gift, Self::MsgZerocopy, Self::Auto];

    const fn mechanism(self) -> Option<Mechanism> {
        match self {
            Self::Copy => Some(Mechanism::Copy),
            Self::Splice => Some(Mechanism::Splice),
            Self::Gift => Some(Mechanism::Gift),
            Self::MsgZerocopy => Some(Mechanism::MsgZerocopy),
            Self::Auto => None,
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mechanism().map_or("auto", Mechanism::as_str))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Tcp,
    Unix,
}

impl Link {
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Unix];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) link: Link,
    pub(crate) reuse: Reuse,
    pub(crate) chunk: usize,
    pub(crate) total: u64,
}

impl Cell {
    /// Whether `auto` may use it without anybody's word.
    pub(crate) fn permits(&self, contender: Contender) -> bool {
        let family = if self.link == Link::Unix { Family::Unix } else { Family::Tcp };
        let permitted = |m| Policy::proof_for(m, family, Path::SameHost, self.reuse, Trust::default()).is_ok();
        contender.mechanism().is_none_or(permitted)
    }

    /// Seconds from the first byte written to the reader's end of file, and the mechanism that took most; `None` where the
    /// link is not to be had.
    pub(crate) fn run(&self, contender: Contender) -> io::Result<Option<(f64, Mechanism)>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = match contender.mechanism() {
            Some(mechanism) => SinkConfig::new().mechanism(mechanism),
            None => SinkConfig::new(),
        };
        stay_on(0);
        let ring = self.ring()?;
        let kept = self.prefilled(&ring)?;
        let start;
        let (reader, used) = match self.link {
            Link::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let socket = TcpStream::connect(listener.local_addr()?)?;
                // What most hosts have. (Under bbr the same code runs at one of two speeds on loopback.)
                sockopt::set_tcp_congestion(&socket, CONGESTION)?;
                let (stream, _) = listener.accept()?;
                let reader = thread::spawn(move || count(stream));
                start = Instant::now();
                (reader, runtime.block_on(self.send(socket, config, &ring, &kept))?)
            }
            Link::Unix => {
                let (socket, stream) = UnixStream::pair()?;
                let reader = thread::spawn(move || count(stream));
                start = Instant::now();
                (reader, runtime.block_on(self.send(socket, config, &ring, &kept))?)
            }
        };
        let counted = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if counted != self.total {
            return Err(io::Error::other(format!("{contender}: {counted} of {} bytes", self.total)));
        }
        Ok(Some((start.elapsed().as_secs_f64(), used)))
    }

    fn ring(&self) -> io::Result<Ring> {
        let memory = MappedMemory::anonymous(RING, Pages::Base)?;
        Ring::builder().reuse(self.reuse).build_on(memory).map_err(io::Error::other)
    }

    /// What is sent again and again; nothing for memory that is written before each send.
    fn prefilled(&self, ring: &Ring) -> io::Result<Vec<Bytes>> {
        if self.reuse != Reuse::Immutable {
            return Ok(Vec::new());
        }
        (0..RING / self.chunk)
            .map(|_| ring.try_reserve(self.chunk).map(|g| filled(g, self.chunk)).map_err(io::Error::other))
            .collect()
    }

    async fn send<S, By>(&self, socket: S, config: SinkConfig, ring: &Ring, kept: &[Bytes]) -> io::Result<Mechanism>
    where
        S: IntoSink<By, Sink = AutoSink>,
    {
        let mut sink = socket.into_sink(config).await?;
        let mut kept = kept.iter().cycle();
        for _ in 0..self.total / self.chunk as u64 {
            let lease = match kept.next() {
                Some(lease) => lease.clone(),
                None => filled(ring.reserve(self.chunk).await.map_err(io::Error::other)?, self.chunk),
            };
            sink.send(lease).await?;
        }
        sink.close().await?;
        let used = sink.stats().main_mechanism();
        let end = sink.position().accepted;
        sink.released(end).await.map_err(io::Error::other)?;
        Ok(used)
    }
}

fn filled(mut grant: Grant, bytes: usize) -> Bytes {
    grant.put_bytes(0x5a, bytes);
    grant.commit()
}

/// Keeps the two threads apart: where the scheduler puts them would decide the result.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to processor {processor}: {error}");
    }
}

fn count(mut stream: impl Read) -> io::Result<u64> {
    stay_on(1);
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}
