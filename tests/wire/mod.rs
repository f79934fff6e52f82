//! Networks for tests: namespaces of this process, joined by a wire that this process forwards frame by frame.
//!
//! Nothing here outlives its value. A namespace has no name and no process: it lives as long as a descriptor, a thread or a
//! socket is in it. A TAP device lives as long as its descriptor. So the kernel clears up, however a test ends.
//!
//! Making a network needs root (`CAP_SYS_ADMIN`, `CAP_NET_ADMIN`), `/dev/net/tun` and `ip`. Ask [`missing`] first, and skip.
#![allow(clippy::allow_attributes, reason = "which parts are used differs from test to test")]
#![allow(dead_code, reason = "which parts are used differs from test to test")]

pub(crate) mod conditions;
pub(crate) mod forwarder;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod raw_peer;
pub(crate) mod tap;

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use namespace::Namespace;
use tap::{Offloads, Tap};

/// Why there can be no network here, or `None`.
pub(crate) fn missing() -> Option<String> {
    let tried = Namespace::create().and_then(|namespace| Tap::open(&namespace, "tap0", Offloads::All));
    tried.err().map(|error| format!("no network namespace with a TAP device: {error}"))
}

/// `SIOCOUTQ`: bytes written to the socket that the peer has not acknowledged.
pub(crate) fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    #[expect(unsafe_code, reason = "rustix has no SIOCOUTQ")]
    // SAFETY: the socket is open for the call, and the request (TIOCOUTQ has its number) writes one int, which `bytes` is.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes.unsigned_abs() as usize) } else { Err(io::Error::last_os_error()) }
}
