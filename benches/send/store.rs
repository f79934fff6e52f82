//! What is sent.

use std::io;

use bytes::{BufMut as _, Bytes};
use zerosink::{
    Grant,
    mapped::{MapOptions, MappedMemory},
    prelude::*,
};

/// Bytes of a ring, and of memory that is walked.
pub(crate) const RING: usize = 8 << 20;
pub(crate) const BYTE: u8 = 0x5a;

/// The memory that a contender sends from, which also says whether it is written before each send, as a producer would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// One block on the heap, again and again.
    Block,
    /// Mapped, 8 MiB, written once.
    Immutable,
    /// The same in a memfd.
    Memfd,
    /// One block, mapped, written once: a file that is in demand.
    ImmutableBlock,
    /// One lease of a ring that is reused in place, sent again and again.
    Lease,
    /// One block on the heap, written before each send.
    WrittenBlock,
    /// A ring that is reused in place, written before each send.
    Ring,
    /// A ring with fresh pages, written before each send.
    FreshPages,
}

/// Memory of one kind, cut into sends of one size.
#[derive(Debug)]
pub(crate) enum Store {
    /// Sent in turn, never written again.
    Kept { pieces: Vec<Bytes>, next: usize },
    /// Written before each send.
    Buffer(Vec<u8>),
    /// Reserved and written before each send.
    Ring { ring: Ring, chunk: usize },
}

impl Store {
    pub(crate) fn open(memory: Memory, chunk: usize) -> io::Result<Self> {
        let anonymous = || MapOptions::new().anonymous(RING);
        let block = || vec![BYTE; chunk];
        let kept = |pieces| Self::Kept { pieces, next: 0 };
        let one = |reuse| walk(ring(reuse, MapOptions::new().anonymous(chunk)?)?, chunk);
        let walked = |reuse, memory| walk(ring(reuse, memory)?, chunk);
        Ok(match memory {
            Memory::Block => kept(vec![Bytes::from(block())]),
            Memory::WrittenBlock => Self::Buffer(block()),
            Memory::Immutable => kept(walked(Reuse::Immutable, anonymous()?)?),
            Memory::Memfd => kept(walked(Reuse::Immutable, MapOptions::new().memfd(RING)?)?),
            Memory::ImmutableBlock => kept(one(Reuse::Immutable)?),
            Memory::Lease => kept(one(Reuse::InPlace)?),
            Memory::Ring => Self::Ring { ring: ring(Reuse::InPlace, anonymous()?)?, chunk },
            Memory::FreshPages => Self::Ring { ring: ring(Reuse::FreshPages, anonymous()?)?, chunk },
        })
    }

    /// Bytes of one send.
    pub(crate) fn chunk(&self) -> usize {
        match self {
            Self::Kept { pieces, .. } => pieces[0].len(),
            Self::Buffer(buffer) => buffer.len(),
            Self::Ring { chunk, .. } => *chunk,
        }
    }

    /// What to send next, to be taken into custody.
    #[inline]
    pub(crate) fn share(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Kept { pieces, next } => Ok(pieces[turn(next, pieces.len())].clone()),
            Self::Buffer(_) | Self::Ring { .. } => Err(io::Error::other("written before each send")),
        }
    }

    /// What to send next, for calls that are over when they return.
    #[inline]
    pub(crate) fn lend(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Kept { pieces, next } => Ok(&pieces[turn(next, pieces.len())]),
            Self::Buffer(buffer) => {
                buffer.fill(BYTE);
                Ok(buffer)
            }
            Self::Ring { .. } => Err(io::Error::other("a ring gives leases")),
        }
    }
}

fn turn(next: &mut usize, pieces: usize) -> usize {
    *next = if *next + 1 < pieces { *next + 1 } else { 0 };
    *next
}

/// What to send next, written. Waits while the ring is full.
pub(crate) async fn reserve(ring: &Ring, chunk: usize) -> io::Result<Bytes> {
    Ok(filled(ring.reserve(chunk).await.map_err(io::Error::other)?, chunk))
}

fn ring(reuse: Reuse, memory: MappedMemory) -> io::Result<Ring> {
    Ring::builder().reuse(reuse).build_on(memory).map_err(io::Error::other)
}

/// All of it, in leases.
fn walk(ring: Ring, chunk: usize) -> io::Result<Vec<Bytes>> {
    let piece = |_| ring.try_reserve(chunk).map(|grant| filled(grant, chunk)).map_err(io::Error::other);
    (0..ring.capacity() / chunk).map(piece).collect()
}

fn filled(mut grant: Grant, bytes: usize) -> Bytes {
    grant.put_bytes(BYTE, bytes);
    grant.commit()
}
