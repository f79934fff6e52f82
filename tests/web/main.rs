//! Web services on zero-copy streams: what hyper hands down leaves by custody, whoever serves and whoever asks.
#![cfg(feature = "axum")]

mod app;
mod client;
mod connections;
mod counting;
#[path = "../harness/mod.rs"]
mod harness;
mod provenance;
mod server;
#[path = "../support/mod.rs"]
mod support;
