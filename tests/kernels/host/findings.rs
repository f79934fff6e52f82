//! What one guest found, by question.

use zerosink::Mechanism;
use zerosink_kernels::{Record, Topology, Way};

use crate::expected::Version;

/// The records of one guest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings(pub(crate) Vec<Record>);

impl Findings {
    /// Records of one kind.
    pub(crate) fn of(&self, kind: &str) -> impl Iterator<Item = &Record> {
        self.0.iter().filter(move |record| record.kind == kind)
    }

    /// As `uname -r` says it.
    pub(crate) fn release(&self) -> &str {
        self.of("kernel").map(|record| record.get("release")).next().unwrap_or_default()
    }

    pub(crate) fn version(&self) -> Option<Version> {
        let mut numbers = self.release().split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    pub(crate) fn probe(&self, mechanism: Mechanism) -> Option<&Record> {
        self.of("probe").find(|record| record.get("mechanism") == mechanism.as_str())
    }

    fn on(&self, kind: &str, topology: Topology) -> impl Iterator<Item = &Record> {
        self.of(kind).filter(move |record| record.get("path") == topology.name())
    }

    pub(crate) fn send(&self, topology: Topology, way: Way) -> Option<&Record> {
        self.on("send", topology).find(|record| record.get("way") == way.name())
    }

    pub(crate) fn control(&self, topology: Topology, way: &str) -> Option<&Record> {
        self.on("control", topology).find(|record| record.get("way") == way)
    }

    /// In how many rounds, of how many, memory that was written again when it was acknowledged showed at the receiver.
    pub(crate) fn acknowledged(&self, topology: Topology) -> Option<(u64, u64)> {
        let record = self.on("acknowledged", topology).next()?;
        Some((record.number("wrong")?, record.number("rounds")?))
    }

    pub(crate) fn kit(&self, topology: Topology, mechanism: Mechanism) -> impl Iterator<Item = &Record> {
        self.on("kit", topology).filter(move |record| record.get("mechanism") == mechanism.as_str())
    }
}
