//! What the harness and its guests have in common: paths, ways to send, and the lines in which a guest says what it found.
//!
//! The guest measures and the harness judges, so that a guest which does not get as far as a measurement cannot pass.

pub mod plan;
pub mod process;
pub mod record;
pub mod topology;
pub mod way;

pub use plan::Plan;
pub use record::Record;
pub use topology::Topology;
pub use way::Way;
