//! What a guest boots into: busybox, `ip` and `tc` with their libraries, the kernel's modules, and the programs to run.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{archive::Archive, debian::Unpacked, tool::run};

const INIT: &str = include_str!("init.sh");

/// Programs of the host that the guest has, too, with their paths there. busybox has an `ip`, which knows no namespaces.
const PROGRAMS: [&str; 3] = ["bin/busybox", "sbin/ip", "sbin/tc"];

/// Directories of modules below `kernel/`, each a few hundred KiB; most of the others are drivers for what a guest does not have.
const MODULES: [&str; 18] = [
    "arch/x86/crypto",
    "crypto",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/net/net_failover",
    "drivers/net/vmxnet3",
    "drivers/virtio",
    "lib",
    "net/802",
    "net/8021q",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/llc",
    "net/sched",
    "net/tls",
    "net/unix",
];

/// Writes the initial file system for a kernel. `programs` are static binaries, each with its path in the guest.
pub(crate) fn write(kernel: &Unpacked, programs: &[(PathBuf, PathBuf)], to: &Path, scratch: &Path) -> io::Result<()> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "run", "sbin", "sys", "tmp"] {
        archive.directory(Path::new(directory));
    }
    archive.file(Path::new("init"), 0o755, INIT.as_bytes());
    archive.link(Path::new("sbin/modprobe"), Path::new("/bin/busybox"));
    for (from, path) in programs {
        archive.copy(from, path)?;
    }
    for program in PROGRAMS.map(Path::new) {
        let from = which(program.file_name().unwrap_or_default())?;
        archive.copy(&from, program)?;
        for library in libraries(&from)? {
            // At its own path: that of the loader is in the program.
            archive.copy(&library, library.strip_prefix("/").map_err(io::Error::other)?)?;
        }
    }
    modules(&mut archive, kernel, scratch)?;
    archive.write(File::create(to)?)
}

/// Where a program is, also if servers' directories are not in the user's `PATH`.
fn which(program: impl AsRef<Path>) -> io::Result<PathBuf> {
    let program = program.as_ref();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} is not installed", program.display())))
}

/// The libraries that a program is linked with; none if it is static, of which `ldd` complains.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Adds modules, unpacked, with the list of what each needs.
fn modules(archive: &mut Archive, kernel: &Unpacked, scratch: &Path) -> io::Result<()> {
    let lib = kernel.modules.join("lib/modules");
    let version = fs::read_dir(&lib)?.next().ok_or(io::ErrorKind::NotFound)??.file_name();
    let (from, to) = (lib.join(&version), scratch.join("lib/modules").join(&version));
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    fs::create_dir_all(&to)?;
    for list in ["modules.order", "modules.builtin"] {
        // Newer packages have none, and depmod does without.
        match fs::copy(from.join(list), to.join(list)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut packed = Vec::new();
    for wanted in MODULES.map(|wanted| Path::new("kernel").join(wanted)) {
        // Some are single modules, some are built in here and modules there.
        let directory = if from.join(&wanted).is_dir() { wanted.as_path() } else { wanted.parent().unwrap_or(&wanted) };
        let all = if from.join(directory).is_dir() { files(&from.join(directory))? } else { Vec::new() };
        for file in all {
            let relative = file.strip_prefix(&from).map_err(io::Error::other)?;
            if relative.as_os_str().as_encoded_bytes().starts_with(wanted.as_os_str().as_encoded_bytes()) {
                let copy = to.join(relative);
                fs::create_dir_all(copy.parent().unwrap_or(&to))?;
                fs::copy(&file, &copy)?;
                if copy.extension().is_some_and(|extension| extension == "xz") {
                    packed.push(copy);
                }
            }
        }
    }
    if !packed.is_empty() {
        run(Command::new("xz").args(["--decompress", "--force"]).args(packed))?;
    }
    run(Command::new(which("depmod")?).arg("-b").arg(scratch).arg(&version))?;
    for file in files(&to)? {
        archive.copy(&file, file.strip_prefix(scratch).map_err(io::Error::other)?)?;
    }
    Ok(())
}

/// Every file in a directory and those below it.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
