//! What the tests about closing, cancelling, exhaustion and bad input share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    pin::pin,
    process::{Command, Output},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    task::Poll,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use zerosink::{AutoSink, IntoSink as _, Mechanism, SinkConfig};

/// No single step of a test takes longer than this, or it hangs.
pub(crate) const STEP: Duration = Duration::from_secs(15);

/// What stands in memory that was given back. Whoever still reads it shows it.
pub(crate) const POISON: u8 = 0xEE;

/// The mechanisms that this build has.
pub(crate) const MECHANISMS: &[Mechanism] = if cfg!(zerosink_uring) {
    &[Mechanism::Copy, Mechanism::MsgZerocopy, Mechanism::IoUring]
} else if cfg!(zerosink_linux) {
    &[Mechanism::Copy, Mechanism::MsgZerocopy]
} else {
    &[Mechanism::Copy]
};

/// The byte at `offset` of every stream. No period that a wrong offset could hide in.
pub(crate) const fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// `length` bytes of the stream from `start` on.
pub(crate) fn stream(start: u64, length: usize) -> Vec<u8> {
    (start..start + length as u64).map(byte_at).collect()
}

/// Where `bytes` leave the stream that starts at 0, if they do.
pub(crate) fn first_wrong_byte(bytes: &[u8]) -> Option<usize> {
    bytes.iter().zip(0..).position(|(byte, offset)| *byte != byte_at(offset))
}

/// Waits for `future`, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(STEP, future).await.unwrap_or_else(|_| panic!("{what} hangs: more than {STEP:?}"))
}

/// Runs `body` on a thread of its own and waits for it, but not for ever. For what may block without a runtime.
pub(crate) fn bounded<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || done.send(body()).is_ok());
    match result.recv_timeout(STEP) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs: more than {STEP:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the thread sends before it ends"),
        },
    }
}

/// A runtime with one thread.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Polls `future` at most `polls` times, then drops it. Calls `pending` each time it is not ready and will be polled again.
pub(crate) async fn cut_after<F: Future>(polls: usize, mut pending: impl FnMut(), future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                pending();
                Poll::Pending
            }
        }
    })
    .await
}

/// Counts memory that is lent out.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<(Mutex<usize>, Condvar)>);

impl Tally {
    /// Lends `bytes` out, until the last clone is dropped. They are poisoned then, before the allocator has them.
    pub(crate) fn lend(&self, bytes: Vec<u8>) -> Bytes {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Bytes::from_owner(Lent { bytes, tally: self.clone() })
    }

    /// How many are out.
    pub(crate) fn out(&self) -> usize {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all have come back.
    #[track_caller]
    pub(crate) fn wait_for_all(&self) {
        let out = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (out, _) = self.0.1.wait_timeout_while(out, STEP, |out| *out > 0).unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*out, 0, "pieces of memory that never came back");
    }
}

struct Lent {
    bytes: Vec<u8>,
    tally: Tally,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.bytes.fill(POISON);
        *self.tally.0.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.tally.0.1.notify_all();
    }
}

/// What a peer got.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// How it ended: `Ok` is end of file.
    pub(crate) end: io::Result<()>,
}

impl Received {
    /// Asserts that all `length` bytes came, each of them right, and then end of file.
    #[track_caller]
    pub(crate) fn is_exactly(&self, length: usize) {
        self.is_right();
        assert!(self.end.is_ok(), "after {} bytes: {:?}", self.bytes.len(), self.end);
        assert_eq!(self.bytes.len(), length, "bytes received");
    }

