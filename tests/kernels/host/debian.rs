//! Kernels as Debian packages: fetched by `apt-get download` from the mirror that this machine uses, unpacked, never installed.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{kernel::Kernel, tool::run};

/// Signs all of Debian's suites.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The package.
    pub(crate) package: String,
    /// The kernel itself.
    pub(crate) image: PathBuf,
    /// A directory with `lib/modules/VERSION` in it.
    pub(crate) modules: PathBuf,
}

/// Where a kernel is unpacked; `package` there is the name of its package.
pub(crate) fn place(kernel: &Kernel, cache: &Path) -> PathBuf {
    cache.join("packages").join(kernel.name)
}

/// The kernel, fetched or as it was fetched before.
pub(crate) fn fetch(kernel: &Kernel, cache: &Path) -> io::Result<Unpacked> {
    let place = place(kernel, cache);
    let marker = place.join("package");
    if let Ok(package) = fs::read_to_string(&marker) {
        return unpacked(package, &place);
    }
    let mut found = None;
    for suite in kernel.suites {
        let apt = Apt::of(suite, &cache.join("apt"))?;
        let names = run(apt.command("apt-cache").args(["search", "--names-only", "^linux-image-[0-9]"]))?;
        let names = names.lines().filter_map(|line| line.split_whitespace().next());
        if let Some(package) = kernel.newest(names) {
            found = Some((package.to_owned(), apt));
        }
    }
    let (package, apt) = found.ok_or_else(|| {
        io::Error::other(format!("no package of kernel {} in {}", kernel.name, kernel.suites.join(", ")))
    })?;
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&place)?,
    }
    apt.download(&package, &place)?;
    let unpacked = unpacked(package.clone(), &place)?;
    // Last, so that what was interrupted is fetched again.
    fs::write(marker, package)?;
    Ok(unpacked)
}

fn unpacked(package: String, place: &Path) -> io::Result<Unpacked> {
    let only = |directory: PathBuf, prefix: &str| -> Option<PathBuf> {
        let entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
        entries.map(|entry| entry.path()).find(|path| path.file_name().is_some_and(|n| starts_with(n, prefix)))
    };
    // Newer packages have everything below /usr, and the kernel beside its modules.
    let lib = ["usr/lib/modules", "lib/modules"].map(|lib| place.join(lib)).into_iter().find(|lib| lib.exists());
    let version = lib.and_then(|lib| only(lib, ""));
    let image = only(place.join("boot"), "vmlinuz").or_else(|| only(version.clone()?, "vmlinuz"));
    match (image, version.as_deref().and_then(|version| version.ancestors().nth(3))) {
        (Some(image), Some(root)) => Ok(Unpacked { package, image, modules: root.to_owned() }),
        _ => Err(io::Error::other(format!("no kernel, or no modules, in {package}"))),
    }
}

fn starts_with(name: &OsStr, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// A package manager that knows one suite and nothing of what is installed.
struct Apt {
    /// Its file of settings.
    settings: PathBuf,
}

impl Apt {
    /// Reads the list of the suite's packages.
    fn of(suite: &str, cache: &Path) -> io::Result<Self> {
        let root = cache.join(suite);
        for directory in ["etc", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::write(root.join("status"), "")?;
        fs::write(root.join("etc/sources.list"), format!("deb [signed-by={KEYS}] {} {suite} main\n", mirror()?))?;
        let place = root.display();
        let settings = [
            format!("Dir::Etc \"{place}/etc\";"),
            format!("Dir::State \"{place}/state\";"),
            format!("Dir::State::status \"{place}/status\";"),
            format!("Dir::Cache \"{place}/cache\";"),
            "Acquire::Languages none;".into(),
            "Acquire::Retries 3;".into(),
            "APT::Sandbox::User root;".into(),
            "APT::Architecture amd64;".into(),
            // The oldest suites are no longer signed anew.
            "Acquire::Check-Valid-Until false;".into(),
        ];
        let apt = Self { settings: root.join("apt.conf") };
        fs::write(&apt.settings, settings.join("\n"))?;
        run(apt.command("apt-get").args(["update", "-qq", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.settings);
        command
    }

    /// Fetches a kernel's package, or those that it is split into, and unpacks them below `place`.
    fn download(&self, package: &str, place: &Path) -> io::Result<()> {
        let depends = run(self.command("apt-cache").args(["depends", package]))?;
        let parts: Vec<_> = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
            .collect();
        let wanted = if parts.is_empty() { vec![package] } else { parts };
        let downloads = place.join("downloads");
        fs::create_dir_all(&downloads)?;
        run(self.command("apt-get").args(["download", "-qq"]).args(wanted).current_dir(&downloads))?;
        for entry in fs::read_dir(&downloads)? {
            run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(place))?;
        }
        fs::remove_dir_all(downloads)
    }
}

/// Where this machine has its packages from.
fn mirror() -> io::Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"];
    let known = run(Command::new("apt-get").args(format))?;
    // Before the first `apt-get update`, or on another distribution, nobody knows.
    Ok(known.lines().next().unwrap_or("http://deb.debian.org/debian/").to_owned())
}
