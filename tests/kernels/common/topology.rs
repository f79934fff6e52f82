//! The ways from one end of a connection to the other that a guest builds.

use std::fmt;

/// One way between two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topology {
    /// TCP over `lo`.
    Loopback,
    /// A pair of `AF_UNIX` sockets.
    Unix,
    /// A pair of virtual Ethernet devices between two namespaces.
    Veth,
    /// virtio-net on a TAP device of the emulator with `vnet_hdr`: scatter-gather, checksums and segmentation are the device's.
    VirtioTap,
    /// The same, and the sender's kernel encrypts (kernel TLS).
    Ktls,
    /// vmxnet3, which offloads the same.
    Vmxnet3,
    /// virtio-net on the emulator's hub, which offloads nothing: the kernel must make one piece of each packet.
    VirtioHub,
    /// A pod behind veth, routed by its node out of a virtio-net device to another host.
    PodRouted,
    /// The same, bridged.
    PodBridged,
    /// Two pods on the bridge of one node.
    PodToPod,
}

impl Topology {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Loopback,
        Self::Unix,
        Self::Veth,
        Self::VirtioTap,
        Self::Ktls,
        Self::Vmxnet3,
        Self::VirtioHub,
        Self::PodRouted,
        Self::PodBridged,
        Self::PodToPod,
    ];

    /// Its name in records and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "lo",
            Self::Unix => "unix",
            Self::Veth => "veth",
            Self::VirtioTap => "virtio-tap",
            Self::Ktls => "ktls",
            Self::Vmxnet3 => "vmxnet3",
            Self::VirtioHub => "virtio-hub",
            Self::PodRouted => "pod-routed",
            Self::PodBridged => "pod-bridged",
            Self::PodToPod => "pod-to-pod",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topology| topology.name() == name)
    }

    /// Whether memory that is written again too early shows at the receiver. kTLS encrypts into memory of its own, and on `AF_UNIX` the
    /// reader is not the only one who decides.
    #[must_use]
    pub const fn has_controls(self) -> bool {
        !matches!(self, Self::Unix | Self::Ktls)
    }

    /// What the near end sends by.
    #[must_use]
    pub const fn device(self) -> Device {
        match self {
            Self::Unix => Device::None,
            Self::Loopback => Device::Loopback,
            Self::Veth | Self::PodRouted | Self::PodBridged | Self::PodToPod => Device::Virtual,
            Self::VirtioTap | Self::Ktls | Self::Vmxnet3 | Self::VirtioHub => Device::Card,
        }
    }

    /// The pair of network cards that it leads over, if any: the last byte but one of their addresses.
    #[must_use]
    pub const fn cards(self) -> Option<u8> {
        match self {
            Self::VirtioHub => Some(1),
            Self::VirtioTap | Self::Ktls | Self::PodRouted | Self::PodBridged => Some(2),
            Self::Vmxnet3 => Some(5),
            Self::Loopback | Self::Unix | Self::Veth | Self::PodToPod => None,
        }
    }
}

/// What a socket sends by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// No device.
    None,
    /// `lo`.
    Loopback,
    /// One that exists in software only.
    Virtual,
    /// A network card.
    Card,
}

/// The hardware address of one of the two cards of a pair.
#[must_use]
pub fn card_address(pair: u8, card: u8) -> String {
    format!("52:54:00:00:{pair:02x}:{card:02x}")
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
