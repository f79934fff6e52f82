//! Whether this process was forked off meanwhile.

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering::SeqCst},
};

static FORKS: AtomicU32 = AtomicU32::new(0);

/// A number that changes in the child of every `fork(2)` from the first call on. Descriptors that were kept before it are another
/// process's, too.
///
/// (`getpid(2)` would also notice a `clone(2)` by hand, and costs a system call each time.)
pub(crate) fn generation() -> u32 {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // SAFETY: the handler is a function of this program, and does nothing but an atomic addition.
        let error = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if error != 0 {
            tracing::warn!(error = %std::io::Error::from_raw_os_error(error), "forks will not be noticed");
        }
    });
    FORKS.load(SeqCst)
}

unsafe extern "C" fn in_child() {
    FORKS.fetch_add(1, SeqCst);
}
