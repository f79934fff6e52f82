//! Whether this host permits the mechanism `io-uring`, found out by sending a byte.

use std::{
    fmt, io,
    os::fd::AsFd as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerosink_core::{AttachError, Mechanism, Refusal, Support};

use super::loopback_pair;
use crate::sys::uring::{Completion, How, Payload, Queues};

/// What this kernel's io_uring can do beyond what is necessary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// A notification says whether the kernel copied after all (`IORING_SEND_ZC_REPORT_USAGE`, Linux 6.2).
    pub(crate) reports_usage: bool,
}

/// Which call was refused, and with what error.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    call: &'static str,
    error: Arc<io::Error>,
}

impl Failed {
    fn at(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { call, error: Arc::new(error) }
    }

    /// True if the kernel does not do it; false if somebody forbids it, or something is exhausted, which may change.
    fn is_final(&self) -> bool {
        Refusal::from_error(&self.error) == Some(Refusal::NotInKernel)
    }

    pub(crate) fn into_attach_error(self, mechanism: Mechanism) -> AttachError {
        let source = self
            .error
            .raw_os_error()
            .map_or_else(|| io::Error::new(self.error.kind(), self.error.to_string()), io::Error::from_raw_os_error);
        AttachError::Call { mechanism, call: self.call, source }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.error)?;
        match self.error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                f.write_str("; see the sysctl kernel.io_uring_disabled, or the seccomp filter of the container")
            }
            Some(libc::ENOMEM) => f.write_str("; see RLIMIT_MEMLOCK"),
            _ => Ok(()),
        }
    }
}

/// What io_uring can do here, or why it cannot. A final answer is asked for once per process.
pub(crate) fn io_uring_abilities() -> Result<Abilities, Failed> {
    static ANSWER: OnceLock<Result<Abilities, Failed>> = OnceLock::new();
    static WARNED: AtomicBool = AtomicBool::new(false);
    if let Some(answer) = ANSWER.get() {
        return answer.clone();
    }
    match ask() {
        Err(failed) if !failed.is_final() => {
            // Every connection asks again, but a container that forbids it does so for good.
            if !WARNED.swap(true, Relaxed) {
                tracing::warn!(%failed, "io-uring probe could not tell");
            }
            Err(failed)
        }
        answer => ANSWER.get_or_init(|| answer).clone(),
    }
}

/// The same for people.
pub(crate) fn io_uring() -> Support {
    match io_uring_abilities() {
        Ok(_) => Support::Yes,
        Err(failed) if failed.is_final() => Support::no(failed.to_string()),
        Err(failed) => Support::unknown(io::Error::new(failed.error.kind(), failed.to_string())),
    }
}

fn ask() -> Result<Abilities, Failed> {
    let mut queues = Queues::open(4, 8).map_err(Failed::at("io_uring_setup"))?;
    if !queues.knows_its_operations().map_err(Failed::at("io_uring_register(IORING_REGISTER_PROBE)"))? {
        let unknown = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        return Err(Failed::at("IORING_OP_SENDMSG_ZC (Linux 6.1)")(unknown));
    }
    match send_one(&mut queues, true) {
        Ok(()) => Ok(Abilities { reports_usage: true }),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            send_one(&mut queues, false).map_err(Failed::at("IORING_OP_SEND_ZC"))?;
            Ok(Abilities { reports_usage: false })
        }
        Err(error) => Err(Failed::at("IORING_OP_SEND_ZC")(error)),
    }
}

/// One zero-copy send from memory that outlives it, and its notification.
fn send_one(queues: &mut Queues, report_usage: bool) -> io::Result<()> {
    static BYTE: [u8; 1] = [0];
    let (client, _server) = loopback_pair()?;
    queues.push(0, client.as_fd(), &Payload::One(&BYTE), How::ZeroCopy { report_usage });
    queues.submit()?;
    loop {
        let (mut outcome, mut notified) = (None, false);
        queues.completions(|_, completion| match completion {
            Completion::Result { result: Err(errno), .. } => outcome = Some(errno),
            Completion::Result { notification_follows: false, .. } => outcome = Some(libc::EOPNOTSUPP),
            Completion::Result { .. } => {}
            Completion::Notification { .. } => notified = true,
        });
        if let Some(errno) = outcome {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if notified {
            return Ok(());
        }
        let mut fds = [PollFd::new(queues, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a zero-copy send was not notified within 1 s"));
            }
            // The kernel interrupts a thread to have it deliver its completions.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
