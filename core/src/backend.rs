//! The plug-in seam.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{AttachError, Connection, Mechanism, SinkConfig, Support, ZeroCopySink};

/// A mechanism's implementation. This is the cold path: one call per connection.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Which mechanism this is.
    fn mechanism(&self) -> Mechanism;

    /// Whether this host permits it: found out by doing, not by version; asked once, the answer is kept.
    fn probe(&self) -> Support;

    /// Makes a sink that sends on `connection` by this mechanism. Several sinks may be attached to one connection; they
    /// take turns, and a turn changes only when the one before has flushed.
    ///
    /// # Errors
    ///
    /// If this socket or configuration does not permit the mechanism. The connection is then as it was.
    async fn attach(
        &self,
        connection: &Arc<Connection>,
        config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError>;
}
