//! The table of the book, out of what the guests found.

use std::fmt::{self, Write as _};

use zerosink::{Mechanism, conformance::CHECKS};
use zerosink_kernels::{Plan, Record, Topology, Way};

use crate::findings::Findings;

/// A kernel's name, its package, and what its guest found.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) package: String,
    pub(crate) findings: Findings,
}

/// The table as Markdown: for each path one, with a column for each kernel.
pub(crate) struct Table<'a>(pub(crate) &'a [Column]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "<!-- Written by `cargo run -p zerosink-kernels`; do not edit. -->\n")?;
        self.head(f, "probe")?;
        self.row(f, "package", |column| column.package.replace("linux-image-", ""))?;
        for mechanism in Mechanism::ALL {
            self.row(f, mechanism.as_str(), |column| {
                column.findings.probe(mechanism).map_or("", |record| record.get("answer")).to_owned()
            })?;
        }
        for topology in Topology::ALL {
            writeln!(f, "\n### {topology}\n")?;
            self.head(f, "sent by")?;
            for way in Way::ALL {
                self.row(f, way.name(), |column| column.findings.send(topology, way).map(sent).unwrap_or_default())?;
            }
            self.row(f, "wrong bytes", |column| wrong_bytes(&column.findings, topology))?;
            self.row(f, "path: at first, then", |column| path(&column.findings, topology))?;
            if topology.has_controls() {
                self.row(f, "*control:* written again when accepted, by splice and by msg-zerocopy", |column| {
                    control(&column.findings, topology)
                })?;
                self.row(f, "*control:* written again when acknowledged", |column| {
                    let found = column.findings.acknowledged(topology);
                    found.map(|(wrong, rounds)| format!("wrong in {wrong} of {rounds}")).unwrap_or_default()
                })?;
            }
            if self.0.iter().any(|column| !kit(&column.findings, topology).is_empty()) {
                self.row(f, "conformance", |column| kit(&column.findings, topology))?;
            }
        }
        if self.0.iter().any(|column| column.findings.of("tests").next().is_some()) {
            writeln!(f, "\n### Test binaries of the workspace, in the guests\n")?;
            self.head(f, "tests")?;
            for name in Plan::Whole.tests() {
                self.row(f, name, |column| {
                    let found = column.findings.of("tests").find(|record| record.get("name") == *name);
                    found.map(|record| passed(record.get("result"))).unwrap_or_default()
                })?;
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        self.row(f, what, |column| match column.findings.version() {
            Some((major, minor)) => format!("{major}.{minor}"),
            None => column.name.to_owned(),
        })?;
        self.row(f, "---", |_| "---".into())
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, what: &str, cell: impl Fn(&Column) -> String) -> fmt::Result {
        write!(f, "| {what} |")?;
        self.0.iter().try_for_each(|column| write!(f, " {} |", cell(column).replace('|', "\\|")))?;
        writeln!(f)
    }
}

/// Which mechanism carried the stream, and whether the kernel copied.
fn sent(record: &Record) -> String {
    if !record.get("refusal").is_empty() {
        return format!("refused: {}", record.get("refusal"));
    }
    if !record.get("error").is_empty() {
        return format!("**{}**", record.get("error"));
    }
    let mut cell = record.get("used").to_owned();
    if cell == "copy" {
        let most = record.get("copied-by").split(' ').filter_map(|part| part.split_once(':'));
        let most = most.max_by_key(|(_, bytes)| bytes.parse::<u64>().unwrap_or(0));
        cell = most.map_or(cell, |(why, _)| format!("copy ({why})"));
    } else if let (Some(notified), Some(copied)) = (record.number("notified"), record.number("notified-copied"))
        && matches!(record.get("used"), "msg-zerocopy" | "io-uring")
    {
        cell += match (copied * 4 <= notified, (notified - copied) * 16 <= notified) {
            (true, _) => ", in place",
            (_, true) => ", copied on delivery",
            _ => ", copied in silence",
        };
    }
    cell
}

fn wrong_bytes(findings: &Findings, topology: Topology) -> String {
    let sent = Way::ALL.into_iter().filter_map(|way| findings.send(topology, way));
    let sent: Vec<_> = sent.filter_map(|record| Some((record.number("wrong")?, record.number("bytes")?))).collect();
    let (wrong, bytes) = sent.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    format!("{wrong} of {} MiB", bytes >> 20)
}

fn path(findings: &Findings, topology: Topology) -> String {
    let asked = [Way::By(Mechanism::MsgZerocopy), Way::By(Mechanism::Copy)];
    let record = asked.into_iter().filter_map(|way| findings.send(topology, way)).find(|r| !r.get("first").is_empty());
    record.map(|record| format!("{}, {}", record.get("first"), record.get("oracle"))).unwrap_or_default()
}

fn control(findings: &Findings, topology: Topology) -> String {
    let wrong = ["splice", "msg-zerocopy"].map(|way| {
        let record = findings.control(topology, way)?;
        Some(100 * record.number("wrong")? / record.number("bytes")?.max(1))
    });
    match wrong {
        [Some(splice), Some(zerocopy)] => format!("{}, {}", share(splice), share(zerocopy)),
        _ => String::new(),
    }
}

/// The exact share differs from run to run.
fn share(percent: u64) -> &'static str {
    match percent {
        0 => "under 1 % wrong",
        1..50 => "wrong",
        _ => "most of it wrong",
    }
}

fn kit(findings: &Findings, topology: Topology) -> String {
    let mut cell = String::new();
    for mechanism in Plan::Whole.mounts(topology) {
        let records: Vec<_> = findings.kit(topology, *mechanism).collect();
        let good = records.iter().filter(|r| matches!(r.get("outcome"), "passed" | "not-applicable")).count();
        if !records.is_empty() && records.iter().all(|record| record.get("refused").is_empty()) {
            let separator = if cell.is_empty() { "" } else { ", " };
            // Writing to a text cannot fail.
            write!(cell, "{separator}{mechanism} {good}/{}", CHECKS.len()).ok();
        }
    }
    cell
}

/// `test result: ok. 430 passed; 0 failed; 0 ignored; …`, shorter.
fn passed(result: &str) -> String {
    let counts =
        result.split([';', '.']).map(str::trim).filter(|part| part.ends_with("passed") || part.ends_with("failed"));
    counts.collect::<Vec<_>>().join(", ")
}
