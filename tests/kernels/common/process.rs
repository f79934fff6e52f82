//! Processes that must come to an end.

use std::{
    io,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

/// How often it is looked at: a process that ends tells nobody who also keeps a limit.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// Waits until `child` has ended, and says how; `None` if it had to be killed, after `limit`.
///
/// # Errors
///
/// As `waitpid(2)` and `kill(2)`.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOKS_EVERY);
    }
}
