//! The two ends of a connection.
#![allow(clippy::allow_attributes, reason = "which parts are used differs from bench to bench")]
#![allow(dead_code, reason = "which parts are used differs from bench to bench")]

use std::{
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::{
    net::{RecvFlags, recv, sockopt},
    process::geteuid,
    thread::{CpuSet, sched_setaffinity},
};

/// What most hosts have; without privileges, what every user may choose. (Under bbr the same code runs at one of two speeds on
/// loopback, by luck.)
pub(crate) fn congestion() -> &'static str {
    if geteuid().is_root() { "cubic" } else { "reno" }
}

/// Where a reader runs: where the scheduler puts it would decide the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the sender's processor, and only while the sender has nothing to do: when the socket is full, or at the end. So it takes
    /// turns with the sender and always in the same way, and what is compared is what each side does. It does not copy what it
    /// reads, where the socket has a way to say so.
    Beside,
    /// On a processor of its own, as in life. How the two get in each other's way then decides more than what they do: who sends
    /// a little slower can be much slower, for he meets the reader at each packet, or much faster, for he never has to wait.
    Apart,
}

const SENDER: usize = 0;
const READER: usize = 1;

/// The sending end.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    pub(crate) fn shut_down(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
    }
}

/// The reading end: a thread that reads into one buffer and counts.
#[derive(Debug)]
pub(crate) struct Reader(JoinHandle<io::Result<(u64, Instant)>>);

impl Reader {
    fn start(stream: impl Read + AsFd + Send + 'static, place: Place, discards: bool) -> Self {
        Self(thread::spawn(move || count(stream, place, discards)))
    }

    /// Waits for the end of file and says when it came; fails unless `total` bytes came before it.
    pub(crate) fn finish(self, total: u64) -> io::Result<Instant> {
        let (counted, end) = self.0.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if counted == total { Ok(end) } else { Err(io::Error::other(format!("{counted} of {total} bytes came"))) }
    }
}

fn count(mut stream: impl Read + AsFd, place: Place, discards: bool) -> io::Result<(u64, Instant)> {
    match place {
        Place::Apart => stay_on(READER),
        Place::Beside => {
            stay_on(SENDER);
            give_way()?;
        }
    }
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let count =
            if discards { recv(&stream, &mut buffer, RecvFlags::TRUNC)?.1 } else { stream.read(&mut buffer)? };
        match count {
            0 => return Ok((bytes, Instant::now())),
            count => bytes += count as u64,
        }
    }
}

/// This thread runs only where no other wants to.
fn give_way() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    // SAFETY: the call reads the parameters.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps this thread where senders are.
pub(crate) fn stay_with_senders() {
    stay_on(SENDER);
}

fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to processor {processor}: {error}");
    }
}

/// Over loopback.
pub(crate) fn tcp(place: Place) -> io::Result<(Socket, Reader)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    over_tcp(socket, stream, place)
}

/// Over a connection that somebody else has made.
pub(crate) fn over_tcp(socket: TcpStream, stream: TcpStream, place: Place) -> io::Result<(Socket, Reader)> {
    sockopt::set_tcp_congestion(&socket, congestion())?;
    // As services do.
    socket.set_nodelay(true)?;
    Ok((Socket::Tcp(socket), Reader::start(stream, place, place == Place::Beside)))
}

/// Over `AF_UNIX`.
pub(crate) fn unix(place: Place) -> io::Result<(Socket, Reader)> {
    let (socket, stream) = UnixStream::pair()?;
    Ok((Socket::Unix(socket), Reader::start(stream, place, false)))
}
