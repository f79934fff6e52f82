//! The conformance kit: whether a backend keeps its promises (feature `conformance`).
//!
//! It is for those who write a [`Backend`](crate::Backend) or a [`Transmit`](crate::Transmit) of their own. What they supply is a
//! [`Subject`]: how to make a runtime, a connection and a sink, and memory that the mechanism can send. The kit sends streams
//! to peers that are plain blocking sockets on threads, and compares what the sink says, what it does with the memory, and what the
//! peer reads.
//!
//! Two things make it see more than other tests do. Every byte of the streams depends on its position, so that a byte of another
//! place or of another lap of the ring is recognised. And what comes back to a ring is overwritten at once, so that memory which is
//! released while somebody can still read it arrives as poison at the peer.
//!
//! [`conformance_tests!`](crate::conformance_tests) makes a `#[test]` of each check; [`run_all`] makes a [`Report`]. A failure names
//! the [`Rule`] that was broken and says what was seen instead.
//!
//! A test that never fails proves nothing. [`broken`] has backends with one bug each; the check that is named beside the bug
//! must catch it, also in your mount.
//!
//! # What the kit cannot see
//!
//! It sees what happens on the links that it is given. Memory that a kernel reads after its release shows only where the kernel
//! shares it: over TCP loopback and veth with spliced pages, on `AF_UNIX`; `MSG_ZEROCOPY` and `SEND_ZC` data is copied when it
//! is delivered on the same host, so there only what waits in the sender's own queue shows.

pub mod broken;
mod checks;
mod clock;
mod lender;
mod line;
mod link;
mod mount;
mod peer;
mod report;
mod stage;
mod stream;
mod subject;

#[cfg(unix)]
pub use link::UnixPair;
pub use link::{Held, Link, Pair, Socket, TcpLoopback, tcp_pair};
pub use mount::{CHECKS, Check, run_all};
pub use report::{Failure, Outcome, Report, Rule};
pub use subject::{Runtime, Subject};
