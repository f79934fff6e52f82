//! System calls, driver and backends of zerosink, for tokio.
//!
//! [`AutoSink`] is what `ZeroCopySink::auto(socket)` makes of tokio's and the standard library's stream sockets. On Linux
//! it chooses among the mechanisms that this host permits; elsewhere, and with `--cfg zerosink_portable`, it copies.
//!
//! The rooms: `sys` is the only place with system calls, `driver` watches sockets and drops custody, `copy`,
//! `splice`, `msg_zerocopy` and `io_uring` have the backends, `auto` is the ladder, [`probe`] says what the host permits.

#[cfg(zerosink_linux)]
mod calibration;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod copy;
#[cfg(zerosink_linux)]
mod driver;
mod handle;
#[cfg(zerosink_uring)]
pub mod io_uring;
#[cfg(zerosink_linux)]
pub mod memory;
#[cfg(zerosink_linux)]
pub mod msg_zerocopy;
mod path;
#[cfg(not(zerosink_linux))]
mod portable;
pub mod probe;
mod runtime;
#[cfg(zerosink_linux)]
pub mod splice;
#[cfg(zerosink_linux)]
mod sys;

pub mod auto;

pub use auto::{Address, AutoReadHalf, AutoSink, By};
