//! The ways to send, by name.

use std::{fmt, str::FromStr};

/// One way to send bytes. The names are the same in flags, JSON, logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mechanism {
    /// `send(2)`: the kernel copies the bytes before the call returns.
    Copy,
    /// `vmsplice(2)` and `splice(2)`, or `sendfile(2)`: the kernel refers to the pages.
    Splice,
    /// Pages handed to the kernel and replaced by fresh ones.
    Gift,
    /// `send(2)` with `MSG_ZEROCOPY`: the kernel pins the pages and notifies.
    MsgZerocopy,
    /// `IORING_OP_SEND_ZC` and `IORING_OP_SENDMSG_ZC`.
    IoUring,
}

impl Mechanism {
    /// Every mechanism, in no order of preference.
    pub const ALL: [Self; 5] = [Self::Copy, Self::Splice, Self::Gift, Self::MsgZerocopy, Self::IoUring];

    /// The name used everywhere a person or a machine reads it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Gift => "gift",
            Self::MsgZerocopy => "msg-zerocopy",
            Self::IoUring => "io-uring",
        }
    }

    /// A small index, for tables of one entry per mechanism: `0..Mechanism::ALL.len()`.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name is none of the five mechanisms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownMechanism(String);

impl fmt::Display for UnknownMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no mechanism is called {:?}; the names are", self.0)?;
        for (i, m) in Mechanism::ALL.into_iter().enumerate() {
            write!(f, "{} {m}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownMechanism {}

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|m| m.as_str() == name).ok_or_else(|| UnknownMechanism(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_index_is_dense() {
        for (i, m) in Mechanism::ALL.into_iter().enumerate() {
            assert_eq!(m.as_str().parse(), Ok(m));
            assert_eq!(m.index(), i);
        }
        let error = "sendfile".parse::<Mechanism>().unwrap_err().to_string();
        assert!(error.contains("msg-zerocopy"), "{error}");
    }
}
