//! What `auto` chooses against the best that is permitted, per socket, memory and size, in one interleaved run.
//!
//! ```text
//! cargo bench --bench ladder [-- ROUNDS] [tcp|veth|unix] [in-place|fresh-pages|immutable]
//! ```
//!
//! Each round runs every permitted mechanism and `auto` once, in turn, over a fresh connection to a reader on a thread of its
//! own that counts the bytes. The ring is of 8 MiB, and in-place and fresh pages are written before each send, as a producer would;
//! immutable memory was written once. A ratio is of one round.

#[cfg(zerosink_linux)]
mod run;
#[cfg(zerosink_linux)]
mod table;

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    table::print()
}

#[cfg(not(zerosink_linux))]
fn main() {}
