//! What makes a release true, and whose word it is.

use std::fmt;

/// What makes "this memory may be written again" true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proof {
    /// The call returned and the kernel has its own copy.
    Copied,
    /// The kernel's reference count fell to zero and it said so (`MSG_ZEROCOPY`, `SEND_ZC`). Holds for any peer on
    /// any path, also after a revoke. See `Documentation/networking/msg_zerocopy.rst`.
    Notified,
    /// The pages were swapped for fresh ones before reuse, in whole aligned units.
    Replaced,
    /// The memory is never written again, nor given back to an allocator while referenced.
    Immutable,
    /// The peer acknowledged the bytes. Worth as much as the peer: it may acknowledge what has not yet left.
    Acked,
    /// The `AF_UNIX` reader took the bytes. Worth as much as the reader: one that splices keeps the pages.
    Consumed,
}

impl Proof {
    /// True for proofs that the kernel gives by itself; `auto` uses no others.
    #[must_use]
    pub const fn is_kernel_proof(self) -> bool {
        matches!(self, Self::Copied | Self::Notified | Self::Replaced | Self::Immutable)
    }

    /// True for proofs that come some time after the send, so that memory is in custody meanwhile; the others hold at once.
    #[must_use]
    pub const fn is_awaited(self) -> bool {
        matches!(self, Self::Notified | Self::Acked | Self::Consumed)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Copied => "copied",
            Self::Notified => "notified",
            Self::Replaced => "replaced",
            Self::Immutable => "immutable",
            Self::Acked => "acked",
            Self::Consumed => "consumed",
        })
    }
}

/// The user's word about the peer. Empty unless the user gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Trust {
    /// The peer acknowledges only bytes that it has received; see [`crate::SinkConfig::trust_peer_acks`].
    pub peer_acks: bool,
    /// The `AF_UNIX` peer reads by copying; see [`crate::SinkConfig::peer_copies`].
    pub peer_copies: bool,
}

impl Trust {
    /// True if a release on this proof is permitted.
    #[must_use]
    pub const fn permits(self, proof: Proof) -> bool {
        match proof {
            Proof::Acked => self.peer_acks,
            Proof::Consumed => self.peer_copies,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_proofs_need_the_users_word() {
        let nobody = Trust::default();
        assert!(!nobody.permits(Proof::Acked) && !nobody.permits(Proof::Consumed));
        for proof in [Proof::Copied, Proof::Notified, Proof::Replaced, Proof::Immutable] {
            assert!(proof.is_kernel_proof() && nobody.permits(proof));
        }
        let word = Trust { peer_acks: true, peer_copies: false };
        assert!(word.permits(Proof::Acked) && !word.permits(Proof::Consumed));
    }
}
