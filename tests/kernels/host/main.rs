//! `cargo run -p zerosink-kernels`: boots kernels from 5.10 to the newest in emulated machines, runs the matrix in each, judges
//! what it found, and writes the table of the book.
//!
//! Needs root, for network devices, and from Debian `qemu-system-x86 busybox-static iproute2 kmod xz-utils`. Nothing is installed: kernels are
//! fetched as packages and unpacked below the target directory. A kernel that cannot be fetched, a guest that does not come to its
//! end, and a result that is missing are failures.

mod archive;
mod debian;
mod expected;
mod findings;
mod initramfs;
mod judge;
mod kernel;
mod machine;
mod program;
mod table;
mod tool;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use findings::Findings;
use kernel::{KERNELS, Kernel};
use table::{Column, Table};
use zerosink_kernels::Plan;

#[derive(Debug, Parser)]
#[command(version, about = "The matrix of kernels and network paths, in emulated machines")]
struct Arguments {
    /// The quick plan; of the oldest kernel, 6.1 and the newest if none is named
    #[arg(long)]
    quick: bool,
    /// Only writes the table of the book, from what each kernel found when it last ran; as a whole run does in the end
    #[arg(long)]
    table: bool,
    /// Kernels, by name; all of them if there is none. In the table, the others are as they were when they last ran
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(KERNELS.map(|kernel| kernel.name)))]
    kernels: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kernels: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what is asked for. `true` if nothing was wrong.
fn run(arguments: &Arguments) -> io::Result<bool> {
    let plan = if arguments.quick { Plan::Quick } else { Plan::Whole };
    let cache = program::target().join("kernels");
    fs::create_dir_all(&cache)?;
    // Guests of two runs would write into the same files, and slow each other down. The lock goes with the process.
    let lock = fs::File::create(cache.join("lock"))?;
    lock.try_lock().map_err(|error| io::Error::other(format!("another run has {}: {error}", cache.display())))?;
    if arguments.table {
        return table(&cache);
    }
    machine::missing()?;
    let start = Instant::now();
    let mut programs = vec![(program::guest()?, PathBuf::from("guest"))];
    if !plan.tests().is_empty() {
        let tests = program::tests(plan.tests())?;
        programs.extend(tests.into_iter().map(|(name, path)| (path, Path::new("tests").join(name))));
    }
    println!("guest programs built in {} s", start.elapsed().as_secs());

    let named = |kernel: &Kernel| arguments.kernels.iter().any(|name| name == kernel.name);
    let wanted = |kernel: &&Kernel| {
        if arguments.kernels.is_empty() { kernel.quick || plan == Plan::Whole } else { named(kernel) }
    };
    let mut good = true;
    for kernel in KERNELS.iter().filter(wanted) {
        good &= boot(kernel, plan, &programs, &cache)?;
    }
    println!("{}", if good { "every kernel is as expected" } else { "not every kernel is as expected" });
    Ok(if plan == Plan::Whole { table(&cache)? && good } else { good })
}

/// Writes the table of the book. `false` if a kernel is missing in it, which is then said.
fn table(cache: &Path) -> io::Result<bool> {
    let mut columns = Vec::new();
    for kernel in &KERNELS {
        let package = fs::read_to_string(debian::place(kernel, cache).join("package"));
        let results = machine::results(&place(kernel, cache));
        let (Ok(package), Ok(results)) = (package, results) else {
            println!("{}: not in the table: it has not run", kernel.name);
            continue;
        };
        let findings = Findings(results);
        match judge::judge(&findings, Plan::Quick).first() {
            Some(complaint) => println!("{}: not in the table: {complaint}", kernel.name),
            None => columns.push(Column { name: kernel.name, package, findings }),
        }
    }
    if columns.len() < KERNELS.len() {
        return Ok(false);
    }
    let book = program::workspace().join("book/src/kernels/matrix.md");
    fs::create_dir_all(book.parent().unwrap_or(&book))?;
    fs::write(&book, Table(&columns).to_string())?;
    println!("{} is written", book.display());
    Ok(true)
}

fn place(kernel: &Kernel, cache: &Path) -> PathBuf {
    cache.join("guests").join(kernel.name)
}

/// One kernel: fetched, booted, and judged. `false` if something is wrong with it, which is then printed.
fn boot(kernel: &Kernel, plan: Plan, programs: &[(PathBuf, PathBuf)], cache: &Path) -> io::Result<bool> {
    let limit = match plan {
        Plan::Quick => Duration::from_secs(420),
        Plan::Whole => Duration::from_secs(1800),
    };
    let start = Instant::now();
    let unpacked = debian::fetch(kernel, cache)
        .map_err(|error| io::Error::new(error.kind(), format!("kernel {} cannot be fetched: {error}", kernel.name)))?;
    let place = place(kernel, cache);
    fs::create_dir_all(&place)?;
    let initrd = place.join("initrd");
    initramfs::write(&unpacked, programs, &initrd, &place.join("modules"))?;
    let fetched = start.elapsed().as_secs();
    let said = machine::boot(&unpacked, &initrd, plan.name(), &place, limit)?;
    let findings = Findings(machine::results(&place)?);
    let mut wrong = judge::judge(&findings, plan);
    wrong.splice(0..0, said.broken);
    let (name, package, took) = (kernel.name, &unpacked.package, said.took.as_secs());
    let verdict = if wrong.is_empty() { "as expected" } else { "NOT AS EXPECTED" };
    println!("{name}: {verdict}: {package}, fetched in {fetched} s, ran for {took} s");
    for complaint in &wrong {
        println!("  {complaint}");
    }
    if !wrong.is_empty() {
        println!("  what the guest printed is in {}", said.console.display());
    }
    Ok(wrong.is_empty())
}
