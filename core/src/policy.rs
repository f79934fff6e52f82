//! Which mechanism a send may use: a pure function, so that its tests are tables.

use std::{fmt, io};

use crate::{Mechanism, Path, Proof, Reuse, Trust};

/// Why a mechanism was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The user insisted on another mechanism.
    NotChosen,
    /// No backend for it is attached to this connection: the host or the socket refused it.
    NotAttached,
    /// The send is smaller than the threshold: copying is cheaper.
    Small,
    /// The memory is borrowed for the call only, so nobody can take it into custody.
    Borrowed,
    /// Completions say that the kernel copies on delivery.
    CopiedOnDelivery,
    /// The kernel had no memory for it again and again (`ENOBUFS`: `RLIMIT_MEMLOCK`, `net.core.optmem_max`).
    NoBuffers,
    /// This connection holds as many pinned bytes as its budget permits.
    PinnedBudget,
    /// The ring that the memory is from has less free than its low-water mark, so nobody may hold more of it.
    RingLow,
    /// The memory is reused in place, and only the peer's word could prove its release: the user did not give his.
    PeerNotTrusted,
    /// The user trusts the peer, but the path is not known to leave this host.
    PathNotOffHost,
    /// The memory is not replaced page by page.
    NotFreshPages,
    /// This kind of socket does not know it.
    SocketFamily,
    /// The host forbids it: `EPERM` or `EACCES` from a sysctl, a seccomp filter or missing privileges.
    Forbidden,
    /// This kernel does not do it, or not on this socket: `ENOSYS`, `EINVAL`, `EOPNOTSUPP`.
    NotInKernel,
    /// No file descriptors are left for what it needs: `EMFILE`, `ENFILE`.
    NoDescriptors,
    /// The send does not consist of whole replacement units.
    PartialUnit,
    /// Both ends of the TCP connection are on one host, where small pages that have to be replaced for this send cost more than
    /// their copy.
    SameHost,
}

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const ENOPROTOOPT: i32 = 92;
const EOPNOTSUPP: i32 = 95;
const ENOBUFS: i32 = 105;

impl Refusal {
    /// Every reason, by index.
    pub const ALL: [Self; 17] = [
        Self::NotChosen,
        Self::NotAttached,
        Self::Small,
        Self::Borrowed,
        Self::CopiedOnDelivery,
        Self::NoBuffers,
        Self::PinnedBudget,
        Self::RingLow,
        Self::PeerNotTrusted,
        Self::PathNotOffHost,
        Self::NotFreshPages,
        Self::SocketFamily,
        Self::Forbidden,
        Self::NotInKernel,
        Self::NoDescriptors,
        Self::PartialUnit,
        Self::SameHost,
    ];

    /// The index into [`Refusal::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotChosen => "not-chosen",
            Self::NotAttached => "not-attached",
            Self::Small => "small",
            Self::Borrowed => "borrowed",
            Self::CopiedOnDelivery => "copied-on-delivery",
            Self::NoBuffers => "no-buffers",
            Self::PinnedBudget => "pinned-budget",
            Self::RingLow => "ring-low",
            Self::PeerNotTrusted => "peer-not-trusted",
            Self::PathNotOffHost => "path-not-off-host",
            Self::NotFreshPages => "not-fresh-pages",
            Self::SocketFamily => "socket-family",
            Self::Forbidden => "forbidden",
            Self::NotInKernel => "not-in-kernel",
            Self::NoDescriptors => "no-descriptors",
            Self::PartialUnit => "partial-unit",
            Self::SameHost => "same-host",
        }
    }

    /// True if no send of this memory to this peer is permitted.
    const fn is_of_memory(self) -> bool {
        matches!(self, Self::PeerNotTrusted | Self::PathNotOffHost | Self::NotFreshPages | Self::PartialUnit)
    }

    /// True if the mechanism does not come into question whatever is sent.
    const fn is_of_choice(self) -> bool {
        matches!(self, Self::NotChosen | Self::SocketFamily | Self::NotAttached)
    }

    /// What an error of the kernel means for a mechanism; `None` if it says nothing about the mechanism.
    #[must_use]
    pub fn from_error(error: &io::Error) -> Option<Self> {
        // Numbers of Linux, the only system where this is asked; the names are in `asm-generic/errno-base.h`.
        Some(match error.raw_os_error()? {
            EPERM | EACCES => Self::Forbidden,
            ENOSYS | EINVAL | EOPNOTSUPP | ENOPROTOOPT => Self::NotInKernel,
            EMFILE | ENFILE => Self::NoDescriptors,
            // The last is of `epoll_ctl`, at the limit of watches.
            ENOMEM | ENOBUFS | ENOSPC => Self::NoBuffers,
            _ => return None,
        })
    }
}

