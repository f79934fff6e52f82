//! Everything that a guest runs: processes, each in namespaces of its own. Those that share no network card run side by side, for most
//! of the time they wait for slow receivers.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use zerosink_kernels::{Plan, Record, Topology, plan::LEFT_OUT, process::wait};

/// For one process; a path takes a few seconds, a mount of the kit up to a minute.
const LIMIT: Duration = Duration::from_secs(240);
/// For a whole test binary.
const TESTS_LIMIT: Duration = Duration::from_secs(600);

/// The process is alone with its devices, and its sysfs shows them, as a container's does.
const APART: &str = "mount -t sysfs sysfs /sys && ip link set lo up && exec /proc/1/root/guest \"$@\"";

/// Says something on the serial line that the harness reads. A record is one write, so that processes do not cut each other short.
pub(crate) fn say(record: &Record) {
    let line = format!("{record}\n");
    // Nobody is there to be told if that fails, and the harness misses the record.
    io::stdout().write_all(line.as_bytes()).ok();
}

pub(crate) fn all(plan: Plan) -> io::Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    say(&Record::new("kernel").with("release", &release));
    let mut lanes: BTreeMap<_, Vec<Vec<&str>>> = BTreeMap::new();
    lanes.entry(None).or_default().push(vec!["probe"]);
    for topology in Topology::ALL {
        let lane = lanes.entry(topology.cards()).or_default();
        lane.push(vec!["path", topology.name()]);
        for mechanism in plan.mounts(topology) {
            lane.push(vec!["kit", plan.name(), topology.name(), mechanism.as_str()]);
        }
    }
    let failed: io::Result<Vec<u32>> = thread::scope(|scope| {
        let lanes: Vec<_> =
            lanes.values().map(|lane| scope.spawn(|| lane.iter().map(|case| apart(case)).sum())).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut failed: u32 = failed?.into_iter().sum();
    for name in plan.tests() {
        failed += tests(name, &release)?;
    }
    say(&Record::new("end").with("failed", failed));
    Ok(())
}

/// Runs a process of this program in namespaces of its own. How many failed.
fn apart(case: &[&str]) -> io::Result<u32> {
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", "sh", "-c", APART, "guest"]).args(case);
    let start = Instant::now();
    let ended = wait(&mut command.spawn()?, LIMIT)?;
    say(&finished(Record::new("case").with("name", case.join(" ")), ended, start));
    Ok(u32::from(!succeeded(ended)))
}

/// Runs a test binary that the harness has put here. How many failed.
fn tests(name: &str, release: &str) -> io::Result<u32> {
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let left_out = LEFT_OUT.iter().filter(|left_out| left_out.binary == name && version < left_out.since);
    let start = Instant::now();
    let printed = Path::new("/tmp").join(name);
    let mut command = Command::new(Path::new("/tests").join(name));
    command.arg("--test-threads=2").args(left_out.flat_map(|left_out| ["--skip", left_out.tests]));
    command.stdout(fs::File::create(&printed)?).stderr(Stdio::inherit());
    let ended = wait(&mut command.spawn()?, TESTS_LIMIT)?;
    let printed = String::from_utf8_lossy(&fs::read(printed)?).into_owned();
    let result = printed.lines().rfind(|line| line.starts_with("test result")).unwrap_or_default();
    if !succeeded(ended) {
        eprintln!("{printed}");
    }
    say(&finished(Record::new("tests").with("name", name).with("result", result), ended, start));
    Ok(u32::from(!succeeded(ended)))
}

fn succeeded(ended: Option<ExitStatus>) -> bool {
    ended.is_some_and(|status| status.success())
}

fn finished(record: Record, ended: Option<ExitStatus>, start: Instant) -> Record {
    let status = match ended {
        Some(status) if status.success() => "ok".into(),
        Some(status) => status.to_string(),
        None => "too slow".into(),
    };
    record.with("status", status).with("seconds", start.elapsed().as_secs())
}
