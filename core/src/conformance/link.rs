//! Where the connections of the checks go, and the peer's end of them: plain blocking sockets of the standard library.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Type};

use crate::policy::Family;

/// A way from the sink to its peer.
pub trait Link: Send + Sync + fmt::Debug {
    /// The kind of socket.
    fn family(&self) -> Family;

    /// A new connection. `buffers` bounds the socket buffers at both ends, in bytes, as `SO_SNDBUF` and `SO_RCVBUF` do; `None`
    /// leaves what the host has.
    ///
    /// # Errors
    ///
    /// Whatever kept the connection from being made: the check fails then.
    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair>;

    /// A connection whose packets wait on the way, outside both sockets, until its gate is opened, as they do in a queueing
    /// discipline. `None` where nothing can wait; an error where something could, but not on this host.
    fn connect_held(&self) -> Option<io::Result<Held>> {
        None
    }

    /// Why this host has no such link, if so: all checks are skipped.
    fn missing(&self) -> Option<String> {
        None
    }
}

/// The two ends of a connection.
#[derive(Debug)]
pub struct Pair {
    /// The sink's end. It is blocking, as sockets of the standard library are at first.
    pub near: Socket,
    /// The peer's end.
    pub far: Socket,
}

/// A connection whose packets wait on the way.
pub struct Held {
    /// The connection.
    pub pair: Pair,
    /// Lets go what waits, and everything that comes later. The packets must *leave*, not be thrown away.
    pub gate: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// A stream socket of the standard library.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// `AF_UNIX`.
    #[cfg(unix)]
    Unix(UnixStream),
}

macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Socket::Tcp($stream) => $body,
            #[cfg(unix)]
            Socket::Unix($stream) => $body,
        }
    };
}

impl Socket {
    /// Reads fail with [`io::ErrorKind::WouldBlock`] after so long.
    ///
    /// # Errors
    ///
    /// As `setsockopt(2)`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        each!(self, stream => stream.set_read_timeout(timeout))
    }

    /// Closes one or both directions.
    ///
    /// # Errors
    ///
    /// As `shutdown(2)`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        each!(self, stream => stream.shutdown(how))
    }

    /// Closes the socket so that the other end is told of a reset (RST), also if everything was read.
    ///
    /// On `AF_UNIX` that is so only if something was left unread; otherwise the other end learns of it when it sends.
    ///
    /// # Errors
    ///
    /// As `setsockopt(2)`.
    pub fn reset(self) -> io::Result<()> {
        if let Self::Tcp(stream) = &self {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TCP connection to `listener`, made by `connect` from whatever place the caller likes.
///
/// # Errors
///
/// As the system calls.
pub fn tcp_pair(
    listener: &TcpListener,
    buffers: Option<usize>,
    connect: impl FnOnce(&socket2::Socket) -> io::Result<()>,
) -> io::Result<Pair> {
    let near = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(bytes) = buffers {
        // Accepted sockets inherit it; after the handshake would be too late.
        SockRef::from(listener).set_recv_buffer_size(bytes)?;
        // A window of less than one segment, which loopback's 64 KiB soon make of it, opens when the persist timer expires: 200 ms.
        #[cfg(unix)]
        SockRef::from(listener).set_tcp_mss(1 << 10)?;
        near.set_send_buffer_size(bytes)?;
    }
    connect(&near)?;
    let own = near.local_addr()?.as_socket();
    loop {
        let (far, peer) = listener.accept()?;
        // Anybody on this host may connect to the port.
        if Some(peer) == own {
            return Ok(Pair { near: Socket::Tcp(near.into()), far: Socket::Tcp(far) });
        }
    }
}

/// TCP within this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpLoopback;

impl Link for TcpLoopback {
    fn family(&self) -> Family {
        Family::Tcp
    }

    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        tcp_pair(&listener, buffers, |near| near.connect(&address.into()))
    }
}

/// A pair of `AF_UNIX` stream sockets.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixPair;

#[cfg(unix)]
impl Link for UnixPair {
    fn family(&self) -> Family {
        Family::Unix
    }

    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair> {
        let (near, far) = UnixStream::pair()?;
        if let Some(bytes) = buffers {
            SockRef::from(&near).set_send_buffer_size(bytes)?;
        }
        Ok(Pair { near: Socket::Unix(near), far: Socket::Unix(far) })
    }
}