impl Refusal {
    /// What it means and what a user can do about it, as a sentence for people.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NotChosen => "another mechanism was insisted on",
            Self::NotAttached => "this build, host or socket has no backend for it; ask the probe why",
            Self::Small => {
                "the send is below the copy threshold, where copying is cheaper; see SinkConfig::copy_threshold"
            }
            Self::Borrowed => {
                "the memory is borrowed for the call only; offer it as Bytes to have it taken into custody"
            }
            Self::CopiedOnDelivery => {
                "the kernel copies on delivery here (same host), so zero-copy gains nothing; it is tried again later"
            }
            Self::NoBuffers => {
                "the kernel has no memory for it (ENOBUFS); raise RLIMIT_MEMLOCK, net.core.optmem_max or fs.epoll.max_user_watches; it is tried again later"
            }
            Self::PinnedBudget => {
                "this connection holds as many pinned bytes as it may; see SinkConfig::max_pinned_bytes"
            }
            Self::RingLow => {
                "the ring is nearly full, so its memory is copied and comes back at once; see RingBuilder::low_water"
            }
            Self::PeerNotTrusted => {
                "memory that is reused in place would rest on the peer's word; use a ring of fresh pages, or give your word with trust_peer_acks() or peer_copies()"
            }
            Self::PathNotOffHost => "the peer's acknowledgements prove nothing on a path that may stay on this host",
            Self::NotFreshPages => {
                "the memory is not replaced page by page; use a ring with Reuse::FreshPages on mapped memory"
            }
            Self::SocketFamily => "this kind of socket does not know it",
            Self::Forbidden => {
                "the host forbids it; look at the sysctl, the seccomp filter of the container, and the privileges"
            }
            Self::NotInKernel => "this kernel does not do it, or not on this socket",
            Self::NoDescriptors => {
                "no file descriptors are left; raise RLIMIT_NOFILE or close some; it is tried again later"
            }
            Self::PartialUnit => {
                "only whole replacement units can be given away; reserve whole units of the ring's memory"
            }
            Self::SameHost => {
                "both ends are on this host, where TCP is faster with a copy than with small pages that are replaced; map larger ones, or reuse the memory in place"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kind of stream socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// `AF_UNIX`.
    Unix,
}

/// From how many bytes on a zero-copy send is cheaper than copying, by what its release costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// The kernel notifies: pins and a message for each send.
    pub notified: usize,
    /// Nothing but references to the pages: they are never written again, or the peer acknowledges them, or a ring replaces
    /// them, which a ring of fresh pages does however they were sent.
    pub referred: usize,
}

impl Thresholds {
    /// The same for all.
    #[must_use]
    pub const fn all(bytes: usize) -> Self {
        Self { notified: bytes, referred: bytes }
    }

    /// Sends of fewer bytes are copied whatever their memory is.
    #[must_use]
    #[inline]
    pub fn least(&self) -> usize {
        self.notified.min(self.referred)
    }

    /// Sends of fewer bytes, to be released by `proof`, are copied.
    #[must_use]
    pub const fn of(&self, proof: Proof) -> usize {
        match proof {
            Proof::Copied => 0,
            Proof::Notified => self.notified,
            Proof::Immutable | Proof::Replaced | Proof::Acked | Proof::Consumed => self.referred,
        }
    }
}

/// Everything the decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The kind of socket.
    pub family: Family,
    /// Where the packets go.
    pub path: Path,
    /// How the memory is reused. Heap memory of unknown origin is [`Reuse::InPlace`].
    pub reuse: Reuse,
    /// Bytes of the memory's replacement unit ([`MemoryFacts::unit`](crate::memory::MemoryFacts::unit)).
    pub unit: usize,
    /// Whether the memory was sent before ([`was_sent`](crate::region::was_sent)); of interest for fresh pages alone.
    pub sent_before: bool,
    /// Bytes offered that could go in one call.
    pub bytes: usize,
    /// From how many bytes on zero-copy pays.
    pub thresholds: Thresholds,
    /// The user's word about the peer.
    pub trust: Trust,
    /// The mechanism that the user insists on.
    pub forced: Option<Mechanism>,
    /// Which mechanisms have no backend on this connection, and why, by [`Mechanism::index`].
    pub absent: [Option<Refusal>; Mechanism::ALL.len()],
    /// Which mechanisms are off for a while, and why.
    pub demoted: [Option<Refusal>; Mechanism::ALL.len()],
    /// Whether the pinned-bytes budget has room for this send.
    pub pin_room: bool,
    /// Whether the ring that the memory is from has less free than its low-water mark.
    pub ring_low: bool,
}

