//! io_uring, with or without a bug.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, types::Fd};
use zerosink::{
    AttachError, Backend, Connection, Mechanism, Queued, Segment, SendError, SendQueue, SinkConfig, Support, Transmit,
    ZeroCopySink,
    conformance::{Mount, Outcome, Rule, TcpLoopback},
    region,
};

use super::{caught, caught_before_long, passes};
use crate::memory;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Has two sends of one socket under way that are not linked.
    TwoAtATime,
    /// Registers the ring's memory, whatever the ring does with its pages.
    Registers,
    /// Takes a notification for one of every send before it.
    ReleasesUpTo,
}

#[test]
fn two_unlinked_sends_in_flight_are_caught() {
    let check = "bytes_arrive_in_order";
    if missing("two_unlinked_sends_in_flight_are_caught") {
        return;
    }
    // They change places only if the reader makes room between the looks of the two.
    caught_before_long(|| Mount::new(Bug::TwoAtATime, TcpLoopback), check, Rule::Content);
    passes(Mount::new(Bug::None, TcpLoopback), check);
}

#[test]
fn registered_and_replaced_is_caught() {
    let check = "released_memory_is_not_read_any_more";
    if missing("registered_and_replaced_is_caught") {
        return;
    }
    // The old pages, with the bytes of the lap before.
    caught(Mount::new(Bug::Registers, TcpLoopback).ring(memory::fresh_pages), check, Rule::Content);
    passes(Mount::new(Bug::Registers, TcpLoopback).ring(memory::in_place), check);
    passes(Mount::new(Bug::None, TcpLoopback).ring(memory::fresh_pages), check);
}

#[test]
fn a_notification_taken_for_every_send_before_it_is_caught() {
    let check = "completions_may_come_in_any_order";
    if missing("a_notification_taken_for_every_send_before_it_is_caught") {
        return;
    }
    caught(Mount::new(Bug::ReleasesUpTo, crate::between::Between::Veth), check, Rule::NotBefore);
    passes(Mount::new(Bug::None, crate::between::Between::Veth), check);
}

fn missing(test: &str) -> bool {
    let support = zerosink::backends::IoUring.probe();
    if !support.is_yes() {
        Outcome::Skipped(format!("there is no io_uring here: {support}")).enforce(test);
    }
    !support.is_yes()
}

/// The io_uring of one connection, and its sends.
struct Lane {
    bug: Bug,
    connection: Arc<Connection>,
    ring: IoUring,
    registered: bool,
    /// By key, in the order of submission.
    sends: BTreeMap<u64, Send>,
    next: u64,
}

