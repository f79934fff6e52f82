//! What must be found, by kernel and path. A kernel that does otherwise is a find: change the table and the book, or the library.

use zerosink::{Mechanism, Path, Refusal};
use zerosink_kernels::{Topology, Way, topology::Device};

/// Major and minor number of a kernel.
pub(crate) type Version = (u32, u32);

/// What the kernel does with a zero-copy send that it notifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The device reads the pages.
    InPlace,
    /// The kernel copies when it delivers, and says so.
    Copied,
    /// The kernel copies, and says so only sometimes.
    CopiedInSilence,
}

/// The first kernel with `IORING_OP_SENDMSG_ZC`.
const IO_URING: Version = (6, 1);
/// Debian's 5.10 is built without kernel TLS.
const KERNEL_TLS: Version = (6, 1);
/// By then, and not yet in 6.12, a routed packet is no longer copied for the sake of its next hop.
const ROUTED_IN_PLACE: Version = (6, 18);

/// What the probe says of a mechanism that is refused; `None` if it is not.
pub(crate) fn probe(mechanism: Mechanism, version: Version) -> Option<&'static str> {
    (mechanism == Mechanism::IoUring && version < IO_URING).then_some("IORING_OP_SENDMSG_ZC (Linux 6.1)")
}

/// The reason for which no sink is made, if none is.
pub(crate) fn refusal(way: Way, topology: Topology, version: Version) -> Option<&'static str> {
    if topology == Topology::Ktls && version < KERNEL_TLS {
        return Some("no-kernel-tls");
    }
    let Way::By(mechanism @ (Mechanism::MsgZerocopy | Mechanism::IoUring)) = way else { return None };
    if topology == Topology::Unix {
        Some(Refusal::NotAttached.as_str())
    } else {
        probe(mechanism, version).map(|_| Refusal::NotInKernel.as_str())
    }
}

pub(crate) fn delivery(topology: Topology, version: Version) -> Delivery {
    match topology {
        Topology::Loopback | Topology::Unix | Topology::Veth | Topology::PodToPod => Delivery::Copied,
        Topology::VirtioTap | Topology::Ktls | Topology::Vmxnet3 | Topology::PodBridged => Delivery::InPlace,
        Topology::PodRouted if version < ROUTED_IN_PLACE => Delivery::Copied,
        Topology::PodRouted => Delivery::InPlace,
        Topology::VirtioHub => Delivery::CopiedInSilence,
    }
}

/// What the oracle says before anything is sent: it sees addresses, and whether the device exists in software only.
pub(crate) const fn first_guess(topology: Topology) -> Path {
    match topology.device() {
        Device::Card => Path::Unknown,
        _ => Path::SameHost,
    }
}

/// Whether memory that is written again when it is acknowledged shows at the receiver: the packets stay on this host.
pub(crate) const fn shows_when_acknowledged(topology: Topology) -> bool {
    matches!(topology, Topology::Loopback | Topology::Veth | Topology::PodToPod)
}

/// Which mechanism carries the stream, and why it is a copy if it is one. `None`: it depends on what the kernel says.
pub(crate) fn carrier(way: Way, topology: Topology, version: Version) -> Option<(Mechanism, Option<Refusal>)> {
    let delivery = delivery(topology, version);
    match (way, topology) {
        // Setting SO_ZEROCOPY succeeds, and the send is refused; so is the one that would tell where the packets go.
        (Way::By(Mechanism::MsgZerocopy | Mechanism::IoUring) | Way::OnThePeersWord | Way::Auto, Topology::Ktls) => {
            Some((Mechanism::Copy, Some(Refusal::NotInKernel)))
        }
        (Way::OnThePeersWord, Topology::Unix) => Some((Mechanism::Splice, None)),
        (Way::Auto, Topology::Unix) => Some((Mechanism::Copy, Some(Refusal::PeerNotTrusted))),
        (Way::OnThePeersWord | Way::Auto, _) if delivery == Delivery::CopiedInSilence => None,
        // Behind a virtual device nobody asks the kernel: the user may say that the path leaves the host.
        (Way::OnThePeersWord, _) if first_guess(topology) == Path::SameHost => {
            Some((Mechanism::Copy, Some(Refusal::PathNotOffHost)))
        }
        (Way::Auto, _) if delivery == Delivery::Copied => Some((Mechanism::Copy, Some(Refusal::CopiedOnDelivery))),
        (Way::Auto, _) => Some((Mechanism::MsgZerocopy, None)),
        (Way::By(Mechanism::Copy), _) => Some((Mechanism::Copy, Some(Refusal::NotChosen))),
        _ => way.mechanism().map(|mechanism| (mechanism, None)),
    }
}
