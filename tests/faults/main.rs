//! The host fails, in every way that it can: the stream is whole, goes on by another mechanism, or ends with an error that names the
//! cause; memory comes back, and no descriptor is left.
#![cfg(zerosink_linux)]

mod descriptors;
mod door;
mod errnos;
mod first;
mod forbidden;
#[path = "../harness/mod.rs"]
mod harness;
mod limits;
mod process;
mod supervisor;
#[path = "../support/mod.rs"]
mod support;
mod transfer;

/// Alone in its process: in the parent, runs the test in a child, and is false.
#[track_caller]
fn alone(test: &str) -> bool {
    if !harness::is_child() {
        harness::run_child(std::process::Command::new(std::env::current_exe().unwrap()), test);
    }
    harness::is_child()
}