impl Situation {
    /// Whether the rules say the same in both: they differ in nothing but the bytes, and these reach the same thresholds.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let reached = |bytes| (bytes >= self.thresholds.notified, bytes >= self.thresholds.referred);
        reached(self.bytes) == reached(other.bytes)
            // The destructuring makes a new field a compile error here.
            && {
                let Self { family, path, reuse, unit, sent_before, bytes: _, thresholds, trust, forced, absent, demoted, pin_room, ring_low } = self;
                (*family, *path, *reuse, *forced) == (other.family, other.path, other.reuse, other.forced)
                    && (*unit, *sent_before) == (other.unit, other.sent_before)
                    && (*pin_room, *ring_low) == (other.pin_room, other.ring_low)
                    && *demoted == other.demoted
                    && *absent == other.absent
                    && *trust == other.trust
                    && *thresholds == other.thresholds
            }
    }
}

/// The rules. They hold no state: history comes in through [`Situation`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy;

/// The mechanisms that a send may use, best first; copy is always the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    rungs: [Mechanism; Mechanism::ALL.len()],
    length: usize,
    /// Why each mechanism that is not on the ladder was refused, by [`Mechanism::index`].
    pub refused: [Option<Refusal>; Mechanism::ALL.len()],
    order: [Mechanism; 4],
}

impl Ladder {
    /// The rungs, best first.
    #[must_use]
    pub fn rungs(&self) -> &[Mechanism] {
        &self.rungs[..self.length]
    }

    /// Why the send is copied. Of several refusals: that of the best mechanism which could send this memory on this socket at
    /// another time or size; else what forbids the best that this socket and build know.
    #[must_use]
    pub fn why_copied(&self) -> Refusal {
        let refusals = || self.order.iter().filter_map(|mechanism| self.refused[mechanism.index()]);
        refusals()
            .find(|reason| !reason.is_of_memory() && !reason.is_of_choice())
            .or_else(|| refusals().find(|reason| !reason.is_of_choice()))
            .or_else(|| refusals().next())
            .unwrap_or(Refusal::NotAttached)
    }
}

impl Policy {
    /// Fresh pages of so many bytes and more cost no more than a copy on one host.
    const LARGE_UNIT: usize = 64 << 10;

    /// The mechanisms but copy, best first, if all of them were permitted.
    #[must_use]
    pub fn order(situation: &Situation) -> [Mechanism; 4] {
        use Mechanism::{Gift, IoUring, MsgZerocopy, Splice};
        let referred = match situation.reuse {
            Reuse::Immutable | Reuse::FreshPages => true,
            Reuse::InPlace => situation.trust.peer_acks,
        };
        match (situation.family, situation.path) {
            // Notified sends are copied on delivery here; pages that are referred to are not.
            (Family::Unix, _) | (_, Path::SameHost) => [Splice, Gift, MsgZerocopy, IoUring],
            // Without pins and notifications, if the release costs nothing else.
            _ if referred => [Splice, MsgZerocopy, IoUring, Gift],
            _ => [MsgZerocopy, IoUring, Splice, Gift],
        }
    }

    /// Which mechanisms this send may use.
    #[must_use]
    pub fn ladder(situation: &Situation) -> Ladder {
        let order = Self::order(situation);
        let mut ladder = Ladder { rungs: [Mechanism::Copy; 5], length: 0, refused: [None; 5], order };
        for mechanism in order {
            match Self::judge(mechanism, situation) {
                Ok(_) => {
                    ladder.rungs[ladder.length] = mechanism;
                    ladder.length += 1;
                }
                Err(refusal) => ladder.refused[mechanism.index()] = Some(refusal),
            }
        }
        ladder.rungs[ladder.length] = Mechanism::Copy;
        ladder.length += 1;
        ladder
    }

