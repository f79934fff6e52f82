//! A receiver on a thread of its own: plain blocking std sockets, no runtime, no zerosink.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::pattern::Verdict;

/// How the receiver reads. The default reads at once and fast.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// `SO_RCVBUF`: what is beyond it waits at the sender.
    pub(crate) receive_buffer: Option<usize>,
    /// Reads nothing before [`Peer::go`].
    pub(crate) gated: bool,
    /// Reads nothing for so long.
    pub(crate) late: Duration,
    /// So many slow reads come first.
    pub(crate) slow_reads: usize,
}

impl Pace {
    const SLOW_BYTES: usize = 4 << 10;
    const SLOW_PAUSE: Duration = Duration::from_millis(20);
}

/// A receiver of one connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it listens. `None` if it was made with its connection.
    address: Option<SocketAddr>,
    go: mpsc::Sender<()>,
    thread: JoinHandle<Verdict>,
}

/// Gives the sockets that `listener` accepts receive buffers of so many bytes, and small segments: a window of less than one segment,
/// which loopback's 64 KiB soon make of it, opens five times a second, when the sender's persist timer expires.
pub(crate) fn narrow(listener: &TcpListener, bytes: usize) {
    let listener = socket2::SockRef::from(listener);
    listener.set_recv_buffer_size(bytes).unwrap();
    #[cfg(unix)]
    listener.set_tcp_mss(4 << 10).unwrap();
}

impl Peer {
    /// A receiver that listens on loopback.
    pub(crate) fn start(pace: Pace) -> Self {
        Self::listening(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), pace)
    }

    /// A receiver of the one connection that comes.
    pub(crate) fn listening(listener: TcpListener, pace: Pace) -> Self {
        if let Some(bytes) = pace.receive_buffer {
            narrow(&listener, bytes);
        }
        let address = listener.local_addr().unwrap();
        Self { address: Some(address), ..Self::reading(pace, move || listener.accept().unwrap().0) }
    }

    /// An `AF_UNIX` connection to a receiver.
    #[cfg(unix)]
    pub(crate) fn unix(pace: Pace) -> (std::os::unix::net::UnixStream, Self) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (ours, Self::reading(pace, || theirs))
    }

    /// A receiver of the connection that `connect` makes, on the receiver's thread.
    pub(crate) fn reading<S: io::Read>(pace: Pace, connect: impl FnOnce() -> S + Send + 'static) -> Self {
        let (go, gate) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut socket = connect();
            if pace.gated {
                // A dropped sender is a failed test: then read on, so that nothing hangs.
                gate.recv().ok();
            }
            thread::sleep(pace.late);
            let mut verdict = Verdict::default();
            let mut buffer = vec![0; 64 << 10];
            for read in 0.. {
                let slow = read < pace.slow_reads;
                let room = if slow { Pace::SLOW_BYTES } else { buffer.len() };
                match socket.read(&mut buffer[..room]).unwrap() {
                    0 => break,
                    bytes => verdict.take(&buffer[..bytes]),
                }
                if slow {
                    thread::sleep(Pace::SLOW_PAUSE);
                }
            }
            verdict
        });
        Self { address: None, go, thread }
    }

    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("this receiver has its connection")
    }

    /// Opens the gate.
    pub(crate) fn go(&self) {
        self.go.send(()).unwrap();
    }

    /// The verdict, after the end of the stream.
    pub(crate) fn verdict(self) -> Verdict {
        drop(self.go);
        self.thread.join().unwrap()
    }
}
