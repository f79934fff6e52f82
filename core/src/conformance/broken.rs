//! Backends with one bug each, to see that a mount of the kit catches them.
//!
//! They copy every byte, so none of them does harm to anybody's memory; the bug is in what they say or do about it. Bugs that need
//! memory which is really shared, and so system calls, are in the tests of the `zerosink` package (`tests/conformance`).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    AttachError, Backend, Connection, Mechanism, Path, Proof, Queued, Refusal, ReleaseError, Segment, SendError,
    SendQueue, SinkConfig, SinkStats, Support, Transmit, ZeroCopySink, sink::Position,
};

/// A bug, and the backend that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Broken {
    /// None: what the others are compared with.
    Not,
    /// Sends the second segment of a queue before the first.
    Overtakes,
    /// Takes bytes off the queue and says that it is pending.
    SwallowsWhilePending,
    /// Is pending without asking to be woken.
    SleepsForEver,
    /// Wakes the task at once instead of when there is room.
    Spins,
    /// Wakes whoever was pending first, and never anybody else.
    KeepsTheFirstWaker,
    /// Waits on when the connection is over.
    HidesErrors,
    /// Copies, and says that it does not.
    CopiesInSecret,
    /// Sends bytes that no statistics know of.
    Miscounts,
    /// Releases memory only when the next send is made.
    ReleasesWhenPolled,
    /// Overlooks the completion of every fourth send.
    ForgetsASend,
    /// Takes every completion for two.
    ReleasesTwice,
    /// Keeps memory of its own accord, where no deadline sees it.
    HoldsOutsideCustody,
    /// Accepts more than there is room for, and loses the rest when it is dropped.
    LosesTheRestOnDrop,
    /// Says that it has closed, and has not.
    NeverCloses,
    /// Of those who wait for release it wakes the first, and never anybody else.
    WakesTheFirstWaiter,
}

impl Broken {
    /// Each of them that has a bug.
    pub const ALL: [Self; 15] = [
        Self::Overtakes,
        Self::SwallowsWhilePending,
        Self::SleepsForEver,
        Self::Spins,
        Self::KeepsTheFirstWaker,
        Self::HidesErrors,
        Self::CopiesInSecret,
        Self::Miscounts,
        Self::ReleasesWhenPolled,
        Self::ForgetsASend,
        Self::ReleasesTwice,
        Self::HoldsOutsideCustody,
        Self::LosesTheRestOnDrop,
        Self::NeverCloses,
        Self::WakesTheFirstWaiter,
    ];

    /// The name of the [`Check`](super::Check) that must catch it. `None` for [`Broken::Not`].
    ///
    /// [`Broken::CopiesInSecret`] is caught only by a mount that has a witness.
    #[must_use]
    pub const fn caught_by(self) -> Option<&'static str> {
        Some(match self {
            Self::Not => return None,
            Self::Overtakes => "bytes_arrive_in_order",
            Self::SwallowsWhilePending => "a_partial_accept_loses_nothing",
            Self::SleepsForEver | Self::Spins => "a_full_socket_wakes_its_sender_and_does_not_spin",
            Self::KeepsTheFirstWaker => "a_send_dropped_after_any_poll_loses_nothing",
            Self::HidesErrors => "a_reset_ends_send_and_custody",
            Self::CopiesInSecret => "the_mechanism_carries_the_bytes",
            Self::Miscounts | Self::ReleasesTwice => "the_figures_add_up",
            Self::ReleasesWhenPolled => "memory_comes_back_though_nobody_polls_the_sink",
            Self::ForgetsASend => "memory_comes_back_once_the_peer_has_read",
            Self::HoldsOutsideCustody => "a_silent_peer_is_given_up_at_the_deadline",
            Self::LosesTheRestOnDrop => "a_dropped_sink_keeps_its_memory_until_it_is_read",
            Self::NeverCloses => "closing_puts_end_of_file_behind_everything",
            Self::WakesTheFirstWaiter => "waiting_may_be_given_up_and_taken_up_again",
        })
    }
}

