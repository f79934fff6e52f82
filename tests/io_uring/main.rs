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

/// The same where the kernel does not tell which pages memory has (`PAGEMAP_SCAN`, Linux 6.7), so that none is registered.
#[track_caller]
fn never_registers(test: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let tells = (numbers.next(), numbers.next()) >= (Some(6), Some(7));
    if !tells {
        harness::skip(test, &format!("Linux {} does not tell of huge pages", release.trim()));
    }
    !tells || missing(test)
}
