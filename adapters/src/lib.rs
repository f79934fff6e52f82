//! Adapters of zerosink for web services: tower, hyper and axum.
//!
//! * [`tower`]: a `Service` that makes sinks, so that they compose with tower's middleware.
//! * `stream`: a sink as the stream that hyper writes to. `listener`: such streams out of listening sockets. `serve`: an HTTP
//!   server with its limits. Feature `hyper`.
//! * `axum`: listeners for `axum::serve`. Feature `axum`.

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "hyper")]
pub mod listener;
#[cfg(feature = "hyper")]
pub mod serve;
#[cfg(feature = "hyper")]
pub mod stream;
#[cfg(feature = "tower")]
pub mod tower;
