//! What happened, for people and for programs.

use std::fmt;

use bytesize::ByteSize;
use serde_json::{Map, json};
use zerosink::{Mechanism, Path, SinkStats, ring::RingStats};

pub(crate) struct Report {
    pub(crate) mechanism: Mechanism,
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) stats: SinkStats,
    pub(crate) ring: RingStats,
    pub(crate) sha256: [u8; 32],
    pub(crate) sha256_match: bool,
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Report {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let copied: Map<_, _> = self.stats.copied_by().map(|(r, bytes)| (r.to_string(), json!(bytes))).collect();
        let refused: Map<_, _> = self.stats.refusals().map(|(m, r)| (m.to_string(), json!(r.as_str()))).collect();
        json!({
            "mechanism": self.mechanism.as_str(),
            "path": self.path.as_str(),
            "bytes": self.bytes,
            "seconds": self.seconds,
            "bytes_zero_copy": self.stats.bytes_zero_copy,
            "bytes_copied": self.stats.bytes_copied,
            "copied_by": copied,
            "refused": refused,
            "notified": self.stats.notified,
            "notified_copied": self.stats.notified_copied,
            "ring_capacity": self.ring.capacity,
            "ring_high_water": self.ring.high_water,
            "longest_pin_ms": self.stats.longest_pin.as_secs_f64() * 1e3,
            "sha256": hex(&self.sha256),
            "sha256_match": self.sha256_match,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        let stats = &self.stats;
        writeln!(f, "mechanism    {}", self.mechanism)?;
        for (mechanism, reason) in stats.refusals() {
            writeln!(f, "             {mechanism} not used: {reason}: {}", reason.explanation())?;
        }
        writeln!(f, "path         {}", self.path)?;
        let rate = self.bytes as f64 / self.seconds / 1e9;
        writeln!(
            f,
            "throughput   {} in {:.2} s, {rate:.2} GB/s with SHA-256 on both ends",
            size(self.bytes),
            self.seconds
        )?;
        writeln!(f, "zero-copied  {}", size(stats.bytes_zero_copy))?;
        if stats.notified > 0 {
            let (all, copied) = (stats.notified, stats.notified_copied);
            writeln!(f, "             {all} sends notified, {copied} of them copied on delivery")?;
        }
        writeln!(f, "copied       {}", size(stats.bytes_copied))?;
        for (reason, bytes) in stats.copied_by() {
            writeln!(f, "             {} because: {reason}", size(bytes))?;
        }
        let (high, capacity) = (self.ring.high_water as u64, self.ring.capacity as u64);
        writeln!(f, "ring         {} of {} in use at most", size(high), size(capacity))?;
        writeln!(f, "longest pin  {:.1} ms", stats.longest_pin.as_secs_f64() * 1e3)?;
        let verdict = if self.sha256_match { "verified" } else { "DOES NOT MATCH" };
        writeln!(f, "sha256       {} {verdict}", hex(&self.sha256))
    }
}
