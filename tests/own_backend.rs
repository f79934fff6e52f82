//! The backend of `examples/own_backend.rs` keeps its promises.

#[expect(dead_code, reason = "the example's main function")]
#[path = "../examples/own_backend.rs"]
mod own_backend;

// ANCHOR: mount
use own_backend::Trickle;
use zerosink::{
    conformance::{Mount, TcpLoopback},
    conformance_tests,
};

mod over_tcp {
    use super::*;
    conformance_tests!(Mount::new(Trickle(1000), TcpLoopback));
}
// ANCHOR_END: mount

#[cfg(unix)]
mod over_unix {
    use super::*;
    conformance_tests!(Mount::new(Trickle(1000), zerosink::conformance::UnixPair));
}

// ANCHOR: control
/// That nothing fails means something only if a bug would.
#[test]
fn control_the_mount_catches_what_it_should() {
    use zerosink::conformance::{Check, broken::Broken};
    for bug in
        [Broken::Overtakes, Broken::SwallowsWhilePending, Broken::Spins, Broken::Miscounts, Broken::ReleasesTwice]
    {
        let mount = Mount::new(bug, TcpLoopback).shared();
        let check = bug.caught_by().and_then(Check::named).unwrap();
        assert!(check.run(&mount).is_failed(), "{bug:?} is not caught by {check:?}");
    }
}
// ANCHOR_END: control
