//! What is peculiar to io_uring: registered memory, threads that end, and what the kernel does.
#![cfg(zerosink_uring)]

mod charge;
#[path = "../harness/mod.rs"]
mod harness;
mod kernel;
mod registered;
#[path = "../support/mod.rs"]
mod support;
mod threads;
mod unaware;

/// True, and said, where there is no io_uring.
#[track_caller]
fn missing(test: &str) -> bool {
    let support = zerosink::Backend::probe(&zerosink::backends::IoUring);
    if !support.is_yes() {
        harness::skip(test, &format!("there is no io_uring here: {support}"));
    }
    !support.is_yes()
}
