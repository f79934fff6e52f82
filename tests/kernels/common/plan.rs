//! What a guest runs: every change sees the quick plan, the book the whole one.

use zerosink::Mechanism;

use crate::Topology;

/// How much a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every path, and the conformance kit where zero-copy leaves the guest.
    Quick,
    /// Also the kit on every other path, with packets that are held on the way, and the test binaries.
    Whole,
}

impl Plan {
    /// Its name on the command line of a guest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Whole => "whole",
        }
    }

    /// The plan that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Quick, Self::Whole].into_iter().find(|plan| plan.name() == name)
    }

    /// The mechanisms for which the kit is mounted on a path. `lo`, `unix` and `veth` are those of the test binary `conformance`.
    #[must_use]
    pub const fn mounts(self, topology: Topology) -> &'static [Mechanism] {
        const SHARING: [Mechanism; 3] = [Mechanism::Splice, Mechanism::MsgZerocopy, Mechanism::IoUring];
        match (self, topology) {
            (_, Topology::VirtioTap) => &Mechanism::ALL,
            (Self::Whole, Topology::Vmxnet3 | Topology::VirtioHub) => &Mechanism::ALL,
            (Self::Whole, Topology::PodRouted | Topology::PodBridged | Topology::PodToPod) => &SHARING,
            _ => &[],
        }
    }

    /// The test binaries of the workspace that run in the guest.
    #[must_use]
    pub const fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Quick => &[],
            Self::Whole => &["conformance", "fresh_pages", "by_reference", "ladder", "exhaustion"],
        }
    }
}
