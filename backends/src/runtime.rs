//! What the current tokio runtime can do.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::runtime::Handle;

/// The runtime that is to drive a socket.
pub(crate) fn current() -> io::Result<Handle> {
    Handle::try_current().map_err(|error| {
        io::Error::other(format!("no tokio runtime to drive the socket: make the sink inside one ({error})"))
    })
}

/// Has tokio register a descriptor. In a runtime that does no I/O tokio panics, and offers no other way to find out: that is made an
/// error here, after the panic hook has had tokio's message. (Where panics abort, it stays a panic.)
pub(crate) fn register<T>(by_tokio: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // Whatever the closure took with it is dropped by the panic; nobody sees it half done.
    catch_unwind(AssertUnwindSafe(by_tokio)).unwrap_or_else(|_panic| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the tokio runtime does no I/O: build it with enable_io() or enable_all()",
        ))
    })
}
