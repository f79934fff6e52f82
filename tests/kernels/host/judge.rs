//! Whether a guest found all that it must find, and nothing else.

use zerosink::{Mechanism, Path, Refusal, conformance::CHECKS};
use zerosink_kernels::{Plan, Record, Topology, Way};

use crate::{
    expected::{self, Delivery, Version},
    findings::Findings,
};

/// So many copied notifications may be half of a window in which the oracle judges.
const HALF_A_WINDOW: u64 = 8;

/// What is wrong with a guest's findings: empty if nothing is.
pub(crate) fn judge(findings: &Findings, plan: Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(version) = findings.version() else { return vec!["the guest does not say which kernel it has".into()] };
    for record in findings.of("case").chain(findings.of("tests")).filter(|record| record.get("status") != "ok") {
        wrong.push(format!("{} {}: {}", record.kind, record.get("name"), record.get("status")));
    }
    for mechanism in Mechanism::ALL {
        wrong.extend(probe(findings.probe(mechanism), mechanism, version));
    }
    for topology in Topology::ALL {
        for way in Way::ALL {
            let complaint = match findings.send(topology, way) {
                Some(record) => send(record, topology, way, version).err(),
                None => Some("nothing was measured".into()),
            };
            wrong.extend(complaint.map(|complaint| format!("{topology} {way}: {complaint}")));
        }
        if topology.has_controls() {
            wrong.extend(controls(findings, topology).into_iter().map(|complaint| format!("{topology}: {complaint}")));
        }
        for mechanism in plan.mounts(topology) {
            let kit = kit(findings, topology, *mechanism, version).into_iter();
            wrong.extend(kit.map(|complaint| format!("{topology} {mechanism}, conformance: {complaint}")));
        }
    }
    for name in plan.tests() {
        if !findings.of("tests").any(|record| record.get("name") == *name) {
            wrong.push(format!("the tests {name} did not run"));
        }
    }
    wrong
}

fn probe(record: Option<&Record>, mechanism: Mechanism, version: Version) -> Option<String> {
    let answer = record.map_or("", |record| record.get("answer"));
    let right = match expected::probe(mechanism, version) {
        None => answer == "yes",
        Some(why) => answer.starts_with("no") && answer.contains(why),
    };
    (!right).then(|| format!("the probe of {mechanism} answers {answer:?}"))
}

fn send(record: &Record, topology: Topology, way: Way, version: Version) -> Result<(), String> {
    let ensure = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{what}: {record}")) };
    if let Some(refusal) = expected::refusal(way, topology, version) {
        return ensure(record.get("refusal") == refusal, "refused for another reason, or not at all");
    }
    let number = |name| record.number(name).unwrap_or(u64::MAX);
    let total = number("total");
    ensure(number("bytes") == total && number("wrong") == 0, "not the bytes that were sent")?;
    ensure(record.get("first") == expected::first_guess(topology).as_str(), "another first guess of the path")?;
    let (notified, copied) = (number("notified"), number("notified-copied"));
    // What is sent once more, on a busy emulator, the kernel may copy anywhere, and the ladder goes by what it says: it is the ratio that
    // counts.
    let disturbed = expected::delivery(topology, version) == Delivery::InPlace && copied >= HALF_A_WINDOW;
    let notifies = topology != Topology::Ktls && matches!(way, Way::By(Mechanism::MsgZerocopy | Mechanism::IoUring));
    let by_kernel = matches!(way, Way::OnThePeersWord | Way::Auto);
    if let Some((mechanism, reason)) = expected::carrier(way, topology, version)
        && !(by_kernel && disturbed)
    {
        ensure(record.get("used") == mechanism.as_str(), "another mechanism")?;
        let copied = format!("{}:", reason.map_or("", Refusal::as_str));
        ensure(reason.is_none() || record.get("copied-by").contains(&copied), "copied for another reason")?;
        ensure(reason.is_some() || number("zero-copy") > total / 8 * 7, "too much is copied")?;
    }
    if !notifies {
        return Ok(());
    }
    ensure(notified >= 64, "too few notifications")?;
    let path = match expected::delivery(topology, version) {
        Delivery::InPlace => {
            // Those that were sent again are among the copied.
            ensure(copied <= notified / 2, "the device does not read the pages, says the kernel")?;
            Path::OffHost
        }
        Delivery::Copied => {
            ensure(copied >= notified - notified / 16, "the kernel does not copy on delivery, it says")?;
            Path::SameHost
        }
        Delivery::CopiedInSilence => return Ok(()),
    };
    ensure(disturbed || record.get("oracle") == path.as_str(), "the oracle is wrong")
}

/// Wrong bytes must show where memory is written again too early, or no other measurement proves anything.
fn controls(findings: &Findings, topology: Topology) -> Vec<String> {
    let mut wrong = Vec::new();
    for way in ["splice", "msg-zerocopy"] {
        let seen = findings.control(topology, way).and_then(|record| record.number("wrong"));
        if seen.is_none_or(|seen| seen < 64 << 10) {
            wrong.push(format!("{way} that releases on accept goes unnoticed: {seen:?} wrong bytes"));
        }
    }
    let acknowledged = findings.acknowledged(topology);
    let (seen, rounds) = acknowledged.unwrap_or_default();
    let right = if expected::shows_when_acknowledged(topology) { seen * 2 > rounds } else { seen == 0 };
    if !right || rounds == 0 {
        wrong.push(format!("written again when acknowledged, wrong in {seen} of {rounds} rounds"));
    }
    wrong
}

fn kit(findings: &Findings, topology: Topology, mechanism: Mechanism, version: Version) -> Vec<String> {
    let records: Vec<_> = findings.kit(topology, mechanism).collect();
    if expected::probe(mechanism, version).is_some() {
        let refused = records.iter().any(|record| !record.get("refused").is_empty());
        return if refused { Vec::new() } else { vec!["it is not refused".into()] };
    }
    let mut wrong = Vec::new();
    for check in CHECKS {
        match records.iter().find(|record| record.get("check") == check.name()) {
            None => wrong.push(format!("{} did not run", check.name())),
            Some(record) if matches!(record.get("outcome"), "passed" | "not-applicable") => {}
            Some(record) => {
                wrong.push(format!("{} {}: {}", check.name(), record.get("outcome"), record.get("seen")));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
