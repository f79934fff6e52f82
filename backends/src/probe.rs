//! What this host permits, found out by doing. Asked once per process; the answers are kept and printable.

use std::fmt;

use zerosink_core::{Mechanism, Support};

/// The answers for every mechanism, as a table that an operator can paste into a report.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostReport {
    /// Each mechanism that this build has a backend for, with the answer of its probe.
    pub mechanisms: Vec<(Mechanism, Support)>,
    /// Sends of fewer bytes than this are copied, as measured on this host; `None` if nothing but copy is permitted.
    pub copy_threshold: Option<usize>,
}

/// Probes this host. The first call takes a few milliseconds: it measures.
#[must_use]
pub fn host() -> HostReport {
    let mechanisms = vec![(Mechanism::Copy, Support::Yes), (Mechanism::MsgZerocopy, msg_zerocopy())];
    HostReport { mechanisms, copy_threshold: copy_threshold() }
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mechanism, support) in &self.mechanisms {
            writeln!(f, "{mechanism:<14} {support}")?;
        }
        match self.copy_threshold {
            Some(bytes) => writeln!(f, "{:<14} {bytes} bytes (measured)", "copied below"),
            None => Ok(()),
        }
    }
}

#[cfg(zerosink_linux)]
mod linux {
    use std::{
        io,
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::fd::AsFd,
        sync::OnceLock,
    };

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use zerosink_core::Support;

    use crate::{calibration, sys};

    static MSG_ZEROCOPY: OnceLock<Support> = OnceLock::new();

    /// Errors that mean "this kernel or socket does not do it", as opposed to "could not be asked".
    fn is_refusal(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | ENOTSUPP)
        )
    }

    /// What `setsockopt(SO_ZEROCOPY)` answers on sockets that do not know it (`include/linux/errno.h`; not in libc).
    const ENOTSUPP: i32 = 524;

    /// Whether one zero-copy send goes through on a TCP connection of our own and is notified.
    pub(crate) fn msg_zerocopy() -> Support {
        let ask = || match send_one() {
            Ok(()) => Support::Yes,
            Err(error) if is_refusal(&error) => Support::no(error.to_string()),
            Err(error) => Support::unknown(error),
        };
        match MSG_ZEROCOPY.get() {
            Some(support) => support.clone(),
            None => match ask() {
                // "Could not tell" is asked again: descriptors may come back.
                support @ Support::Unknown(_) => {
                    tracing::warn!(%support, "msg-zerocopy probe could not tell");
                    support
                }
                support => MSG_ZEROCOPY.get_or_init(|| support).clone(),
            },
        }
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

    /// Below how many bytes a copying send is cheaper on this host.
    pub(crate) fn copy_threshold() -> Option<usize> {
        static THRESHOLD: OnceLock<usize> = OnceLock::new();
        msg_zerocopy().is_yes().then(|| *THRESHOLD.get_or_init(calibration::copy_threshold))
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
pub(crate) use linux::{copy_threshold, loopback_pair, msg_zerocopy};

#[cfg(not(zerosink_linux))]
fn msg_zerocopy() -> Support {
    Support::no("this is the portable build: it copies")
}

#[cfg(not(zerosink_linux))]
pub(crate) const fn copy_threshold() -> Option<usize> {
    None
}