/// One submission.
struct Send {
    memory: Bytes,
    /// By which custody knows it, and perhaps another.
    number: u64,
    result: bool,
    notified: bool,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("bug", &self.bug).field("sends", &self.sends.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Bug {
    fn mechanism(&self) -> Mechanism {
        Mechanism::IoUring
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        let ring = IoUring::new(256).map_err(|source| AttachError::Call {
            mechanism: Mechanism::IoUring,
            call: "io_uring_setup",
            source,
        })?;
        let lane = Lane {
            bug: *self,
            connection: Arc::clone(connection),
            ring,
            registered: false,
            sends: BTreeMap::new(),
            next: 0,
        };
        let lane = Arc::new(Mutex::new(lane));
        tokio::spawn(watch(Arc::downgrade(&lane)));
        Ok(connection.sink(Sender(lane)))
    }
}

/// Looks for completions every half a millisecond, as long as there is a sink or a send.
async fn watch(lane: Weak<Mutex<Lane>>) {
    // A send that is under way keeps the io_uring open when the sink is gone.
    let mut kept = None;
    loop {
        tokio::time::sleep(Duration::from_micros(500)).await;
        let Some(lane) = kept.take().or_else(|| lane.upgrade()) else { return };
        let mut locked = lock(&lane);
        locked.drain();
        let idle = locked.sends.is_empty();
        drop(locked);
        kept = (!idle).then_some(lane);
    }
}

fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// Submits `memory`, of which custody knows under `number`.
    fn submit(&mut self, number: u64, memory: Bytes) -> io::Result<()> {
        let (key, fd) = (self.next, Fd(self.connection.as_fd().as_raw_fd()));
        self.next += 1;
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | libc::MSG_EOR;
        let send = opcode::SendZc::new(fd, memory.as_ptr(), memory.len() as u32).flags(flags);
        let send = if self.bug == Bug::Registers { send.buf_index(Some(0)) } else { send };
        let entry = send.build().user_data(key);
        self.sends.insert(key, Send { memory, number, result: false, notified: false });
        #[expect(unsafe_code, reason = "the kernel reads the memory that the entry names")]
        // SAFETY: `sends` keeps the memory until the notification, and this value the socket. What is released before is the bug
        // to be caught, and changes what the peer reads.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit()?;
        Ok(())
    }

    /// Makes all the memory that this is a part of one registered buffer.
    fn register(&mut self, memory: &[u8]) -> io::Result<()> {
        if self.bug != Bug::Registers || self.registered {
            return Ok(());
        }
        let Some(block) = region::locate(memory, |location| location.block.clone()) else {
            return Err(io::Error::other("memory of no ring"));
        };
        let start = memory.as_ptr().with_addr(block.start).cast_mut();
        let whole = libc::iovec { iov_base: start.cast(), iov_len: block.len() };
        #[expect(unsafe_code, reason = "registering memory that the ring will replace is the bug")]
        // SAFETY: the ring's memory is mapped as long as the check runs, and the kernel only reads it.
        unsafe { self.ring.submitter().register_buffers(&[whole]) }?;
        self.registered = true;
        Ok(())
    }

    /// Takes in what is there.
    fn drain(&mut self) {
        self.ring.submit().ok();
        let found: Vec<_> = self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())).collect();
        for (key, result, flags) in found {
            let Some(send) = self.sends.get_mut(&key) else { continue };
            if cqueue::notif(flags) {
                send.notified = true;
            } else {
                send.result = true;
                send.notified |= !cqueue::more(flags);
                self.connection.flush(result.max(0) as u64);
            }
            if send.notified {
                self.release(key);
            }
        }
    }

    /// A send has no result yet.
    fn is_busy(&self) -> bool {
        self.sends.values().any(|send| !send.result)
    }

    fn release(&mut self, key: u64) {
        let first = if self.bug == Bug::ReleasesUpTo { 0 } else { key };
        let released: Vec<u64> = self.sends.range(first..=key).map(|(key, _)| *key).collect();
        for key in released {
            let Some(send) = self.sends.remove(&key) else { continue };
            if self.sends.values().all(|other| other.number != send.number) {
                self.connection.complete(send.number, None);
            }
            drop(send.memory);
        }
    }
}

#[derive(Debug)]
struct Sender(Arc<Mutex<Lane>>);

impl Sender {
    fn failed(error: io::Error) -> SendError {
        SendError::new(Mechanism::IoUring, "SEND_ZC", error)
    }

    /// Ready when no send is without a result.
    fn poll_results(&self, connection: &Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mark = connection.reactor().mark();
            let mut lane = lock(&self.0);
            lane.drain();
            if !lane.is_busy() {
                break;
            }
            drop(lane);
            ready!(connection.poll_writable(cx, mark))?;
        }
        Poll::Ready(connection.reactor().failure().map_or(Ok(()), Err))
    }

    /// One send of all of `memory`, in one submission or two.
    fn send(&self, connection: &Connection, memory: &Bytes) -> io::Result<()> {
        let mut lane = lock(&self.0);
        lane.register(memory)?;
        connection.queue(Mechanism::IoUring, [memory.clone()], memory.len(), |number| {
            let half = if lane.bug == Bug::TwoAtATime { memory.len() / 2 } else { 0 };
            for part in [memory.slice(..half), memory.slice(half..)] {
                if !part.is_empty() {
                    lane.submit(number, part)?;
                }
            }
            Ok(Queued::Held)
        })
    }
}

impl Transmit for Sender {
    fn mechanism(&self) -> Mechanism {
        Mechanism::IoUring
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        ready!(self.poll_results(connection, cx)).map_err(Self::failed)?;
        let memory = match queue.segments().first() {
            None => return Poll::Ready(Ok(0)),
            Some(Segment::Owned(memory)) => memory.clone(),
            Some(Segment::Borrowed(slice)) => Bytes::copy_from_slice(slice),
        };
        self.send(connection, &memory).map_err(Self::failed)?;
        queue.advance(memory.len());
        Poll::Ready(Ok(memory.len()))
    }

    fn poll_flush(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_results(connection, cx).map_err(Self::failed)
    }
}
