#![doc = include_str!("../README.md")]

pub use zerosink_core::{
    AttachError, Backend, Connection, IntoSink, Mechanism, Path, Policy, Proof, Queued, Reactor, Refusal, ReleaseError,
    Segment, SendError, SendQueue, SinkConfig, SinkStats, Support, Transmit, Trust, ZeroCopySink, ZeroCopySinkExt,
    memory::{self, Reuse},
    policy,
    region::{self, owner_of},
    ring::{self, Grant, Ring, RingError},
    sink::Position,
};

pub use zerosink_backends::{Address, AutoReadHalf, AutoSink, probe};

/// The backends by themselves, for those who build their own ladder.
pub mod backends {
    pub use zerosink_backends::copy::Copy;
    #[cfg(zerosink_uring)]
    pub use zerosink_backends::io_uring::IoUring;
    #[cfg(zerosink_linux)]
    pub use zerosink_backends::{
        msg_zerocopy::MsgZerocopy,
        splice::{Gift, Splice},
    };
}

/// Mapped memory for rings, whose pages can be replaced, and immutable memory from files.
#[cfg(zerosink_linux)]
pub mod mapped {
    pub use zerosink_backends::memory::{Fallback, MapOptions, MappedMemory, Pages, Region, RegionError, Replacement};
}

/// Sinks under hyper: the byte stream that it writes to, listeners that make such streams, and a server with limits.
#[cfg(feature = "hyper")]
pub mod hyper {
    pub use zerosink_adapters::{
        listener::{Accept, Duplex, ZeroCopyListener},
        serve::{Http, Serve, client_address, serve},
    };

    /// The byte stream over a sink; see [`zerosink_adapters::stream::ZeroCopyStream`].
    pub type ZeroCopyStream<S = crate::AutoSink> = zerosink_adapters::stream::ZeroCopyStream<S>;
}
#[cfg(feature = "hyper")]
pub use zerosink_adapters::serve::serve;

/// Listeners for `axum::serve`.
#[cfg(feature = "axum")]
pub mod axum {
    pub use zerosink_adapters::axum::{Stream, Tapped, ZeroCopyListenerExt};
}

/// HTTP bodies out of rings, and ranges of them.
#[cfg(any(feature = "hyper", feature = "tower"))]
pub mod body {
    pub use zerosink_adapters::{
        body::*,
        range::{Representation, Selection},
    };
}

/// A layer that gives handlers a ring and lets bodies on heap go without a copy, and a service that makes sinks.
#[cfg(feature = "tower")]
pub mod tower {
    #[cfg(feature = "axum")]
    pub use zerosink_adapters::layer::{AppFuture, ZeroCopyApp};
    pub use zerosink_adapters::layer::{ResponseFuture, ZeroCopy, ZeroCopyBody, ZeroCopyLayer};

    /// Makes sinks; see [`zerosink_adapters::tower`].
    pub type MakeSink<By = zerosink_backends::By> = zerosink_adapters::tower::MakeSink<By>;
}

/// Whether a backend keeps its promises: checks, and a mount of them for backends on this crate's connections.
#[cfg(feature = "conformance")]
pub mod conformance {
    pub use zerosink_backends::conformance::Mount;
    pub use zerosink_core::conformance::*;
}
#[cfg(feature = "conformance")]
pub use zerosink_core::conformance_tests;

/// Everything that a program which sends needs.
pub mod prelude {
    pub use crate::{
        AutoSink, IntoSink as _, Mechanism, Reuse, Ring, SendQueue, SinkConfig, ZeroCopySink, ZeroCopySinkExt as _,
    };
}
