//! Bugs that need memory which is really shared: what the peer reads is what is in the pages then.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use zerosink::{
    AttachError, Backend, Connection, Mechanism, Proof, Segment, SendError, SendQueue, SinkConfig, Support, Transmit,
    ZeroCopySink,
    conformance::{Link, Mount, Rule, TcpLoopback, UnixPair},
};

use super::{HANGS, caught, passes, splicer::Bug};
use crate::{between::Between, memory};

/// With fresh pages the backend is right.
fn sound(bug: Bug, link: impl Link + 'static) -> Mount {
    Mount::new(bug, link).ring(memory::fresh_pages)
}

/// With a ring that is reused in place it needs a proof of release, and has none.
fn in_place(bug: Bug, link: impl Link + 'static) -> Mount {
    Mount::new(bug, link)
}

#[test]
fn releasing_on_accept_is_caught() {
    let check = "released_memory_is_not_read_any_more";
    caught(in_place(Bug::None, TcpLoopback), check, Rule::NotBefore);
    caught(in_place(Bug::None, UnixPair), check, Rule::NotBefore);
    caught(in_place(Bug::None, Between::LossyWire), check, Rule::NotBefore);
    passes(sound(Bug::None, TcpLoopback), check);
}

#[test]
fn releasing_when_the_queue_is_empty_is_caught_on_loopback() {
    let check = "released_memory_is_not_read_any_more";
    caught(in_place(Bug::ReleasesAtZero, TcpLoopback), check, Rule::NotBefore);
    passes(sound(Bug::ReleasesAtZero, TcpLoopback), check);
}

#[test]
fn releasing_when_the_queue_is_empty_is_caught_by_a_reader_that_splices() {
    let check = "a_reader_that_splices_gets_the_right_bytes";
    caught(in_place(Bug::ReleasesAtZero, UnixPair), check, Rule::NotBefore);
    passes(sound(Bug::ReleasesAtZero, UnixPair), check);
}

/// Also where the memory is safe: nothing comes back as long as the stream goes on.
#[test]
fn waiting_for_an_empty_queue_is_caught() {
    let check = "memory_comes_back_while_the_stream_goes_on";
    caught(sound(Bug::ReleasesAtZero, TcpLoopback).patience(HANGS), check, Rule::Incremental);
    caught(sound(Bug::ReleasesAtZero, UnixPair).patience(HANGS), check, Rule::Incremental);
    passes(sound(Bug::None, TcpLoopback), check);
}

#[test]
fn releasing_after_a_revoke_is_caught() {
    let check = "a_revoke_does_not_release_what_waits_to_leave";
    caught(in_place(Bug::ReleasesAfterRevoke, Between::Veth), check, Rule::NotBefore);
    passes(sound(Bug::ReleasesAfterRevoke, Between::Veth), check);
}

#[test]
fn losing_the_residue_of_a_pipe_is_caught() {
    let check = "a_partial_accept_loses_nothing";
    caught(sound(Bug::LosesResidue, TcpLoopback), check, Rule::Content);
    passes(sound(Bug::None, TcpLoopback), check);
}

#[test]
fn keeping_borrowed_memory_is_caught() {
    let check = "borrowed_memory_is_copied_before_the_call_returns";
    caught(sound(Bug::SplicesBorrowed, TcpLoopback), check, Rule::Borrowed);
    passes(sound(Bug::None, TcpLoopback), check);
}

#[test]
fn keeping_memory_in_the_sink_is_caught() {
    let check = "a_dropped_sink_keeps_its_memory_until_it_is_read";
    caught(in_place(Bug::KeepsMemoryInTheSink, TcpLoopback), check, Rule::NotBefore);
    passes(sound(Bug::KeepsMemoryInTheSink, TcpLoopback), check);
}

#[test]
fn keeping_memory_in_a_task_is_caught() {
    let check = "the_end_of_the_runtime_releases_nothing_too_early";
    caught(in_place(Bug::KeepsMemoryInATask, TcpLoopback), check, Rule::NotBefore);
    passes(sound(Bug::KeepsMemoryInATask, TcpLoopback), check);
}

#[test]
fn forgetting_an_id_is_caught() {
    let check = "memory_comes_back_once_the_peer_has_read";
    caught(Mount::new(ZeroCopy { forgets: true }, TcpLoopback).patience(HANGS), check, Rule::InTheEnd);
    passes(Mount::new(ZeroCopy { forgets: false }, TcpLoopback), check);
}

/// `MSG_ZEROCOPY` by hand. Where it forgets, it copies every fourth send and still expects a notification for it: the ids of
/// all sends after it are one too high, and the last are never named.
#[derive(Debug, Clone, Copy)]
struct ZeroCopy {
    forgets: bool,
}

#[async_trait]
impl Backend for ZeroCopy {
    fn mechanism(&self) -> Mechanism {
        Mechanism::MsgZerocopy
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        config: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        // The real one switches SO_ZEROCOPY on.
        drop(zerosink::backends::MsgZerocopy.attach(connection, config).await?);
        Ok(connection.sink(Counting { backend: *self, sends: 0 }))
    }
}

#[derive(Debug)]
struct Counting {
    backend: ZeroCopy,
    sends: u64,
}

impl Counting {
    fn send(&mut self, connection: &Connection, memory: &Bytes) -> io::Result<usize> {
        let plain = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let zero_copy = plain | SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
        let flags = if self.backend.forgets && self.sends % 4 == 3 { plain } else { zero_copy };
        let sent = connection.send(Mechanism::MsgZerocopy, Proof::Notified, [memory.clone()], || {
            let data = [IoSlice::new(memory)];
            Ok(sendmsg(connection.as_fd(), &data, &mut SendAncillaryBuffer::default(), flags)?)
        })?;
        self.sends += 1;
        Ok(sent)
    }
}

impl Transmit for Counting {
    fn mechanism(&self) -> Mechanism {
        Mechanism::MsgZerocopy
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let failed = |error| SendError::new(Mechanism::MsgZerocopy, "sendmsg", error);
        while let Some(Segment::Owned(memory)) = queue.segments().first() {
            let (mark, memory) = (connection.reactor().mark(), memory.clone());
            match self.send(connection, &memory) {
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx, mark)).map_err(failed)?;
                }
                Err(error) => return Poll::Ready(Err(failed(error))),
            }
        }
        Poll::Ready(Ok(0))
    }
}
