//! The conformance kit, mounted by one backend on one path.

use std::{io, time::Duration};

use zerosink::{
    Mechanism, Support, backends,
    conformance::{CHECKS, Mount, Outcome},
};
use zerosink_kernels::{Plan, Record, Topology};

use crate::{memory, place::Place, run::say, witness};

/// For one step of a check, on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(plan: Option<Plan>, topology: Topology, mechanism: &str) -> io::Result<()> {
    let mechanism: Mechanism = mechanism.parse().map_err(io::Error::other)?;
    let record = Record::new("kit").with("path", topology).with("mechanism", mechanism);
    let notifies = matches!(mechanism, Mechanism::MsgZerocopy | Mechanism::IoUring);
    let host = zerosink::probe::host();
    let support = host.mechanisms.iter().find(|(known, _)| *known == mechanism);
    let refusal = match support {
        Some((_, Support::No(why))) => Some(why.to_string()),
        _ if notifies && topology == Topology::Unix => Some("not on AF_UNIX".into()),
        _ => None,
    };
    if let Some(why) = refusal {
        say(&record.with("refused", why));
        return Ok(());
    }
    let mut place = Place::build(topology)?;
    place.holds_packets = plan == Some(Plan::Whole) && topology == Topology::Vmxnet3;
    let mount = match mechanism {
        Mechanism::Copy => Mount::new(backends::Copy, place).witness(witness::only_copy),
        Mechanism::Splice => {
            Mount::new(backends::Splice, place).ring(memory::fresh_pages).witness(witness::only_splice)
        }
        Mechanism::Gift => Mount::new(backends::Gift, place).ring(memory::in_place).witness(witness::only_splice),
        Mechanism::MsgZerocopy => Mount::new(backends::MsgZerocopy, place).witness(witness::only_zero_copy),
        #[cfg(zerosink_uring)]
        Mechanism::IoUring => Mount::new(backends::IoUring, place).witness(witness::only_ring),
        other => return Err(io::Error::other(format!("no backend for {other}"))),
    };
    let subject = mount.workers(2).patience(PATIENCE).shared();
    for check in CHECKS {
        let record = record.clone().with("check", check.name());
        say(&match check.run(&subject) {
            Outcome::Passed(seen) => record.with("outcome", "passed").with("seen", seen),
            Outcome::Failed(failure) => record.with("outcome", "failed").with("seen", failure),
            Outcome::NotApplicable(why) => record.with("outcome", "not-applicable").with("seen", why),
            Outcome::Skipped(why) => record.with("outcome", "skipped").with("seen", why),
            other => record.with("outcome", "unknown").with("seen", other),
        });
    }
    Ok(())
}
