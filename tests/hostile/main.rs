//! Wires that lose, repeat, reorder, slow and cut, and peers that lie, stop and die: not one wrong byte, and every connection ends.
//!
//! Each property has a control in which its protection is out and wrong bytes are seen.
#![cfg(zerosink_linux)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;
#[path = "../wire/mod.rs"]
mod wire;

mod cut;
mod endings;
mod liars;
mod local;
mod loss;
mod scene;
mod way;

/// Says why there is no network here, if so.
#[track_caller]
fn without_network(test: &str) -> bool {
    let missing = wire::missing();
    missing.inspect(|why| harness::skip(test, why)).is_some()
}
