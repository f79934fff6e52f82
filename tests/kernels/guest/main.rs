//! What runs in a guest: measures each path of the matrix, one process for each, and says what it found.
//!
//! `guest quick` and `guest whole` run all of it; the other commands are the processes that these start.

#[cfg(zerosink_linux)]
mod controls;
#[cfg(zerosink_linux)]
mod kit;
#[cfg(zerosink_linux)]
mod measure;
#[cfg(zerosink_linux)]
mod memory;
#[cfg(zerosink_linux)]
mod place;
#[cfg(zerosink_linux)]
mod run;
#[cfg(zerosink_linux)]
#[path = "../../support/mod.rs"]
mod support;
#[cfg(zerosink_linux)]
mod tls;
#[cfg(zerosink_linux)]
#[path = "../../wire/mod.rs"]
mod wire;
#[cfg(zerosink_linux)]
#[path = "../../conformance/witness.rs"]
mod witness;

use std::process::ExitCode;

#[cfg(zerosink_linux)]
fn main() -> ExitCode {
    use zerosink_kernels::{Plan, Topology};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let topology = |name| Topology::named(name).unwrap_or_else(|| panic!("no path is called {name}"));
    let result = match words[..] {
        [name] if let Some(plan) = Plan::named(name) => run::all(plan),
        ["probe"] => {
            measure::probe();
            Ok(())
        }
        ["path", name] => measure::path(topology(name)),
        ["kit", plan, name, mechanism] => kit::run(Plan::named(plan), topology(name), mechanism),
        _ => panic!("no such command: {words:?}"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// The portable build has no other path than loopback, and no guest.
#[cfg(not(zerosink_linux))]
fn main() -> ExitCode {
    eprintln!("guest: this is the portable build");
    ExitCode::FAILURE
}
