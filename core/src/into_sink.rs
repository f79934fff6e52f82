//! From a socket to the sink that fits it.

use std::{future::Future, io};

use crate::{SinkConfig, ZeroCopySink};

/// A socket that some crate knows how to make a sink of.
///
/// `By` is a marker type of the implementing crate: it lets that crate implement this trait for sockets it does not
/// own. Only one crate may do so for a given socket type, or `By` can no longer be inferred; for tokio's and the
/// standard library's sockets that crate is `zerosink-backends`.
pub trait IntoSink<By>: Sized {
    /// The sink that is made of this socket.
    type Sink: ZeroCopySink;

    /// Makes a sink of the socket.
    ///
    /// The runtime in which it is made drives it. Another one may send on it, as long as the first one runs: where nobody polls that
    /// one, nothing is released and no deadline kept. When it has ended, sends fail.
    ///
    /// # Errors
    ///
    /// If the socket is not a connected stream socket, there is no runtime to drive it, or a mechanism that
    /// [`SinkConfig`] insists on is refused.
    fn into_sink(self, config: SinkConfig) -> impl Future<Output = io::Result<Self::Sink>> + Send;
}
