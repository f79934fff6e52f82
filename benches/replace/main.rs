//! What fresh pages cost: each way of replacement beside writing in place and beside a copy, interleaved.
//!
//! ```text
//! cargo bench --bench replace [-- ROUNDS]
//! ```
//!
//! A ring is filled batch by batch. Each batch is put into a pipe by `vmsplice`, so that the kernel refers to its pages, and
//! what entered the pipe a window earlier leaves it; then the batch's pages are replaced. Two things are timed: the replacement,
//! and the fill, which includes the page faults and the zeroing that it runs into. *In place* fills again without
//! replacement, as if everything were released, and *copy* also copies each batch into a buffer, as a copying send does.
//!
//! Every round runs each way once, in turn. A ratio is of one round; the table shows the least, the median and the greatest,
//! and the median times in microseconds per MiB. Before it is timed, each way proves that a late reader gets the old bytes.
//!
//! Two more tables: how much physical memory a lap of a large ring goes through (for root), and whole transfers on one host,
//! fresh pages against a copy.

#[cfg(zerosink_linux)]
mod footprint;
#[cfg(zerosink_linux)]
mod table;
#[cfg(zerosink_linux)]
mod transfer;
#[cfg(zerosink_linux)]
mod way;
#[cfg(zerosink_linux)]
mod window;

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    table::print()
}

#[cfg(not(zerosink_linux))]
fn main() {
    println!("the portable build has no mapped memory");
}
