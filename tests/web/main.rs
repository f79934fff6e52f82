//! Web services on zero-copy streams: what hyper hands down leaves by custody, whoever serves and whoever asks.
#![cfg(feature = "axum")]

mod app;
mod client;
mod connections;
mod copied;
mod counting;
mod endings;
mod examples;
#[path = "../harness/mod.rs"]
mod harness;
mod limits;
mod load;
mod packets;
mod provenance;
mod secret;
mod secrets;
mod server;
#[cfg(zerosink_linux)]
mod slow;
#[cfg(zerosink_linux)]
mod stalled;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod websocket;