#[async_trait]
impl Backend for Broken {
    fn mechanism(&self) -> Mechanism {
        match self {
            Self::CopiesInSecret => Mechanism::MsgZerocopy,
            Self::ReleasesWhenPolled | Self::ForgetsASend | Self::ReleasesTwice | Self::WakesTheFirstWaiter => {
                Mechanism::IoUring
            }
            _ => Mechanism::Copy,
        }
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        let sink = connection.sink(Sender {
            bug: *self,
            mechanism: self.mechanism(),
            sends: 0,
            completed: Vec::new(),
            held: Vec::new(),
            rest: Bytes::new(),
            waker: None,
        });
        Ok(match self {
            Self::NeverCloses | Self::WakesTheFirstWaiter => Box::new(Around { bug: *self, sink, waiter: None }),
            _ => sink,
        })
    }
}

#[derive(Debug)]
struct Sender {
    bug: Broken,
    mechanism: Mechanism,
    sends: u64,
    /// Sends that are over, and not yet released.
    completed: Vec<u64>,
    held: Vec<Bytes>,
    /// Accepted, and not yet in the socket.
    rest: Bytes,
    waker: Option<Waker>,
}

impl Sender {
    /// When memory is released that nobody needs.
    const LATER: Duration = Duration::from_millis(100);

    fn failed(&self, error: io::Error) -> SendError {
        SendError::new(self.mechanism, "sendmsg", error)
    }

    /// One send call.
    fn send(&mut self, connection: &Connection, queue: &SendQueue<'_>) -> io::Result<usize> {
        let segments = queue.segments();
        let front = segments.first().map_or(&[][..], Segment::as_slice);
        match (self.bug, segments) {
            (Broken::Overtakes, [first, second, ..]) => {
                let slices = [IoSlice::new(second.as_slice()), IoSlice::new(first.as_slice())];
                connection.send_copy(&slices, false, Refusal::NotChosen)
            }
            (Broken::CopiesInSecret, _) => connection.send(self.mechanism, Proof::Copied, [], || {
                connection.reactor().write_vectored(&[IoSlice::new(front)], false)
            }),
            (Broken::Miscounts, _) => {
                let sent = connection.reactor().write_vectored(&[IoSlice::new(front)], false)?;
                connection.ledger().passed(sent);
                Ok(sent)
            }
            (
                Broken::ReleasesWhenPolled | Broken::ForgetsASend | Broken::ReleasesTwice | Broken::WakesTheFirstWaiter,
                [Segment::Owned(memory), ..],
            ) => self.send_in_custody(connection, memory),
            _ => connection.send_copy(&[IoSlice::new(front)], false, Refusal::NotChosen),
        }
    }

    /// A send of which it is not known when the call returns whether the memory is free.
    fn send_in_custody(&mut self, connection: &Connection, memory: &Bytes) -> io::Result<usize> {
        let sent = connection.reactor().write_vectored(&[IoSlice::new(memory)], false)?;
        let mut number = 0;
        connection.queue(self.mechanism, [memory.slice(..sent)], sent, |its| {
            number = its;
            Ok(Queued::Held)
        })?;
        connection.ledger().flush(sent as u64);
        self.sends += 1;
        match self.bug {
            Broken::ReleasesWhenPolled => {
                for before in self.completed.drain(..) {
                    connection.ledger().complete(before, true);
                }
                self.completed.push(number);
            }
            Broken::ForgetsASend if self.sends.is_multiple_of(4) => {}
            Broken::WakesTheFirstWaiter => {
                let ledger = Arc::clone(connection.ledger());
                thread::spawn(move || {
                    thread::sleep(Self::LATER);
                    ledger.complete(number, true);
                });
            }
            Broken::ReleasesTwice => {
                connection.ledger().complete(number, true);
                connection.ledger().complete(number, true);
            }
            _ => drop(connection.ledger().complete(number, true)),
        }
        Ok(sent)
    }

