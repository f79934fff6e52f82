//! The rules as tables.

use super::*;

const EVERYTHING: Situation = Situation {
    family: Family::Tcp,
    path: Path::Unknown,
    reuse: Reuse::InPlace,
    unit: 4096,
    sent_before: false,
    bytes: 64 << 10,
    thresholds: Thresholds::all(16 << 10),
    trust: Trust { peer_acks: false, peer_copies: false },
    forced: None,
    absent: [None; 5],
    demoted: [None; 5],
    pin_room: true,
    ring_low: false,
};
const ACKS: Trust = Trust { peer_acks: true, peer_copies: false };
const COPIES: Trust = Trust { peer_acks: false, peer_copies: true };

#[test]
fn proofs_by_mechanism_socket_memory_trust_and_path() {
    use Family::{Tcp, Unix};
    use Mechanism::{Copy, Gift, IoUring, MsgZerocopy, Splice};
    use Path::{OffHost, SameHost, Unknown};
    use Reuse::{FreshPages, Immutable, InPlace};
    let nobody = Trust::default();
    let table = [
        (Copy, Tcp, InPlace, nobody, Unknown, Ok(Proof::Copied)),
        (Copy, Unix, Immutable, ACKS, SameHost, Ok(Proof::Copied)),
        (MsgZerocopy, Tcp, InPlace, nobody, Unknown, Ok(Proof::Notified)),
        (MsgZerocopy, Tcp, InPlace, nobody, SameHost, Ok(Proof::Notified)),
        (MsgZerocopy, Unix, InPlace, nobody, SameHost, Err(Refusal::SocketFamily)),
        (IoUring, Tcp, Immutable, nobody, OffHost, Ok(Proof::Notified)),
        (Splice, Tcp, InPlace, nobody, OffHost, Err(Refusal::PeerNotTrusted)),
        (Splice, Tcp, InPlace, COPIES, OffHost, Err(Refusal::PeerNotTrusted)),
        (Splice, Tcp, InPlace, ACKS, Unknown, Err(Refusal::PathNotOffHost)),
        (Splice, Tcp, InPlace, ACKS, SameHost, Err(Refusal::PathNotOffHost)),
        (Splice, Tcp, InPlace, ACKS, OffHost, Ok(Proof::Acked)),
        (Splice, Unix, InPlace, ACKS, SameHost, Err(Refusal::PeerNotTrusted)),
        (Splice, Unix, InPlace, COPIES, SameHost, Ok(Proof::Consumed)),
        (Splice, Tcp, FreshPages, nobody, SameHost, Ok(Proof::Replaced)),
        (Splice, Unix, Immutable, nobody, SameHost, Ok(Proof::Immutable)),
        (Gift, Tcp, InPlace, nobody, OffHost, Ok(Proof::Replaced)),
        (Gift, Tcp, Immutable, ACKS, OffHost, Err(Refusal::NotFreshPages)),
        (Gift, Tcp, FreshPages, nobody, Unknown, Ok(Proof::Replaced)),
    ];
    for (mechanism, family, reuse, trust, path, want) in table {
        let situation = Situation { family, reuse, trust, path, ..EVERYTHING };
        assert_eq!(Policy::proof(mechanism, &situation), want, "{mechanism} {situation:?}");
    }
}

#[test]
fn without_the_users_word_every_rung_rests_on_a_kernel_proof() {
    for family in [Family::Tcp, Family::Unix] {
        for path in [Path::Unknown, Path::OffHost, Path::SameHost] {
            for reuse in [Reuse::InPlace, Reuse::FreshPages, Reuse::Immutable] {
                let situation = Situation { family, path, reuse, ..EVERYTHING };
                for rung in Policy::ladder(&situation).rungs() {
                    assert!(Policy::proof(*rung, &situation).unwrap().is_kernel_proof(), "{rung} {situation:?}");
                }
            }
        }
    }
}

