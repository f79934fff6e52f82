//! The backends `splice` and `gift`: the socket's queue refers to the pages themselves.
//!
//! Nothing tells when the last of these references goes (`vmsplice(2)`, `splice(2)`, `sendfile(2)`), so a release needs another
//! proof, and which one follows from the memory and the socket ([`Policy::proof_for`]):
//!
//! * the pages are replaced before their space is written again, or never written again: the send is released at once;
//! * the peer has the bytes, by its own word, if the user trusts that: `SIOCOUTQ` tells how far it is, and a time-stamp of its
//!   acknowledgement (`SOF_TIMESTAMPING_TX_ACK`) when to look. Release is incremental and never waits for zero.
//!
//! Memory of a file or memfd goes by `sendfile`, in one call; everything else by `vmsplice` and `splice` through a pipe.

mod pipe;
mod window;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Policy, Proof, Refusal, Reuse, Segment, SendError, SendQueue,
    SinkConfig, Support, Transmit, ZeroCopySink,
    memory::Backing,
    policy::Family,
    region::{self, Location},
};

pub(crate) use self::pipe::{How, Pipe};
use crate::{
    copy::{poll_copy, poll_room, wait_or_fail},
    probe,
    sys::{self, splice::NoSigpipe},
};

/// Segments of one call.
const MOST_SLICES: usize = 64;

/// Sends by `vmsplice` and `splice`, or by `sendfile`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Splice;

/// Sends by the same calls, and has the ring replace the pages: also of a ring that is otherwise reused in place, if the
/// lease is whole replacement units.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gift;

#[async_trait]
impl Backend for Splice {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Splice
    }

    fn probe(&self) -> Support {
        probe::splice()
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        probe::permits(Mechanism::Splice)?;
        if connection.family() == Family::Tcp && connection.trust().peer_acks {
            // Without these events the driver's timer alone would look how far the peer is.
            let watched = connection.reactor().prepare();
            if let Err(error) = watched.and_then(|()| sys::socket::request_acknowledgements(connection.as_fd())) {
                tracing::debug!(%error, "no time-stamps of acknowledgements: release waits for the timer");
            }
        }
        Ok(connection.sink(Pages::new(Mechanism::Splice)))
    }
}

#[async_trait]
impl Backend for Gift {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Gift
    }

    fn probe(&self) -> Support {
        probe::splice()
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        probe::permits(Mechanism::Gift)?;
        Ok(connection.sink(Pages::new(Mechanism::Gift)))
    }
}

/// Puts references to pages into a socket.
#[derive(Debug)]
struct Pages {
    mechanism: Mechanism,
    /// Bytes of one `splice` to an `AF_UNIX` socket; `None` before the first.
    piece: Option<usize>,
}

/// What one call can send: segments of one kind of memory, which one proof will release.
struct Run {
    proof: Proof,
    segments: usize,
    file: bool,
}

impl Pages {
    const fn new(mechanism: Mechanism) -> Self {
        Self { mechanism, piece: None }
    }

