//! The judge is satisfied by what is expected, and by nothing less.

use super::*;

const VERSIONS: [Version; 2] = [(5, 10), (7, 2)];

/// What a guest says in which everything is as it must be.
fn as_expected((major, minor): Version, plan: Plan) -> Findings {
    let version = (major, minor);
    let mut records = vec![Record::new("kernel").with("release", format!("{major}.{minor}.0-1-cloud-amd64"))];
    for mechanism in Mechanism::ALL {
        let answer = expected::probe(mechanism, version).map_or_else(|| "yes".into(), |why| format!("no: {why}"));
        records.push(Record::new("probe").with("mechanism", mechanism).with("answer", answer));
    }
    for topology in Topology::ALL {
        for way in Way::ALL {
            let record = Record::new("send").with("path", topology).with("way", way);
            records.push(match expected::refusal(way, topology, version) {
                Some(refusal) => record.with("refusal", refusal),
                None => sent(record, topology, way, version),
            });
        }
        if topology.has_controls() {
            for way in ["splice", "msg-zerocopy"] {
                records.push(Record::new("control").with("path", topology).with("way", way).with("wrong", 1 << 20));
            }
            let shows = if expected::shows_when_acknowledged(topology) { 10 } else { 0 };
            records.push(Record::new("acknowledged").with("path", topology).with("rounds", 10).with("wrong", shows));
        }
        for mechanism in plan.mounts(topology) {
            let record = Record::new("kit").with("path", topology).with("mechanism", mechanism);
            match expected::probe(*mechanism, version) {
                Some(why) => records.push(record.with("refused", why)),
                None => records.extend(
                    CHECKS.iter().map(|check| record.clone().with("check", check.name()).with("outcome", "passed")),
                ),
            }
        }
    }
    records.extend(plan.tests().iter().map(|name| Record::new("tests").with("name", name).with("status", "ok")));
    Findings(records)
}

fn sent(record: Record, topology: Topology, way: Way, version: Version) -> Record {
    let (used, reason) = expected::carrier(way, topology, version).unwrap_or((Mechanism::Copy, None));
    let delivery = expected::delivery(topology, version);
    let (copied, oracle) = match delivery {
        Delivery::InPlace => (1, Path::OffHost),
        Delivery::Copied => (200, Path::SameHost),
        Delivery::CopiedInSilence => (70, Path::OffHost),
    };
    record
        .with("total", 1000)
        .with("bytes", 1000)
        .with("wrong", 0)
        .with("first", expected::first_guess(topology))
        .with("oracle", oracle)
        .with("used", used)
        .with("zero-copy", if reason.is_some() { 0 } else { 1000 })
        .with("copied-by", reason.map(|why| format!("{why}:1000")).unwrap_or_default())
        .with("notified", 200)
        .with("notified-copied", copied)
}

#[test]
fn what_is_expected_is_right() {
    for version in VERSIONS {
        for plan in [Plan::Quick, Plan::Whole] {
            let wrong = judge(&as_expected(version, plan), plan);
            assert!(wrong.is_empty(), "{version:?} {plan:?}: {wrong:#?}");
        }
    }
}

/// A guest that does not get as far as a measurement cannot pass.
#[test]
fn no_finding_may_be_missing() {
    let without = |all: &Findings, missing: usize, plan| {
        let mut findings = all.clone();
        let record = findings.0.remove(missing);
        assert!(!judge(&findings, plan).is_empty(), "without {record}");
    };
    let all = as_expected(VERSIONS[1], Plan::Quick);
    (0..all.0.len()).for_each(|missing| without(&all, missing, Plan::Quick));
    let all = as_expected(VERSIONS[0], Plan::Whole);
    let tests = Plan::Whole.tests().len();
    (all.0.len() - tests..all.0.len()).for_each(|missing| without(&all, missing, Plan::Whole));
}

/// Of one finding, one field is another.
#[test]
fn what_is_not_expected_is_wrong() {
    let changes = [
        ("probe", "splice", "answer", "no: something"),
        ("send", "splice", "wrong", "1"),
        ("send", "splice", "bytes", "999"),
        ("send", "copy", "used", "splice"),
        ("send", "auto", "used", "splice"),
        ("send", "msg-zerocopy", "zero-copy", "10"),
        ("send", "msg-zerocopy", "notified", "3"),
        ("send", "splice", "first", "off-host"),
        ("control", "splice", "wrong", "0"),
        ("kit", "splice", "outcome", "failed"),
        ("kit", "splice", "outcome", "skipped"),
        ("tests", "ladder", "status", "too slow"),
    ];
    for (kind, which, field, value) in changes {
        let mut findings = as_expected(VERSIONS[1], Plan::Whole);
        let named = |record: &&mut Record| {
            let names = ["way", "mechanism", "name"].map(|name| record.get(name) == which);
            record.kind == kind && names.contains(&true) && !matches!(record.get("path"), "virtio-hub")
        };
        let record = findings.0.iter_mut().find(named).expect(kind);
        *record = record.clone().with(field, value);
        assert_eq!(judge(&findings, Plan::Whole).len(), 1, "{kind} {which} {field}={value}");
    }
}

/// The two ways in which a device path and a path on this host differ.
#[test]
fn delivery_is_judged_by_ratio_and_the_race_by_path() {
    for (path, field, value) in [
        ("virtio-tap", "notified-copied", "110"),
        ("virtio-tap", "oracle", "same-host"),
        ("veth", "notified-copied", "150"),
        ("veth", "oracle", "off-host"),
    ] {
        let mut findings = as_expected(VERSIONS[1], Plan::Quick);
        let on = |record: &&mut Record| record.get("path") == path && record.get("way") == "msg-zerocopy";
        let record = findings.0.iter_mut().find(|r| r.kind == "send" && on(r)).expect(path);
        *record = record.clone().with(field, value);
        assert_eq!(judge(&findings, Plan::Quick).len(), 1, "{path} {field}={value}");
    }
    for (path, rounds) in [("virtio-tap", 1), ("pod-routed", 1), ("veth", 5), ("lo", 0)] {
        let mut findings = as_expected(VERSIONS[1], Plan::Quick);
        let record = findings.0.iter_mut().find(|r| r.kind == "acknowledged" && r.get("path") == path).expect(path);
        *record = record.clone().with("wrong", rounds);
        assert_eq!(judge(&findings, Plan::Quick).len(), 1, "{path} {rounds}");
    }
}
