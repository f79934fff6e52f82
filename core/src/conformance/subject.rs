//! What whoever mounts the kit supplies.

use std::{
    fmt,
    future::Future,
    io::{self, Read},
    pin::Pin,
    time::Duration,
};

use async_trait::async_trait;

use super::{Link, Socket};
use crate::{Mechanism, Ring, SinkConfig, ZeroCopySink};

/// A backend under test, with everything around it that core does not know: a runtime, a link, memory, and what only
/// system calls can do.
///
/// Each check asks for what it needs, anew, on a thread of its own. Several checks may run at once.
#[async_trait]
pub trait Subject: Send + Sync + fmt::Debug {
    /// The mechanism under test. Sinks and statistics must name the same.
    fn mechanism(&self) -> Mechanism;

    /// Where the connections go.
    fn link(&self) -> &dyn Link;

    /// A new runtime. Some checks end it while memory is in custody.
    ///
    /// # Errors
    ///
    /// As the runtime's own.
    fn runtime(&self) -> io::Result<Box<dyn Runtime>>;

    /// Makes a sink on `socket` that sends by the backend under test and by nothing else. Runs inside of a
    /// [`runtime`](Self::runtime).
    ///
    /// # Errors
    ///
    /// If the backend refuses: the check fails then.
    async fn sink(&self, socket: Socket, config: SinkConfig) -> io::Result<Box<dyn ZeroCopySink + Unpin>>;

    /// A ring of `capacity` bytes, or a few more, whose memory the mechanism can send, and which writes `poison` over what comes
    /// back ([`RingBuilder::poison`](crate::ring::RingBuilder::poison)). The default is on heap.
    ///
    /// # Errors
    ///
    /// As building the ring.
    fn ring(&self, capacity: usize, poison: u8) -> io::Result<Ring> {
        Ring::builder().capacity(capacity).poison(poison).build().map_err(io::Error::other)
    }

    /// The settings of the sinks: the user's word about the peer, and the path. The kit sets the release time-out.
    fn config(&self) -> SinkConfig {
        SinkConfig::new()
    }

    /// The outside witness: from now on this *thread* can put bytes on a socket by the mechanism under test and in no other
    /// way; another is an error, or the end of the process. On Linux a seccomp filter does that. The thread sends one stream,
    /// and ends.
    ///
    /// `None`: there is no witness, and statistics are believed. An error: there is none on this host.
    fn confine(&self) -> Option<io::Result<()>> {
        None
    }

    /// Takes `bytes` bytes out of a peer's socket *without copying them*, and returns when they are out. What this returns reads
    /// them later. On Linux `splice(2)` into a pipe does that.
    ///
    /// `None`: no peer can do that here, or none of a user's will, because he said so
    /// ([`SinkConfig::peer_copies`], [`SinkConfig::trust_peer_acks`]).
    fn splice_away(&self, socket: &Socket, bytes: usize) -> Option<io::Result<Box<dyn Read + Send>>> {
        let _ = (socket, bytes);
        None
    }

    /// No single step of a check takes longer, or it hangs.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }
}

/// A runtime that drives sinks. Dropping it ends it: tasks are dropped, I/O is driven no more.
pub trait Runtime: Send {
    /// Runs `future` to its end on this thread.
    fn block_on(&self, future: Pin<&mut (dyn Future<Output = ()> + '_)>);
}
