//! The ways to send that are measured on each path.

use std::fmt;

use zerosink::{Mechanism, SinkConfig, policy::Family};

/// A mechanism, with the memory that it is for, or the choice of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One mechanism, of the memory that it is for: the user insists on it.
    By(Mechanism),
    /// `splice` of a memfd, which goes by `sendfile`.
    Sendfile,
    /// `splice` of memory that is never written again.
    Immutable,
    /// `splice` of memory that is reused in place, on the word that the peer acknowledges, or copies, what it has. Where the packets
    /// go is left to the oracle.
    OnThePeersWord,
    /// As it comes.
    Auto,
}

impl Way {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::By(Mechanism::Copy),
        Self::By(Mechanism::Splice),
        Self::Sendfile,
        Self::Immutable,
        Self::By(Mechanism::Gift),
        Self::By(Mechanism::MsgZerocopy),
        Self::By(Mechanism::IoUring),
        Self::OnThePeersWord,
        Self::Auto,
    ];

    /// Its name in records and in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::By(mechanism) => mechanism.as_str(),
            Self::Sendfile => "splice-memfd",
            Self::Immutable => "splice-immutable",
            Self::OnThePeersWord => "splice-trusting",
            Self::Auto => "auto",
        }
    }

    /// The mechanism that the user insists on.
    #[must_use]
    pub const fn mechanism(self) -> Option<Mechanism> {
        match self {
            Self::By(mechanism) => Some(mechanism),
            Self::Sendfile | Self::Immutable | Self::OnThePeersWord => Some(Mechanism::Splice),
            Self::Auto => None,
        }
    }

    /// The settings of its sink.
    #[must_use]
    pub fn config(self, family: Family) -> SinkConfig {
        let config = match self.mechanism() {
            Some(mechanism) => SinkConfig::new().mechanism(mechanism),
            // A guest's clock is no measure of what copying costs.
            None => SinkConfig::new().copy_threshold(0),
        };
        match (self, family) {
            (Self::OnThePeersWord, Family::Unix) => config.peer_copies(),
            (Self::OnThePeersWord, _) => config.trust_peer_acks(),
            _ => config,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
