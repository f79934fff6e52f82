//! The old method, by hand and without zerosink: `vmsplice` and `splice` out of a circular buffer, which is written again
//! when `SIOCOUTQ` says that the send queue is empty.
//!
//! It is what people do who have seen their receiver get corrupt data (the story is told at
//! <https://stackoverflow.com/questions/6421771/vmsplice-and-tcp>). These tests show what is left of the corruption, and the
//! bench what the waiting costs.
#![allow(clippy::allow_attributes, reason = "the tests and the bench use different parts")]
#![allow(dead_code, reason = "the tests and the bench use different parts")]

use std::{
    io,
    net::TcpStream,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, splice, vmsplice};

use crate::wire::unacknowledged;

/// What happens between two looks at the send queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// `usleep(20000)`, as the story has it.
    Sleep,
    /// Nothing.
    Spin,
}

/// When the send queue must be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// After each chunk, as the story has it.
    EveryChunk,
    /// Only before memory is written again: when the ring wraps.
    EveryLap,
}

/// The sender. All calls block.
#[derive(Debug)]
pub(crate) struct OldMethod {
    socket: TcpStream,
    pipe: (OwnedFd, OwnedFd),
    ring: Ring,
    look: Look,
    drain: Drain,
    patience: Duration,
    sent: u64,
}

/// What the looks at the send queue saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looks {
    pub(crate) count: u64,
    /// The least number of bytes that the peer had not acknowledged: 0 if the queue was empty.
    pub(crate) least: usize,
}

/// Whole pages, as many chunks as fit.
#[derive(Debug)]
struct Ring {
    memory: Vec<u8>,
    /// Where the pages begin.
    start: usize,
    chunk: usize,
    chunks: usize,
}

impl Ring {
    const PAGE: usize = 4096;

    fn new(bytes: usize, chunk: usize) -> Self {
        assert!(chunk > 0 && chunk.is_multiple_of(Self::PAGE) && bytes.is_multiple_of(chunk), "{chunk} in {bytes}");
        let memory = vec![0; bytes + Self::PAGE];
        let start = memory.as_ptr().align_offset(Self::PAGE);
        Self { memory, start, chunk, chunks: bytes / chunk }
    }

    fn slot(&mut self, number: u64) -> &mut [u8] {
        let index = (number % self.chunks as u64) as usize;
        &mut self.memory[self.start + index * self.chunk..][..self.chunk]
    }
}

impl OldMethod {
    const NAP: Duration = Duration::from_millis(20);

    /// A ring of `ring` bytes for chunks of `chunk` bytes, which must be whole pages.
    pub(crate) fn new(socket: TcpStream, ring: usize, chunk: usize, look: Look, drain: Drain) -> io::Result<Self> {
        let pipe = pipe_with(PipeFlags::CLOEXEC)?;
        let patience = Duration::from_secs(15);
        Ok(Self { socket, pipe, ring: Ring::new(ring, chunk), look, drain, patience, sent: 0 })
    }

    /// Nobody who waits for the queue to drain has had a limit. A test needs one.
    pub(crate) fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Bytes sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Fills the next chunk of the ring, given its offset in the stream, and sends it.
    pub(crate) fn send(&mut self, fill: impl FnOnce(u64, &mut [u8])) -> io::Result<()> {
        let number = self.sent / self.ring.chunk as u64;
        if self.drain == Drain::EveryLap && number > 0 && number.is_multiple_of(self.ring.chunks as u64) {
            self.drained()?;
        }
        let slot = self.ring.slot(number);
        fill(self.sent, slot);
        let mut at = 0;
        while at < slot.len() {
            #[expect(unsafe_code, reason = "vmsplice makes the kernel refer to memory")]
            // SAFETY: the kernel only reads: this is the write end. It holds pages, which outlive their mapping. That they
            // are written meanwhile is what is to be shown; it changes what the peer reads, not what this process does.
            let piped =
                unsafe { vmsplice(&self.pipe.1, &[IoSliceRaw::from_slice(&slot[at..])], SpliceFlags::empty()) }?;
            let mut left = piped;
            while left > 0 {
                left -= splice(&self.pipe.0, None, &self.socket, None, left, SpliceFlags::empty())?;
            }
            at += piped;
        }
        self.sent += slot.len() as u64;
        if self.drain == Drain::EveryChunk { self.drained() } else { Ok(()) }
    }

    /// Writes the next chunk of the ring without sending it.
    pub(crate) fn overwrite(&mut self, number: u64, fill: impl FnOnce(u64, &mut [u8])) {
        fill(number * self.ring.chunk as u64, self.ring.slot(number));
    }

    /// Waits until the send queue is empty, or for as long as its patience lasts.
    pub(crate) fn watch(&self) -> io::Result<Looks> {
        let start = Instant::now();
        let mut looks = Looks { count: 0, least: usize::MAX };
        loop {
            looks.count += 1;
            looks.least = looks.least.min(unacknowledged(&self.socket)?);
            if looks.least == 0 || start.elapsed() >= self.patience {
                return Ok(looks);
            }
            if self.look == Look::Sleep {
                thread::sleep(Self::NAP);
            }
        }
    }

    /// [`watch`](Self::watch), and an error if the queue was not empty.
    pub(crate) fn drained(&self) -> io::Result<()> {
        let looks = self.watch()?;
        if looks.least == 0 { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, format!("{looks:?}"))) }
    }
}
