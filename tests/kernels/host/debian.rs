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

/// The kernel, fetched or as it was fetched before.
pub(crate) fn fetch(kernel: &Kernel, cache: &Path) -> io::Result<Unpacked> {
    let place = cache.join("packages").join(kernel.name);
    let marker = place.join("package");
    if let Ok(package) = fs::read_to_string(&marker) {
        return unpacked(package, &place);
    }
    let mut found = None;
    for suite in kernel.suites {
        let apt = Apt::of(suite, &cache.join("apt"))?;
        let names = apt.run("apt-cache", ["search", "--names-only", "^linux-image-[0-9]"])?;
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
    options: Vec<String>,
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
        let root = root.display();
        let options = [
            format!("Dir::Etc={root}/etc"),
            format!("Dir::State={root}/state"),
            format!("Dir::State::status={root}/status"),
            format!("Dir::Cache={root}/cache"),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            "APT::Sandbox::User=root".into(),
            "APT::Architecture=amd64".into(),
            // The oldest suites are no longer signed anew.
            "Acquire::Check-Valid-Until=false".into(),
        ];
        let apt = Self { options: options.into_iter().flat_map(|option| ["-o".into(), option]).collect() };
        apt.run("apt-get", ["update", "-qq", "--error-on=any"])?;
        Ok(apt)
    }

    fn run<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<String> {
        run(Command::new(program).args(&self.options).args(arguments))
    }

    /// Fetches a kernel's package, or those that it is split into, and unpacks them below `place`.
    fn download(&self, package: &str, place: &Path) -> io::Result<()> {
        let depends = self.run("apt-cache", ["depends", package])?;
        let parts: Vec<_> = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
            .collect();
        let wanted = if parts.is_empty() { vec![package] } else { parts };
        let downloads = place.join("downloads");
        fs::create_dir_all(&downloads)?;
        let mut command = Command::new("apt-get");
        run(command.args(&self.options).args(["download", "-qq"]).args(wanted).current_dir(&downloads))?;
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
