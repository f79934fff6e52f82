//! `auto` changes the mechanism in mid-stream, send by send: order and bytes survive it, and every refusal has its reason.
#![cfg(zerosink_linux)]

#[path = "../harness/mod.rs"]
mod harness;
mod mixed;
mod reasons;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;

use std::{net::TcpStream, os::unix::net::UnixStream};

use zerosink::{AutoSink, prelude::*};

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

/// Says why there is no network here, if so.
#[track_caller]
fn without_network(test: &str) -> bool {
    let missing = wire::missing();
    missing.inspect(|why| harness::skip(test, why)).is_some()
}
