//! What this host permits, found out by doing. Asked once per process; the answers are kept and printable.

use std::fmt;

use zerosink_core::{Mechanism, Support, policy::Thresholds};

/// The answers for every mechanism, as a table that an operator can paste into a report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostReport {
    /// Each mechanism that this build has a backend for, with the answer of its probe.
    pub mechanisms: Vec<(Mechanism, Support)>,
    /// From how many bytes on zero-copy pays, as measured on this host.
    pub thresholds: Thresholds,
}

/// Probes this host. The first call takes a few milliseconds: it measures.
#[must_use]
pub fn host() -> HostReport {
    let mechanisms = vec![
        (Mechanism::Copy, Support::Yes),
        (Mechanism::Splice, splice()),
        (Mechanism::Gift, splice()),
        (Mechanism::MsgZerocopy, msg_zerocopy()),
        (Mechanism::IoUring, io_uring()),
    ];
    HostReport { mechanisms, thresholds: thresholds() }
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mechanism, support) in &self.mechanisms {
            writeln!(f, "{mechanism:<14} {support}")?;
        }
        let Thresholds { notified, referred } = self.thresholds;
        writeln!(f, "copied below (measured)")?;
        for (what, bytes) in [("notified", notified), ("by reference", referred)] {
            match bytes {
                usize::MAX => writeln!(f, "  {what:<12} any size: copying is cheaper here")?,
                bytes => writeln!(f, "  {what:<12} {bytes} bytes")?,
            }
        }
        Ok(())
    }
}

#[cfg(zerosink_uring)]
mod io_uring;

#[cfg(zerosink_linux)]
mod linux {
    use std::{
        io::{self, Read as _},
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::{fd::AsFd, unix::net::UnixStream},
        sync::{Arc, OnceLock},
    };

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use zerosink_core::{AttachError, Mechanism, Support, policy::Thresholds};

    use crate::{
        calibration,
        splice::{How, Pipe},
        sys,
    };

    /// Errors that mean "this kernel or socket does not do it", as opposed to "could not be asked".
    fn is_refusal(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(
                libc::ENOPROTOOPT
                    | libc::EOPNOTSUPP
                    | libc::EINVAL
                    | libc::ENOSYS
                    | libc::EPERM
                    | libc::EACCES
                    | ENOTSUPP
            )
        )
    }

    /// What `setsockopt(SO_ZEROCOPY)` answers on sockets that do not know it (`include/linux/errno.h`; not in libc).
    const ENOTSUPP: i32 = 524;

    /// What a probe has found: it works, or what the kernel answered.
    type Answer = Result<(), Arc<io::Error>>;

    /// Asks once and keeps the answer, but for "could not tell": descriptors may come back.
    fn ask(known: &OnceLock<Answer>, mechanism: Mechanism, by_doing: impl FnOnce() -> io::Result<()>) -> Answer {
        if let Some(answer) = known.get() {
            return answer.clone();
        }
        let answer = by_doing().map_err(Arc::new);
        match &answer {
            Err(error) if !is_refusal(error) => {
                tracing::warn!(%mechanism, %error, "probe could not tell");
                answer
            }
            _ => known.get_or_init(|| answer).clone(),
        }
    }

    /// The same for people.
    fn support(answer: Answer) -> Support {
        match answer {
            Ok(()) => Support::Yes,
            Err(error) if is_refusal(&error) => Support::no(error.to_string()),
            Err(error) => Support::Unknown(error),
        }
    }

    /// An error if the host refuses it: with what the kernel answered, so that statistics name the cause. What could not be found out
    /// now may be possible at the time of a send.
    pub(crate) fn permits(mechanism: Mechanism) -> Result<(), AttachError> {
        let answer = match mechanism {
            Mechanism::MsgZerocopy => ask_msg_zerocopy(),
            _ => ask_splice(),
        };
        match answer {
            Err(error) if is_refusal(&error) => {
                let source = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                Err(AttachError::Call { mechanism, call: "a send to see whether this host permits it", source })
            }
            _ => Ok(()),
        }
    }

    /// Whether one zero-copy send goes through on a TCP connection of our own and is notified.
    pub(crate) fn msg_zerocopy() -> Support {
        support(ask_msg_zerocopy())
    }

    fn ask_msg_zerocopy() -> Answer {
        static KNOWN: OnceLock<Answer> = OnceLock::new();
        ask(&KNOWN, Mechanism::MsgZerocopy, send_one)
    }

    /// Whether a page goes through a pipe into a socket.
    pub(crate) fn splice() -> Support {
        support(ask_splice())
    }

    fn ask_splice() -> Answer {
        static KNOWN: OnceLock<Answer> = OnceLock::new();
        ask(&KNOWN, Mechanism::Splice, || {
            static BYTE: [u8; 1] = [0x5a];
            let (ours, mut theirs) = UnixStream::pair()?;
            Pipe::take()?.carry(&[io::IoSlice::new(&BYTE)], ours.as_fd(), How::PLAIN)?;
            let mut seen = [0];
            theirs.read_exact(&mut seen)
        })
    }

    /// One zero-copy send from memory that outlives it, and its notification.
    fn send_one() -> io::Result<()> {
        static BYTE: [u8; 1] = [0];
        let (client, _server) = loopback_pair()?;
        sys::socket::set_zerocopy(client.as_fd())?;
        sys::socket::send_zerocopy(client.as_fd(), &[io::IoSlice::new(&BYTE)])?;
        let mut fds = [PollFd::new(&client, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
        match sys::errqueue::drain(client.as_fd(), |_| {})? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "a zero-copy send was not notified within 1 s")),
            _ => Ok(()),
        }
    }

    /// From how many bytes on a zero-copy send is cheaper than copying on this host. The first call measures.
    pub(crate) fn thresholds() -> Thresholds {
        static THRESHOLDS: OnceLock<Thresholds> = OnceLock::new();
        *THRESHOLDS.get_or_init(calibration::thresholds)
    }

    /// A TCP connection within this process.
    pub(crate) fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let own = client.local_addr()?;
        // Anybody on this host may connect to the port: take our own connection, and only that.
        loop {
            let (server, peer) = listener.accept()?;
            if peer == own {
                return Ok((client, server));
            }
        }
    }
}

#[cfg(zerosink_linux)]
pub(crate) use linux::{loopback_pair, msg_zerocopy, permits, splice, thresholds};

#[cfg(zerosink_uring)]
pub(crate) use io_uring::{io_uring, io_uring_abilities};

#[cfg(all(zerosink_linux, not(zerosink_uring)))]
fn io_uring() -> Support {
    Support::no("this build is without the feature io-uring")
}

#[cfg(not(zerosink_linux))]
fn msg_zerocopy() -> Support {
    Support::no("this is the portable build: it copies")
}

#[cfg(not(zerosink_linux))]
fn io_uring() -> Support {
    msg_zerocopy()
}

#[cfg(not(zerosink_linux))]
fn splice() -> Support {
    msg_zerocopy()
}

#[cfg(not(zerosink_linux))]
pub(crate) const fn thresholds() -> Thresholds {
    Thresholds::all(usize::MAX)
}
