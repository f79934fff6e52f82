//! The sinks against hand-written loops over the same system calls, and against tokio's `write_all`, interleaved.
//!
//! ```text
//! cargo bench --bench send [-- [ROUNDS] [tcp] [unix] [memlock] [apart] [size=BYTES] [only=NAME,NAME]]
//! ```
//!
//! `tcp` is over loopback, `unix` over `AF_UNIX`; `memlock` is over loopback as a user without privileges, who may lock 64 KiB
//! of memory, so that `MSG_ZEROCOPY` fails all the time (it needs root). `only` is for profilers: a profile of one contender.
//!
//! Every round runs each contender once, in turn, over a fresh connection to a reader on a thread of its own that counts the
//! bytes. Over loopback the reader runs on the sender's processor when the sender waits; with `apart` it has a processor of its own,
//! as it always has over `AF_UNIX` (`benches/ends` says why). A ratio is of one round, so that it holds when the machine's speed
//! drifts; the table shows quartiles of them.

#[cfg(zerosink_linux)]
mod by_hand;
#[cfg(zerosink_linux)]
#[path = "../chance/mod.rs"]
mod chance;
#[cfg(zerosink_linux)]
mod contender;
#[cfg(zerosink_linux)]
#[path = "../ends/mod.rs"]
mod ends;
#[cfg(zerosink_linux)]
mod section;
#[cfg(zerosink_linux)]
mod store;

#[cfg(not(zerosink_linux))]
fn main() {}

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    use section::{Run, Section};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo bench passes --bench; cargo test --benches passes nothing: one short round then shows that it works.
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(if measuring { 31 } else { 1 });
    let only = arguments.iter().find_map(|argument| argument.strip_prefix("only="));
    let size = arguments.iter().find_map(|argument| argument.strip_prefix("size=")?.parse().ok());
    let apart = arguments.iter().any(|argument| argument == "apart");
    let asked: Vec<_> = Section::ALL.iter().filter(|section| arguments.iter().any(|a| a == section.name)).collect();
    let sections = if asked.is_empty() { Section::ALL.iter().collect() } else { asked };
    ends::stay_with_senders();
    for section in sections {
        section.print(&Run { rounds, measuring, size, only, apart })?;
    }
    Ok(())
}