    /// Whether `mechanism` may take this send, and by which proof its memory would be released.
    ///
    /// # Errors
    ///
    /// The first rule that forbids it.
    pub fn judge(mechanism: Mechanism, situation: &Situation) -> Result<Proof, Refusal> {
        if mechanism == Mechanism::Copy {
            return Ok(Proof::Copied);
        }
        if situation.forced.is_some_and(|forced| forced != mechanism) && !Self::is_witness(mechanism, situation) {
            return Err(Refusal::NotChosen);
        }
        let proof = Self::proof(mechanism, situation)?;
        // Pages of a ring that is reused in place are given away on request only: its user asked to keep them.
        if mechanism == Mechanism::Gift && situation.reuse == Reuse::InPlace && situation.forced.is_none() {
            return Err(Refusal::NotFreshPages);
        }
        if let Some(reason) = situation.absent[mechanism.index()] {
            return Err(reason);
        }
        if let Some(reason) = situation.demoted[mechanism.index()] {
            return Err(reason);
        }
        if situation.bytes < situation.thresholds.of(proof) {
            return Err(Refusal::Small);
        }
        // `benches/ladder`: the receiver frees the pages on its own processor, and the ring is given cold ones. `benches/web`: for
        // memory that is sent again and again that is not much for each send.
        let on_one_host = (situation.family, situation.path) == (Family::Tcp, Path::SameHost);
        let dear = proof == Proof::Replaced && situation.unit < Self::LARGE_UNIT && !situation.sent_before;
        if dear && on_one_host && situation.forced.is_none() {
            return Err(Refusal::SameHost);
        }
        if !situation.pin_room && proof.is_awaited() {
            return Err(Refusal::PinnedBudget);
        }
        if situation.ring_low && proof.is_awaited() {
            return Err(Refusal::RingLow);
        }
        Ok(proof)
    }

    /// True if `mechanism` was not chosen but tells what the chosen one has to know: only completions can say that a path leaves
    /// this host, and splice of memory that is reused in place brings none.
    #[must_use]
    pub fn is_witness(mechanism: Mechanism, situation: &Situation) -> bool {
        mechanism == Mechanism::MsgZerocopy
            && situation.forced == Some(Mechanism::Splice)
            && (situation.family, situation.path) == (Family::Tcp, Path::Unknown)
            && situation.trust.peer_acks
            && situation.reuse == Reuse::InPlace
    }

    /// The proof that would release the memory.
    ///
    /// # Errors
    ///
    /// As [`proof_for`](Self::proof_for).
    pub fn proof(mechanism: Mechanism, situation: &Situation) -> Result<Proof, Refusal> {
        let Situation { family, path, reuse, trust, .. } = *situation;
        Self::proof_for(mechanism, family, path, reuse, trust)
    }

    /// The proof that would release memory of this kind; safety is decided here and nowhere else.
    ///
    /// # Errors
    ///
    /// If no permitted proof exists for this mechanism, memory, socket and trust.
    pub const fn proof_for(
        mechanism: Mechanism,
        family: Family,
        path: Path,
        reuse: Reuse,
        trust: Trust,
    ) -> Result<Proof, Refusal> {
        match (mechanism, family, reuse) {
            (Mechanism::Copy, ..) => Ok(Proof::Copied),
            (Mechanism::MsgZerocopy | Mechanism::IoUring, Family::Unix, _) => Err(Refusal::SocketFamily),
            (Mechanism::MsgZerocopy | Mechanism::IoUring, Family::Tcp, _) => Ok(Proof::Notified),
            // In place: if the lease is whole replacement units, which only its ring can tell.
            (Mechanism::Gift, _, Reuse::FreshPages | Reuse::InPlace) => Ok(Proof::Replaced),
            (Mechanism::Gift, _, Reuse::Immutable) => Err(Refusal::NotFreshPages),
            (Mechanism::Splice, _, Reuse::FreshPages) => Ok(Proof::Replaced),
            (Mechanism::Splice, _, Reuse::Immutable) => Ok(Proof::Immutable),
            (Mechanism::Splice, Family::Unix, Reuse::InPlace) => {
                if trust.peer_copies {
                    Ok(Proof::Consumed)
                } else {
                    Err(Refusal::PeerNotTrusted)
                }
            }
            (Mechanism::Splice, Family::Tcp, Reuse::InPlace) => match (trust.peer_acks, path) {
                (false, _) => Err(Refusal::PeerNotTrusted),
                (true, Path::OffHost) => Ok(Proof::Acked),
                (true, Path::SameHost | Path::Unknown) => Err(Refusal::PathNotOffHost),
            },
        }
    }
}

#[cfg(test)]
mod tests;
