//! The peer: a thread with a blocking socket, no runtime and nothing of the backend's.

use std::{
    io::{self, Read as _},
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Socket,
    report::{Rule, Step, Stop},
    stream::Received,
};

/// A peer at work.
#[derive(Debug)]
pub(super) struct Peer<T> {
    go: Sender<()>,
    thread: JoinHandle<T>,
}

/// The peer's side of [`Peer::go`].
#[derive(Debug)]
pub(super) struct Gate(Receiver<()>);

impl Gate {
    /// Waits for the next [`Peer::go`]. A check that has failed lets its peers go on, so that they end.
    pub(super) fn wait(&self) {
        self.0.recv().ok();
    }
}

impl<T: Send + 'static> Peer<T> {
    /// Starts a thread that does `what` on `socket`.
    pub(super) fn start(
        socket: Socket,
        patience: Duration,
        what: impl FnOnce(&mut Reader, &Gate) -> T + Send + 'static,
    ) -> Step<Self> {
        socket.set_read_timeout(Some(patience)).map_err(|error| Stop::setup("the peer's time limit", &error))?;
        let (go, gate) = mpsc::channel();
        let body = move || {
            let mut reader = Reader { socket: Some(socket), received: Received::default() };
            what(&mut reader, &Gate(gate))
        };
        let thread = thread::Builder::new().name("conformance-peer".into()).spawn(body);
        Ok(Self { go, thread: thread.map_err(|error| Stop::setup("the peer's thread", &error))? })
    }

    /// Lets the peer take its next step.
    pub(super) fn go(&self) {
        // An error means that it has ended.
        self.go.send(()).ok();
    }

    /// True when the peer has done everything.
    pub(super) fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the peer, whose reads all have a time limit.
    pub(super) fn join(self) -> Step<T> {
        drop(self.go);
        self.thread.join().map_err(|_panic| Stop::failed(Rule::Setup, "the peer's thread panicked"))
    }
}

impl Peer<Received> {
    /// A peer that waits for [`go`](Self::go) and then reads to the end.
    pub(super) fn reading(socket: Socket, patience: Duration) -> Step<Self> {
        Self::start(socket, patience, |reader, gate| {
            gate.wait();
            reader.read_to_end()
        })
    }
}

/// A socket, and what was read from it.
#[derive(Debug)]
pub(super) struct Reader {
    /// `None` once it was taken.
    socket: Option<Socket>,
    received: Received,
}

impl Reader {
    pub(super) const SLOW_BYTES: usize = 4 << 10;
    pub(super) const SLOW_PAUSE: Duration = Duration::from_millis(20);

    /// The socket, for something else than reading it.
    pub(super) fn take_socket(&mut self) -> Option<Socket> {
        self.socket.take()
    }

    /// Reads once, at most `bytes`. False at the end, whichever it is.
    fn read(&mut self, bytes: usize) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let mut buffer = vec![0; bytes];
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.received.take(&buffer[..read]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.received.error = Some(error);
                    return false;
                }
            }
        }
    }

    /// Reads until so many bytes have come in all.
    pub(super) fn read_up_to(&mut self, total: u64) {
        while self.received.bytes < total {
            let bytes = (total - self.received.bytes).min(64 << 10) as usize;
            if !self.read(bytes) {
                return;
            }
        }
    }

    /// Reads 4 KiB every 20 ms, so many times.
    pub(super) fn read_slowly(&mut self, reads: usize) {
        for _ in 0..reads {
            if !self.read(Self::SLOW_BYTES) {
                return;
            }
            thread::sleep(Self::SLOW_PAUSE);
        }
    }

    /// Reads to the end, and says what came in all.
    pub(super) fn read_to_end(&mut self) -> Received {
        if self.received.error.is_none() {
            while self.read(64 << 10) {}
        }
        std::mem::take(&mut self.received)
    }
}
