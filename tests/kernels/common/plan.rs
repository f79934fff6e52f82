//! What a guest runs: every change sees the quick plan, the book the whole one.

use zerosink::Mechanism;

use crate::Topology;

/// How much a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every path, and the conformance kit where zero-copy leaves the guest.
    Quick,
    /// Also the kit on every other path, on one card with packets that are held on the way, and the test binaries.
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

    /// The test binaries of the workspace that run in the guest: those that need no wire of ours, which an emulated processor is too slow for.
    #[must_use]
    pub const fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Quick => &[],
            Self::Whole => &["conformance", "fresh_pages", "ladder", "exhaustion"],
        }
    }
}

/// Tests that a kernel cannot pass, for it has not what they are about.
#[derive(Debug)]
pub struct LeftOut {
    /// The test binary.
    pub binary: &'static str,
    /// What their names contain.
    pub tests: &'static str,
    /// The first kernel with it, major and minor number.
    pub since: (u32, u32),
}

const fn left_out(binary: &'static str, tests: &'static str, since: (u32, u32)) -> LeftOut {
    LeftOut { binary, tests, since }
}

/// Tests that older kernels cannot pass.
pub const LEFT_OUT: &[LeftOut] = &[
    // `MADV_DONTNEED_LOCKED`. Before, a ring of fresh pages is refused for locked memory, and pages that are locked later are quarantined.
    left_out("fresh_pages", "locked::", (5, 18)),
    // `IORING_OP_SENDMSG_ZC`.
    left_out("conformance", "io_uring", (6, 1)),
    left_out("conformance", "broken::uring", (6, 1)),
    left_out("ladder", "io_uring", (6, 1)),
    left_out("ladder", "reasons::copied_on_delivery_turns_notified_sends_off_and_on_again", (6, 1)),
    // `MADV_COLLAPSE`, by which the tests get folios of 2 MiB in a memfd.
    left_out("conformance", "broken::holes", (6, 1)),
    left_out("fresh_pages", "controls::a_hole_of_the_whole_folio", (6, 1)),
    left_out("fresh_pages", "controls::control_a_hole_in_a_part", (6, 1)),
    left_out("fresh_pages", "controls::pages_that_are_advised_to_stay_small", (6, 1)),
    // One spliced page is appended to the packet before it, so that none is done before all are read: see the kernel notes.
    left_out("conformance", "splice_to_a_peer_that_copies::memory_comes_back_while_the_stream_goes_on", (6, 5)),
    // `net.core.optmem_max` is a network namespace's own.
    left_out("exhaustion", "without_option_memory_the_stream_goes_on_by_copy", (6, 8)),
    // `mseal(2)`.
    left_out("fresh_pages", "pages_that_cannot_be_mapped_anew_are_quarantined_and_the_rest_goes_on", (6, 10)),
    // Folios of 2 MiB in a memfd that are made when it is written.
    left_out("fresh_pages", "quarantine::a_hole_that_replaces_nothing_is_noticed", (6, 12)),
];
