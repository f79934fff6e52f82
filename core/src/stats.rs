//! Counters that an operator can read.

use std::time::Duration;

use crate::{Mechanism, Refusal};

/// Counters of one sink since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkStats {
    /// Bytes accepted by a zero-copy mechanism. `bytes_zero_copy + bytes_copied` is the position's `accepted`.
    pub bytes_zero_copy: u64,
    /// Bytes copied by the send call.
    pub bytes_copied: u64,
    /// Bytes accepted by each mechanism, indexed by [`Mechanism::index`].
    pub sent: [u64; Mechanism::ALL.len()],
    /// [`bytes_copied`](Self::bytes_copied) by reason, indexed by [`Refusal::index`]; read it with
    /// [`copied_by`](Self::copied_by).
    pub copied: [u64; Refusal::ALL.len()],
    /// Send calls by a zero-copy mechanism.
    pub sends_zero_copy: u64,
    /// Send calls that copied.
    pub sends_copied: u64,
    /// Send calls that found the socket full.
    pub would_block: u64,
    /// Sends whose release the kernel notified.
    pub notified: u64,
    /// Of these, sends that the kernel copied on delivery after all.
    pub notified_copied: u64,
    /// Times the kernel had no memory for a zero-copy send (`ENOBUFS`).
    pub no_buffers: u64,
    /// Notifications that named no send in custody. Anything but 0 is a bug worth reporting.
    pub strays: u64,
    /// Bytes in custody now.
    pub pinned_bytes: u64,
    /// The most bytes that were ever in custody.
    pub pinned_high_water: u64,
    /// How long the oldest send in custody has been there.
    pub oldest_pin: Option<Duration>,
    /// The longest that any send was in custody.
    pub longest_pin: Duration,
    /// Bytes in quarantine: release was not proven in time, so they are not reused.
    pub quarantined_bytes: u64,
    /// Bytes whose release can never be proven: the connection ended before the peer said that it has them. Rings
    /// replaced the pages or put them into quarantine; other memory is kept for ever.
    pub abandoned_bytes: u64,
    /// Times the driver asked the kernel how far the peer is (`SIOCOUTQ`).
    pub looks: u64,
    /// Of these, how often because an event said so, and not a timer, or a sender at its limit of pinned bytes.
    pub looks_by_event: u64,
    /// Why each mechanism was last refused, indexed by [`Mechanism::index`]. `None`: it is in use or was not asked.
    pub refused: [Option<Refusal>; Mechanism::ALL.len()],
}

impl SinkStats {
    /// Bytes copied, with the reason, leaving out reasons that never applied.
    pub fn copied_by(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.copied).filter(|(_, bytes)| *bytes > 0)
    }

    /// The mechanism that accepted the most bytes; copy if there were none.
    #[must_use]
    pub fn main_mechanism(&self) -> Mechanism {
        Mechanism::ALL.into_iter().rev().max_by_key(|m| self.sent[m.index()]).unwrap_or(Mechanism::Copy)
    }

    /// Mechanisms that are refused, with the reason.
    pub fn refusals(&self) -> impl Iterator<Item = (Mechanism, Refusal)> + '_ {
        Mechanism::ALL.into_iter().zip(self.refused).filter_map(|(m, r)| Some((m, r?)))
    }
}
