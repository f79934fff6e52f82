//! The static binaries that run in a guest: the matrix itself, and test binaries of the workspace.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::tool::run;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// Where Cargo builds, and where this harness keeps what it fetched.
pub(crate) fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    std::path::absolute(&target).unwrap_or(target)
}

/// Cargo, for static binaries: a guest has no libraries of ours. A guest is slow, so they are optimised.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).args(["--locked", "--release", "--target", TARGET, "--message-format=json"]);
    command.env("CARGO_TARGET_DIR", target().join("kernels/build")).env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_STRIP", "true");
    command.current_dir(workspace());
    command
}

/// The program that a guest runs.
pub(crate) fn guest() -> io::Result<PathBuf> {
    let built = run(&mut cargo(&["build", "--package", "zerosink-kernels", "--bin", "guest"]))?;
    executables(&built)
        .find(|(name, _)| name == "guest")
        .map(|(_, path)| path)
        .ok_or_else(|| io::Error::other("cargo built no guest"))
}

/// Test binaries of the package `zerosink`, each with its name.
pub(crate) fn tests(names: &[&str]) -> io::Result<Vec<(String, PathBuf)>> {
    let mut command = cargo(&["test", "--no-run", "--package", "zerosink"]);
    let built = run(command.args(names.iter().flat_map(|name| ["--test", name])))?;
    let built: Vec<_> = executables(&built).filter(|(name, _)| names.contains(&name.as_str())).collect();
    if built.len() == names.len() { Ok(built) } else { Err(io::Error::other("cargo did not build all tests")) }
}

/// What Cargo says that it built.
fn executables(messages: &str) -> impl Iterator<Item = (String, PathBuf)> {
    messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    })
}
