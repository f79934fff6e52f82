//! The initial file system of a guest, as the kernel unpacks it: a `newc` archive (`Documentation/driver-api/early-userspace`).

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

/// An archive that grows by what is added.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    known: Vec<PathBuf>,
}

impl Archive {
    /// Adds a directory, and those above it. Known ones are left alone.
    pub(crate) fn directory(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || self.known.iter().any(|known| known == path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.known.push(path.to_owned());
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file with these contents; `mode` is that of `chmod(1)`.
    pub(crate) fn file(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        self.directory(path.parent().unwrap_or(Path::new("")));
        self.entry(path, FILE | mode, contents);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &Path, target: &Path) {
        self.directory(path.parent().unwrap_or(Path::new("")));
        self.entry(path, LINK, target.as_os_str().as_bytes());
    }

    /// Adds a copy of a file of the host.
    pub(crate) fn copy(&mut self, from: &Path, path: &Path) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
        let mode = fs::metadata(from).map_err(named)?.permissions().mode() & 0o777;
        self.file(path, mode, &fs::read(from).map_err(named)?);
        Ok(())
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        let name = path.as_os_str().as_bytes();
        // Links between files are not kept, so a number that only grows will do.
        let number = self.known.len() + self.bytes.len();
        let fields = [number, mode as usize, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{:08X}", field & 0xFFFF_FFFF).as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the archive with its end.
    pub(crate) fn write(mut self, mut to: impl Write) -> io::Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        to.write_all(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// By a stranger's program, where there is one.
    #[test]
    fn cpio_reads_the_archive() {
        let mut archive = Archive::default();
        archive.file(Path::new("a/b/c"), 0o644, b"odd");
        archive.file(Path::new("a/b/d"), 0o755, b"");
        archive.link(Path::new("a/e"), Path::new("b/c"));
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let cpio =
            Command::new("cpio").args(["--list", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut cpio = match cpio {
            Ok(cpio) => cpio,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "cpio must be there on CI: {error}");
                eprintln!("*** SKIPPED: no cpio: {error} ***");
                return;
            }
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a\na/b\na/b/c\na/b/d\na/e\n");
    }
}