    /// Asserts that no wrong byte came.
    #[track_caller]
    pub(crate) fn is_right(&self) {
        if let Some(at) = first_wrong_byte(&self.bytes) {
            let end = self.bytes.len().min(at + 8);
            panic!("wrong bytes from {at} of {} on: {:02x?}", self.bytes.len(), &self.bytes[at..end]);
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("bytes", &self.bytes.len()).field("end", &self.end).finish()
    }
}

/// Reads until the stream ends, one way or the other.
pub(crate) fn read_all(mut socket: impl io::Read) -> Received {
    let mut received = Received { bytes: Vec::new(), end: Ok(()) };
    received.end = socket.read_to_end(&mut received.bytes).map(drop);
    received
}

/// A peer on a thread of its own, which does not begin before it is told to.
pub(crate) struct Peer<T = Received> {
    start: Sender<()>,
    thread: JoinHandle<T>,
}

impl Peer {
    /// Will read to the end.
    pub(crate) fn reading(socket: impl io::Read + Send + 'static) -> Self {
        Self::doing(move || read_all(socket))
    }
}

impl<T: Send + 'static> Peer<T> {
    /// Will do `what`.
    pub(crate) fn doing(what: impl FnOnce() -> T + Send + 'static) -> Self {
        let (start, started): (Sender<()>, Receiver<()>) = mpsc::channel();
        // A dropped sender starts it also, so that a failed test ends.
        let thread = thread::spawn(move || {
            started.recv().ok();
            what()
        });
        Self { start, thread }
    }

    /// Tells it to begin. More than once does no harm.
    pub(crate) fn start(&self) {
        self.start.send(()).ok();
    }

    /// Tells it to begin, and waits for the end.
    pub(crate) fn finish(self) -> T {
        self.start();
        self.thread.join().unwrap()
    }
}

/// A TCP connection within this process: the sender's end and the reader's end, whose reads do not block for ever.
/// `buffers` bounds the socket buffers at both ends.
pub(crate) fn connection(buffers: Option<usize>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    if let Some(bytes) = buffers {
        socket2::SockRef::from(&listener).set_recv_buffer_size(bytes).unwrap();
        socket.set_send_buffer_size(bytes).unwrap();
    }
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (reader, _) = listener.accept().unwrap();
    reader.set_read_timeout(Some(STEP)).unwrap();
    (socket.into(), reader)
}

/// Small enough that a test's bytes do not fit.
pub(crate) const SMALL: Option<usize> = Some(16 << 10);

/// A sink that insists on `mechanism`.
pub(crate) async fn sink_by(mechanism: Mechanism, socket: TcpStream) -> AutoSink {
    // tokio does not know yet that a new socket is writable, and the portable build asks tokio before it sends.
    #[cfg(not(zerosink_linux))]
    let socket = {
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::TcpStream::from_std(socket).unwrap();
        socket.writable().await.unwrap();
        socket
    };
    socket.into_sink(SinkConfig::new().mechanism(mechanism)).await.unwrap()
}

/// Lets other tasks, and the driver, run until `done`.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < STEP, "{what} never came: waited {STEP:?}");
        tokio::task::yield_now().await;
    }
}

/// Set in a child process that runs one test of the same binary.
const CHILD: &str = "ZEROSINK_TEST_CHILD";

/// True in the child that [`child`] or [`run_child`] started.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs `test` of this binary by `command`, which ends with the path to the binary. How it ended.
#[track_caller]
pub(crate) fn child(mut command: Command, test: &str) -> Output {
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1");
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The same of a child that must succeed.
#[track_caller]
pub(crate) fn run_child(command: Command, test: &str) {
    let what = format!("{command:?}");
    let output = child(command, test);
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{test} in {what}:\n{said}\n{complained}");
}

/// Says on the terminal, past the test harness, that something is not tested here. On CI that is a failure.
#[track_caller]
pub(crate) fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test} must run on CI, but {why}");
    let line = format!("\n*** SKIPPED: {test}: {why} ***\n\n");
    io::Write::write_all(&mut io::stderr(), line.as_bytes()).unwrap();
}

/// Runs `test` of this binary in a network namespace of its own, with `lo` up.
#[track_caller]
pub(crate) fn run_in_network_namespace(test: &str) {
    match Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(test, &format!("unshare -n: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => return skip(test, &format!("unshare -n: {error}")),
    }
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    run_child(command, test);
}
