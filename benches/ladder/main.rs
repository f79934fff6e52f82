//! What `auto` chooses against the best that is permitted, per socket, memory and size, in one interleaved run.
//!
//! ```text
//! cargo bench --bench ladder [-- [ROUNDS] [tcp] [veth] [unix] [in-place] [fresh-pages] [immutable] [size=BYTES] [pages=large|huge]]
//! ```
//!
//! Each round runs every permitted mechanism and `auto` once, in turn, over a fresh connection to a reader on a processor of its
//! own that counts the bytes. `tcp` is loopback; `veth` is TCP between two network namespaces, and needs root. The ring is of
//! 8 MiB. In-place and fresh pages are written before each send, as a producer would; immutable memory was written once. A
//! ratio is of one round. `pages` are 64 KiB or 2 MiB instead of base pages, if the host permits that; a lease of fresh pages is
//! whole ones.

#[cfg(zerosink_linux)]
#[path = "../chance/mod.rs"]
mod chance;
#[cfg(zerosink_linux)]
#[path = "../ends/mod.rs"]
mod ends;
#[cfg(zerosink_linux)]
mod run;
#[cfg(zerosink_linux)]
mod table;
#[cfg(zerosink_linux)]
#[path = "../../tests/wire/mod.rs"]
mod wire;

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    table::print()
}

#[cfg(not(zerosink_linux))]
fn main() {}
