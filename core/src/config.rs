//! What a user may decide about a sink.

use std::time::Duration;

use crate::{Mechanism, Path, Trust};

/// Settings of one sink. The default sends by kernel proofs only and learns the rest from the host.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SinkConfig {
    /// Insist on one mechanism instead of a ladder; copy remains as the step below it for single sends.
    pub mechanism: Option<Mechanism>,
    /// The user's word about the peer.
    pub trust: Trust,
    /// Sends below this many bytes are copied. `None`: measured on this host.
    pub copy_threshold: Option<usize>,
    /// At most this many bytes are pinned by this connection; beyond it sends are copied.
    pub max_pinned_bytes: u64,
    /// The connection is revoked when memory in custody, or a write on a full socket, waits for the peer and for this long nothing was
    /// released and the peer acknowledged nothing.
    pub release_timeout: Duration,
    /// TCP: the socket counts as full while this many bytes are in it that have not been sent yet. `None`: as the system has
    /// it (`net.ipv4.tcp_notsent_lowat`).
    pub notsent_low_water: Option<u32>,
    /// Overrides what the path oracle would find.
    pub path: Option<Path>,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            mechanism: None,
            trust: Trust::default(),
            copy_threshold: None,
            max_pinned_bytes: 16 << 20,
            release_timeout: Duration::from_secs(30),
            notsent_low_water: None,
            path: None,
        }
    }
}

impl SinkConfig {
    /// The default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Insists on `mechanism`. Making the sink fails if host, socket or trust do not permit it.
    #[must_use]
    pub const fn mechanism(mut self, mechanism: Mechanism) -> Self {
        self.mechanism = Some(mechanism);
        self
    }

    /// Copies every send of fewer than `bytes` bytes.
    #[must_use]
    pub const fn copy_threshold(mut self, bytes: usize) -> Self {
        self.copy_threshold = Some(bytes);
        self
    }

    /// Bounds what one peer can hold: `bytes` in custody, then sends are copied.
    #[must_use]
    pub const fn max_pinned_bytes(mut self, bytes: u64) -> Self {
        self.max_pinned_bytes = bytes;
        self
    }

    /// Revokes the connection after `timeout` without progress of the peer, while memory in custody or a write waits for it. A slow
    /// peer makes progress, a silent one none, and an idle connection waits for nobody.
    #[must_use]
    pub const fn release_timeout(mut self, timeout: Duration) -> Self {
        self.release_timeout = timeout;
        self
    }

    /// Takes no more than `bytes` into the socket ahead of what the network takes (`TCP_NOTSENT_LOWAT`), so that a slow client holds less
    /// memory. 128 KiB costs no throughput on most paths. Linux; without effect on `AF_UNIX`.
    #[must_use]
    pub const fn notsent_low_water(mut self, bytes: u32) -> Self {
        self.notsent_low_water = Some(bytes);
        self
    }

    /// Says where the packets go, instead of finding out.
    #[must_use]
    pub const fn path(mut self, path: Path) -> Self {
        self.path = Some(path);
        self
    }

    /// Your word that the TCP peer acknowledges only what it has received, on a path that leaves this host and stays so.
    ///
    /// If it is misplaced, one tenant reads another's bytes: a peer that acknowledges early receives what is written
    /// into the memory next, and so does any receiver that shares this host.
    #[must_use]
    pub const fn trust_peer_acks(mut self) -> Self {
        self.trust.peer_acks = true;
        self
    }

    /// Your word that the `AF_UNIX` peer reads with `read(2)` or `recv(2)`.
    ///
    /// If it is misplaced, the peer reads what is written into the memory next: a reader that splices the socket into a
    /// pipe keeps the sender's own pages, also when it is gone. The word is about whoever has the socket, and a peer can pass it
    /// on (`SCM_RIGHTS`).
    ///
    /// How far the reader is, the kernel tells in whole buffers of up to 64 KiB. One that needs longer than
    /// [`release_timeout`](Self::release_timeout) for one of them is given up.
    #[must_use]
    pub const fn peer_copies(mut self) -> Self {
        self.trust.peer_copies = true;
        self
    }
}