    /// The socket is full.
    fn poll_writable(&mut self, connection: &Connection, cx: &mut Context<'_>, mark: u64) -> Poll<io::Result<()>> {
        match self.bug {
            Broken::SleepsForEver => Poll::Pending,
            Broken::Spins => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Broken::KeepsTheFirstWaker => {
                let waker = self.waker.get_or_insert_with(|| cx.waker().clone());
                connection.poll_writable(&mut Context::from_waker(waker), mark)
            }
            _ => connection.poll_writable(cx, mark),
        }
    }
}

impl Transmit for Sender {
    fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        ready!(self.poll_flush(connection, cx))?;
        while let Some(front) = queue.segments().first() {
            let bytes = front.as_slice().len();
            let owned = if let Segment::Owned(memory) = front { Some(memory.clone()) } else { None };
            let mark = connection.reactor().mark();
            match (self.send(connection, queue), self.bug) {
                (Ok(sent), Broken::SwallowsWhilePending) if sent < bytes => {
                    queue.advance(sent);
                    if connection.poll_writable(cx, mark).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                (Ok(sent), Broken::LosesTheRestOnDrop) if sent < bytes => {
                    let Some(memory) = owned else {
                        queue.advance(sent);
                        return Poll::Ready(Ok(sent));
                    };
                    self.rest = memory.slice(sent..);
                    queue.advance(bytes);
                    // Accepted now, flushed later.
                    let released = |_| Ok(Queued::Released { copied: Some(true) });
                    let rest = connection.queue(self.mechanism, [self.rest.clone()], bytes - sent, released);
                    return Poll::Ready(rest.map(|()| bytes).map_err(|error| self.failed(error)));
                }
                (Ok(sent), bug) => {
                    if bug == Broken::HoldsOutsideCustody {
                        self.held.extend(owned);
                    }
                    queue.advance(sent);
                    return Poll::Ready(Ok(sent));
                }
                (Err(error), bug) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        ready!(self.poll_writable(connection, cx, mark)).map_err(|error| self.failed(error))?;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ if bug == Broken::HidesErrors => return Poll::Pending,
                    _ => return Poll::Ready(Err(self.failed(error))),
                },
            }
        }
        Poll::Ready(Ok(0))
    }

    fn poll_flush(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while !self.rest.is_empty() {
            let mark = connection.reactor().mark();
            match connection.reactor().write_vectored(&[IoSlice::new(&self.rest)], false) {
                Ok(sent) => {
                    connection.ledger().flush(sent as u64);
                    drop(self.rest.split_to(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx, mark)).map_err(|error| self.failed(error))?;
                }
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A sink whose bug is not in how it sends.
struct Around {
    bug: Broken,
    sink: Box<dyn ZeroCopySink + Unpin>,
    waiter: Option<Waker>,
}

impl ZeroCopySink for Around {
    fn poll_send(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        Pin::new(&mut self.sink).poll_send(cx, queue)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.sink).poll_flush(cx)
    }

    fn position(&self) -> Position {
        self.sink.position()
    }

    fn poll_released(mut self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
        let this = &mut *self;
        if this.bug == Broken::WakesTheFirstWaiter {
            let waiter = this.waiter.get_or_insert_with(|| cx.waker().clone());
            return Pin::new(&mut this.sink).poll_released(&mut Context::from_waker(waiter), upto);
        }
        Pin::new(&mut this.sink).poll_released(cx, upto)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.bug == Broken::NeverCloses {
            return self.poll_flush(cx);
        }
        Pin::new(&mut self.sink).poll_close(cx)
    }

    fn mechanism(&self) -> Mechanism {
        self.sink.mechanism()
    }

    fn path(&self) -> Path {
        self.sink.path()
    }

    fn stats(&self) -> SinkStats {
        self.sink.stats()
    }
}
