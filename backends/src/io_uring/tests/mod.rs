//! What completions mean, and queues that are too small.

mod operation;
mod overflow;