    /// The segments at the front that one call can send, or why they are copied and how many of them there are.
    fn run(&self, connection: &Connection, segments: &[Segment<'_>]) -> Result<Run, (Refusal, usize)> {
        let mut run: Option<Run> = None;
        for (count, segment) in segments.iter().take(MOST_SLICES).enumerate() {
            let Segment::Owned(bytes) = segment else { break };
            let (proof, file) = match self.judge(connection, bytes) {
                Ok(judged) => judged,
                Err(refusal) if count == 0 => {
                    let same = |s: &&Segment<'_>| matches!(s, Segment::Owned(bytes) if self.judge(connection, bytes).err() == Some(refusal));
                    return Err((refusal, segments.iter().take(MOST_SLICES).take_while(same).count()));
                }
                Err(_) => break,
            };
            match &mut run {
                None => run = Some(Run { proof, segments: 1, file }),
                // Each file has its own call.
                Some(run) if run.proof == proof && !run.file && !file => run.segments += 1,
                Some(_) => break,
            }
        }
        run.ok_or((Refusal::Borrowed, 0))
    }

    /// By which proof this memory would be released, and whether it is a file's.
    fn judge(&self, connection: &Connection, bytes: &[u8]) -> Result<(Proof, bool), Refusal> {
        let look = |location: &Location<'_>| (location.facts.reuse, location.facts.backing, location.file.is_some());
        // Memory that no ring knows is heap, and freed heap is rewritten.
        let (reuse, backing, file) = region::locate(bytes, look).unwrap_or((Reuse::InPlace, Backing::Heap, false));
        let (family, path, trust) = (connection.family(), connection.path(), connection.trust());
        let proof = Policy::proof_for(self.mechanism, family, path, reuse, trust)?;
        if self.mechanism == Mechanism::Gift && !region::give_away(bytes) {
            let heap = backing == Backing::Heap;
            return Err(if heap { Refusal::NotFreshPages } else { Refusal::PartialUnit });
        }
        Ok((proof, file))
    }

    /// One send of the run at the front.
    fn send(&mut self, connection: &Connection, run: &Run, segments: &[Segment<'_>]) -> io::Result<usize> {
        // Not before a socket is spliced to: what is copied into a larger send buffer is the kernel's memory.
        let (piece, most) = match connection.family() {
            Family::Unix => (*self.piece.get_or_insert_with(|| window::open(connection.as_fd())), window::MOST),
            // TCP makes packets of it anyway.
            _ => (usize::MAX, usize::MAX),
        };
        let (ours, rest) = segments.split_at(run.segments);
        let memory = ours.iter().filter_map(|segment| match segment {
            Segment::Owned(bytes) => Some(Bytes::clone(bytes)),
            Segment::Borrowed(_) => None,
        });
        let gift = self.mechanism == Mechanism::Gift;
        connection.send(self.mechanism, run.proof, memory, || {
            let socket = connection.as_fd();
            if let ([segment], true) = (ours, run.file) {
                let slice = segment.as_slice();
                let sent = region::locate(slice, |location| {
                    let (file, offset) = location.file?;
                    let _quiet = NoSigpipe::new();
                    Some(sys::splice::sendfile(socket, file, offset, slice.len()))
                });
                if let Some(Some(sent)) = sent {
                    return sent;
                }
            }
            let pipe = Pipe::take()?;
            let slices = window::front(ours, most);
            let _quiet = NoSigpipe::new();
            let carried = pipe.carry(&slices, socket, How { gift, more: !rest.is_empty(), piece })?;
            if carried.full {
                connection.found_full();
            }
            Ok(carried.bytes)
        })
    }
}

impl Transmit for Pages {
    fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Sends the owned segments at the front that one proof can release; what may not be sent this way is copied, with its
    /// reason, and so is a send for which there is no pipe.
    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        if queue.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let borrowed = queue.segments().iter().take_while(|s| matches!(s, Segment::Borrowed(_))).count();
        if borrowed > 0 {
            return poll_copy(connection, cx, queue, borrowed, Refusal::Borrowed);
        }
        let run = match self.run(connection, queue.segments()) {
            Ok(run) => run,
            Err((refusal, segments)) => return poll_copy(connection, cx, queue, segments, refusal),
        };
        loop {
            let mark = std::task::ready!(poll_room(connection, cx, self.mechanism))?;
            let error = match self.send(connection, &run, queue.segments()) {
                // A file that is shorter than it was: its bytes can still be read from the mapping, or raise SIGBUS there.
                Ok(0) => return poll_copy(connection, cx, queue, run.segments, Refusal::NotInKernel),
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => error,
            };
            if let Some(refusal) = Refusal::from_error(&error) {
                connection.count_setback(refusal);
                tracing::trace!(%error, "this send is copied");
                return poll_copy(connection, cx, queue, run.segments, refusal);
            }
            std::task::ready!(wait_or_fail(connection, cx, mark, error, (self.mechanism, "splice")))?;
        }
    }
}
