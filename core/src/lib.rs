//! Vocabulary, traits, custody, ring buffer and policy of zerosink.
//!
//! This crate knows no runtime and makes no system call. A third party writes a [`Backend`] against it alone.
//!
//! Two moments have two names here, and everything else follows from keeping them apart:
//!
//! * **accepted**: the sink owns the bytes and will put them on the stream in order;
//! * **released**: nobody but the owner can read the memory any more, so it may be written again.
//!
//! Between the two the [`Connection`] has the memory in custody: it keeps a clone of the [`bytes::Bytes`] that was
//! sent, and drops it when a [`Proof`] of release arrives.

pub mod backend;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod connection;
pub mod custody;
pub mod demotion;
pub mod error;
pub mod ext;
pub mod into_sink;
pub mod mechanism;
pub mod memory;
pub mod path;
pub mod policy;
pub mod proof;
pub mod queue;
pub mod reactor;
pub mod region;
pub mod ring;
pub mod sink;
pub mod stats;
pub mod support;
pub mod transmit;

pub use backend::Backend;
pub use config::SinkConfig;
pub use connection::{Connection, Queued};
pub use error::{AttachError, ReleaseError, SendError};
pub use ext::ZeroCopySinkExt;
pub use into_sink::IntoSink;
pub use mechanism::Mechanism;
pub use memory::{Memory, MemoryFacts, Reuse};
pub use path::Path;
pub use policy::{Policy, Refusal};
pub use proof::{Proof, Trust};
pub use queue::{Segment, SendQueue};
pub use reactor::Reactor;
pub use region::owner_of;
pub use ring::{Grant, Ring};
pub use sink::{Position, ZeroCopySink};
pub use stats::SinkStats;
pub use support::Support;
pub use transmit::Transmit;
