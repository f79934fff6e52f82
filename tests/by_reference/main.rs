//! Sends by reference to pages, `splice` and `gift`: nothing tells when the kernel lets go of them, and still not one wrong byte.
//!
//! Each property has a control, in which its protection is out and wrong bytes are seen.
#![cfg(zerosink_linux)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;

mod acknowledged;
mod dropped;
mod ended;
mod integrity;
mod refusals;
mod word;

use std::{net::TcpStream, os::unix::net::UnixStream};

use zerosink::{AutoSink, Refusal, SinkStats, prelude::*};

/// A socket of either kind.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn into_sink(self, config: SinkConfig) -> AutoSink {
        match self {
            Self::Tcp(socket) => socket.into_sink(config).await,
            Self::Unix(socket) => socket.into_sink(config).await,
        }
        .unwrap()
    }
}

/// Insists on a mechanism, so that every send of any size goes by it if it may.
fn by(mechanism: Mechanism) -> SinkConfig {
    SinkConfig::new().mechanism(mechanism)
}

fn sent_by(stats: &SinkStats, mechanism: Mechanism) -> u64 {
    stats.sent[mechanism.index()]
}

fn copied_by(stats: &SinkStats, reason: Refusal) -> u64 {
    stats.copied[reason.index()]
}

/// Says why there is no network here, if so.
#[track_caller]
fn without_network(test: &str) -> bool {
    let missing = wire::missing();
    missing.inspect(|why| harness::skip(test, why)).is_some()
}
