//! Adapters of zerosink for web services: tower, hyper and axum.
//!
//! | room | feature | what is in it |
//! |---|---|---|
//! | `stream` | `hyper` | a sink as the stream that hyper writes to |
//! | `listener` | `hyper` | such streams out of listening sockets |
//! | `serve` | `hyper` | an HTTP server with its limits |
//! | `axum` | `axum` | listeners for `axum::serve` |
//! | `body` | `body` | HTTP bodies that are produced in a ring and sent from there; with `axum`, responses and an extractor |
//! | `range` | `body` | answers to `Range`, `If-Range` and `HEAD` |
//! | `layer` | `tower` | a tower `Layer` that gives handlers the ring, and lets large bodies on heap go without a copy |
//! | `tower` | `tower` | a tower `Service` that makes sinks |

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "body")]
pub mod body;
#[cfg(any(feature = "body", feature = "hyper"))]
mod headroom;
#[cfg(feature = "tower")]
pub mod layer;
#[cfg(feature = "hyper")]
pub mod listener;
#[cfg(feature = "body")]
pub mod range;
#[cfg(feature = "hyper")]
pub mod serve;
#[cfg(feature = "hyper")]
pub mod stream;
#[cfg(feature = "tower")]
pub mod tower;
