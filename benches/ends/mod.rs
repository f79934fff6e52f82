//! The two ends of a connection, on a processor each.
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
    net::sockopt,
    thread::{CpuSet, sched_setaffinity},
};

/// What most hosts have. (Under bbr the same code runs at one of two speeds on loopback, by luck.)
pub(crate) const CONGESTION: &str = "cubic";

/// Where a sender and a reader run: where the scheduler puts them would decide the result.
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
    fn start(stream: impl Read + Send + 'static) -> Self {
        Self(thread::spawn(move || count(stream)))
    }

    /// Waits for the end of file and says when it came; fails unless `total` bytes came before it.
    pub(crate) fn finish(self, total: u64) -> io::Result<Instant> {
        let (counted, end) = self.0.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if counted == total { Ok(end) } else { Err(io::Error::other(format!("{counted} of {total} bytes came"))) }
    }
}

fn count(mut stream: impl Read) -> io::Result<(u64, Instant)> {
    stay_on(READER);
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((bytes, Instant::now())),
            count => bytes += count as u64,
        }
    }
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
pub(crate) fn tcp() -> io::Result<(Socket, Reader)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    over_tcp(socket, stream)
}

/// Over a connection that somebody else has made.
pub(crate) fn over_tcp(socket: TcpStream, stream: TcpStream) -> io::Result<(Socket, Reader)> {
    sockopt::set_tcp_congestion(&socket, CONGESTION)?;
    Ok((Socket::Tcp(socket), Reader::start(stream)))
}

/// Over `AF_UNIX`.
pub(crate) fn unix() -> io::Result<(Socket, Reader)> {
    let (socket, stream) = UnixStream::pair()?;
    Ok((Socket::Unix(socket), Reader::start(stream)))
}