#[test]
fn every_ladder_ends_with_copy_and_every_other_mechanism_has_a_reason() {
    let mut demoted = [None; 5];
    demoted[Mechanism::MsgZerocopy.index()] = Some(Refusal::NoBuffers);
    let mut only_zerocopy = [Some(Refusal::NotAttached); 5];
    only_zerocopy[Mechanism::MsgZerocopy.index()] = None;
    let table = [
        (EVERYTHING, vec!["msg-zerocopy", "io-uring", "copy"]),
        (
            Situation { path: Path::SameHost, reuse: Reuse::Immutable, ..EVERYTHING },
            vec!["splice", "msg-zerocopy", "io-uring", "copy"],
        ),
        (
            Situation { path: Path::SameHost, reuse: Reuse::FreshPages, unit: 64 << 10, ..EVERYTHING },
            vec!["splice", "gift", "msg-zerocopy", "io-uring", "copy"],
        ),
        (
            Situation { path: Path::SameHost, reuse: Reuse::FreshPages, sent_before: true, ..EVERYTHING },
            vec!["splice", "gift", "msg-zerocopy", "io-uring", "copy"],
        ),
        // A notification is what can tell that the path does leave this host.
        (
            Situation { path: Path::SameHost, reuse: Reuse::FreshPages, ..EVERYTHING },
            vec!["msg-zerocopy", "io-uring", "copy"],
        ),
        (
            Situation { path: Path::SameHost, reuse: Reuse::FreshPages, forced: Some(Mechanism::Splice), ..EVERYTHING },
            vec!["splice", "copy"],
        ),
        (Situation { forced: Some(Mechanism::Gift), ..EVERYTHING }, vec!["gift", "copy"]),
        (Situation { forced: Some(Mechanism::Splice), ..EVERYTHING }, vec!["copy"]),
        (Situation { forced: Some(Mechanism::Splice), trust: ACKS, ..EVERYTHING }, vec!["msg-zerocopy", "copy"]),
        (
            Situation { forced: Some(Mechanism::Splice), trust: ACKS, path: Path::OffHost, ..EVERYTHING },
            vec!["splice", "copy"],
        ),
        (Situation { forced: Some(Mechanism::Splice), trust: ACKS, path: Path::SameHost, ..EVERYTHING }, vec!["copy"]),
        (Situation { absent: only_zerocopy, ..EVERYTHING }, vec!["msg-zerocopy", "copy"]),
        (Situation { absent: only_zerocopy, demoted, ..EVERYTHING }, vec!["copy"]),
        (Situation { bytes: 4096, ..EVERYTHING }, vec!["copy"]),
        (Situation { pin_room: false, ..EVERYTHING }, vec!["copy"]),
        (Situation { pin_room: false, reuse: Reuse::Immutable, ..EVERYTHING }, vec!["splice", "copy"]),
        (Situation { ring_low: true, ..EVERYTHING }, vec!["copy"]),
        // The ring replaces the pages, so that the space is free at once: the kernel holds none of it.
        (Situation { ring_low: true, reuse: Reuse::FreshPages, ..EVERYTHING }, vec!["splice", "gift", "copy"]),
        (Situation { forced: Some(Mechanism::Copy), ..EVERYTHING }, vec!["copy"]),
        (Situation { family: Family::Unix, ..EVERYTHING }, vec!["copy"]),
        (
            Situation { family: Family::Unix, path: Path::SameHost, reuse: Reuse::FreshPages, ..EVERYTHING },
            vec!["splice", "gift", "copy"],
        ),
    ];
    for (situation, want) in table {
        let ladder = Policy::ladder(&situation);
        let names: Vec<_> = ladder.rungs().iter().map(|m| m.as_str()).collect();
        assert_eq!(names, want, "{situation:?}");
        for mechanism in Mechanism::ALL {
            assert_ne!(ladder.rungs().contains(&mechanism), ladder.refused[mechanism.index()].is_some());
        }
    }
}

#[test]
fn reasons_have_distinct_indices_and_names() {
    for (i, reason) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), i);
        assert_eq!(Refusal::ALL.iter().filter(|r| r.as_str() == reason.as_str()).count(), 1);
    }
}

#[test]
fn like_situations_have_one_answer() {
    let different = [
        EVERYTHING,
        Situation { family: Family::Unix, ..EVERYTHING },
        Situation { path: Path::SameHost, ..EVERYTHING },
        Situation { reuse: Reuse::Immutable, ..EVERYTHING },
        Situation { unit: 64 << 10, ..EVERYTHING },
        Situation { sent_before: true, ..EVERYTHING },
        Situation { bytes: 1, ..EVERYTHING },
        Situation { thresholds: Thresholds { notified: 1, referred: 64 << 10 }, ..EVERYTHING },
        Situation { trust: ACKS, ..EVERYTHING },
        Situation { forced: Some(Mechanism::Splice), ..EVERYTHING },
        Situation { absent: [Some(Refusal::Forbidden); 5], ..EVERYTHING },
        Situation { demoted: [Some(Refusal::NoBuffers); 5], ..EVERYTHING },
        Situation { pin_room: false, ..EVERYTHING },
        Situation { ring_low: true, ..EVERYTHING },
    ];
    for (row, a) in different.iter().enumerate() {
        for (column, b) in different.iter().enumerate() {
            assert_eq!(a.is_like(b), row == column, "{a:?} {b:?}");
        }
        // More or fewer bytes, on the same side of every threshold.
        let more = Situation { bytes: a.bytes + 1, ..a.clone() };
        assert!(a.is_like(&more));
        assert_eq!(Policy::ladder(a), Policy::ladder(&more));
    }
    let thresholds = Thresholds { notified: 32 << 10, referred: 8 << 10 };
    let at = |bytes| Situation { bytes, thresholds, ..EVERYTHING };
    let classes = [0, 8 << 10, 32 << 10].map(at);
    for (from, to) in [(0, (8 << 10) - 1), (8 << 10, (32 << 10) - 1), (32 << 10, usize::MAX)] {
        for class in &classes {
            let same = at(from).is_like(class);
            assert_eq!(at(to).is_like(class), same, "{from} to {to}");
            assert_eq!(same, class.bytes == from);
        }
    }
}
