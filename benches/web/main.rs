//! Web services on zero-copy streams against plain axum with `Bytes` bodies, interleaved.
//!
//! ```text
//! cargo bench --bench web [-- [ROUNDS] [small] [large] [unix] [idle]]
//! ```
//!
//! * `small`: requests per second of small JSON and of 4 KiB bodies;
//! * `large`, `unix`: throughput and processor time per byte of 1 MiB bodies by each mechanism, over loopback TCP and over `AF_UNIX`;
//! * `idle`: memory of each of 10,000 idle keep-alive connections.
//!
//! Every server has a thread and a runtime of its own, on one processor; the client is on the other. A round gives each server a slice,
//! in an order that changes; a ratio is of one round, so that it holds when the machine's speed drifts. Tables show medians.

#[cfg(zerosink_linux)]
mod bodies;
#[cfg(zerosink_linux)]
mod client;
#[cfg(zerosink_linux)]
#[path = "../ends/mod.rs"]
mod ends;
#[cfg(zerosink_linux)]
mod idle;
#[cfg(zerosink_linux)]
mod requests;
#[cfg(zerosink_linux)]
mod rounds;
#[cfg(zerosink_linux)]
mod server;

#[cfg(not(zerosink_linux))]
fn main() {}

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, contender] = &arguments[..]
        && role == idle::ROLE
    {
        return idle::serve(contender);
    }
    // cargo bench passes --bench; cargo test --benches passes nothing: one short round then shows that it works.
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let rounds: Option<usize> = arguments.iter().find_map(|argument| argument.parse().ok());
    let rounds = |usual| rounds.unwrap_or(if measuring { usual } else { 1 });
    const SECTIONS: [&str; 4] = ["small", "large", "unix", "idle"];
    let named = |section: &str| arguments.iter().any(|argument| argument == section);
    let asked = |section: &str| named(section) || !SECTIONS.iter().any(|section| named(section));
    if asked("small") {
        requests::print(rounds(61), measuring)?;
    }
    if asked("large") {
        bodies::print(server::Link::Tcp, rounds(21), measuring)?;
    }
    if asked("unix") {
        bodies::print(server::Link::Unix, rounds(21), measuring)?;
    }
    if asked("idle") {
        idle::print(rounds(3), if measuring { 10_000 } else { 200 })?;
    }
    Ok(())
}
