//! Where the packets of a connection go.

use std::fmt;

/// Where the packets go, as far as anybody knows. It steers speed; safety never rests on it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Path {
    /// Nothing has been observed yet.
    #[default]
    Unknown,
    /// Packets leave through a device that reads the pages: zero-copy was seen to happen.
    OffHost,
    /// Packets are delivered on this host: loopback, veth, a tap. Zero-copy sends are copied on delivery.
    SameHost,
}

impl Path {
    /// The name used in logs, JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OffHost => "off-host",
            Self::SameHost => "same-host",
        }
    }

    pub(crate) const fn from_index(index: u8) -> Self {
        match index {
            1 => Self::OffHost,
            2 => Self::SameHost,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
