//! One transfer.

use std::{fmt, io, time::Instant};

use bytes::{BufMut as _, Bytes};
use zerosink::{
    mapped::{MappedMemory, Pages},
    policy::Family,
    prelude::*,
    *,
};

use crate::{
    ends::{self, Place, Reader, Socket},
    wire::network::Network,
};

const RING: usize = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Copy,
    Splice,
    Gift,
    MsgZerocopy,
    IoUring,
    Auto,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] =
        [Self::Copy, Self::Splice, Self::Gift, Self::MsgZerocopy, Self::IoUring, Self::Auto];

    const fn mechanism(self) -> Option<Mechanism> {
        match self {
            Self::Copy => Some(Mechanism::Copy),
            Self::Splice => Some(Mechanism::Splice),
            Self::Gift => Some(Mechanism::Gift),
            Self::MsgZerocopy => Some(Mechanism::MsgZerocopy),
            Self::IoUring => Some(Mechanism::IoUring),
            Self::Auto => None,
        }
    }

    /// False if this build does not have it.
    fn is_built(self) -> bool {
        self != Self::IoUring || cfg!(zerosink_uring)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mechanism().map_or("auto", Mechanism::as_str))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Loopback.
    Tcp,
    /// TCP between two network namespaces.
    Veth,
    Unix,
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Veth, Self::Unix];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Veth => "veth",
            Self::Unix => "unix",
        }
    }

    fn connect(self, network: Option<&Network>) -> io::Result<(Socket, Reader)> {
        match self {
            Self::Tcp => ends::tcp(Place::Apart),
            Self::Unix => ends::unix(Place::Apart),
            Self::Veth => {
                let network = network.ok_or_else(|| io::Error::other("no network"))?;
                let (near, far) = network.connection()?;
                ends::over_tcp(near, far, Place::Apart)
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) link: Link,
    pub(crate) reuse: Reuse,
    pub(crate) pages: Pages,
    pub(crate) chunk: usize,
    pub(crate) total: u64,
}

impl Cell {
    /// Whether `auto` may use it without anybody's word.
    pub(crate) fn permits(&self, contender: Contender) -> bool {
        let family = if self.link == Link::Unix { Family::Unix } else { Family::Tcp };
        let permitted = |m| Policy::proof_for(m, family, Path::SameHost, self.reuse, Trust::default()).is_ok();
        contender.is_built() && contender.mechanism().is_none_or(permitted)
    }

    /// Seconds from the first byte written until the reader has found the end of file, and the mechanism that took most.
    pub(crate) fn run(&self, contender: Contender, network: Option<&Network>) -> io::Result<(f64, Mechanism)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = match contender.mechanism() {
            Some(mechanism) => SinkConfig::new().mechanism(mechanism),
            None => SinkConfig::new(),
        };
        let ring = self.ring()?;
        let kept = self.prefilled(&ring)?;
        let (socket, reader) = self.link.connect(network)?;
        let start = Instant::now();
        let used = match socket {
            Socket::Tcp(socket) => runtime.block_on(self.send(socket, config, &ring, &kept)),
            Socket::Unix(socket) => runtime.block_on(self.send(socket, config, &ring, &kept)),
        }?;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{contender}: {error}"));
        Ok(((reader.finish(self.total).map_err(named)? - start).as_secs_f64(), used))
    }

    fn ring(&self) -> io::Result<Ring> {
        let memory = MappedMemory::anonymous(RING, self.pages)?;
        if let Some(fallback) = memory.fallbacks().first() {
            return Err(io::Error::other(format!("{fallback}")));
        }
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
