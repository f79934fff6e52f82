//! What the user asked for.

use std::{net::SocketAddr, path::PathBuf};

use bytesize::ByteSize;
use clap::Parser;
use zerosink::{Mechanism, Path, Policy, Reuse, SinkConfig, policy::Family};

#[derive(Debug, Parser)]
#[command(about = "Streams a file over a real connection out of a ring buffer and verifies every byte")]
pub(crate) struct Arguments {
    /// The file to send, again and again [default: this executable]
    pub(crate) path: Option<PathBuf>,
    /// How much to send
    #[arg(long, default_value = "1GiB")]
    pub(crate) total: ByteSize,
    /// The ring's capacity
    #[arg(long, default_value = "8MiB")]
    pub(crate) ring: ByteSize,
    /// How much to read and send at a time
    #[arg(long, default_value = "64KiB")]
    pub(crate) chunk: ByteSize,
    /// Insist on one mechanism: copy, splice, gift, msg-zerocopy, io-uring
    #[arg(long, value_name = "NAME")]
    pub(crate) mechanism: Option<Mechanism>,
    /// How the ring's memory is reused: in-place, fresh-pages, immutable [default: what the mechanism needs]
    #[arg(long)]
    pub(crate) reuse: Option<Reuse>,
    /// Your word that the TCP peer acknowledges only what it has received
    #[arg(long)]
    trust_peer_acks: bool,
    /// Your word that the AF_UNIX peer reads by copying
    #[arg(long)]
    peer_copies: bool,
    /// Use an AF_UNIX pair instead of TCP
    #[arg(long, conflicts_with_all = ["listen", "connect"])]
    unix: bool,
    /// Only receive: wait for one sender at this address
    #[arg(long, value_name = "ADDR", conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Only send, to a receiver at this address
    #[arg(long, value_name = "ADDR")]
    connect: Option<SocketAddr>,
    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the other end is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Endpoint {
    Loopback,
    UnixPair,
    Listen(SocketAddr),
    Connect(SocketAddr),
}

impl Arguments {
    pub(crate) fn endpoint(&self) -> Endpoint {
        match (self.unix, self.listen, self.connect) {
            (true, ..) => Endpoint::UnixPair,
            (_, Some(address), _) => Endpoint::Listen(address),
            (_, _, Some(address)) => Endpoint::Connect(address),
            _ => Endpoint::Loopback,
        }
    }

    pub(crate) fn config(&self) -> SinkConfig {
        let mut config = SinkConfig::new();
        if let Some(mechanism) = self.mechanism {
            config = config.mechanism(mechanism);
        }
        if self.trust_peer_acks {
            config = config.trust_peer_acks();
        }
        if self.peer_copies {
            config = config.peer_copies();
        }
        config
    }

    /// What the mechanism needs, unless the user says otherwise: with his word about the peer it may be in place.
    pub(crate) fn reuse(&self) -> Reuse {
        let word = if self.unix { self.peer_copies } else { self.trust_peer_acks };
        self.reuse.unwrap_or(match self.mechanism {
            Some(Mechanism::Splice) if word => Reuse::InPlace,
            Some(Mechanism::Splice | Mechanism::Gift) => Reuse::FreshPages,
            _ => Reuse::InPlace,
        })
    }

    /// Why the mechanism that was insisted on may not send from this ring on this path.
    pub(crate) fn refusal(&self, path: Path) -> Option<String> {
        let mechanism = self.mechanism?;
        let family = if self.unix { Family::Unix } else { Family::Tcp };
        // What is not known yet will be found out by the first sends.
        let path = if path == Path::Unknown { Path::OffHost } else { path };
        let refusal = Policy::proof_for(mechanism, family, path, self.reuse(), self.config().trust).err()?;
        let reuse = self.reuse();
        Some(format!("{mechanism} is refused for {reuse} memory on this path ({path}): {}", refusal.explanation()))
    }
}
