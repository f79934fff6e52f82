//! A body that is read straight into the ring.

use std::{
    future::Future as _,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zerosink_core::{Grant, Ring, ring::Reserve};

use super::{BodyError, BodyRing, Produce};

#[pin_project]
pub(super) struct Reading<R> {
    #[pin]
    reader: R,
    ring: BodyRing,
    /// The handle that counts this body's leases; made when the body is first polled.
    lent: Option<Ring>,
    space: Space,
    /// The reader has said that there is no more.
    ended: bool,
}

enum Space {
    None,
    Asked(Reserve),
    Had(Grant),
}

impl<R> Reading<R> {
    pub(super) const fn new(ring: BodyRing, reader: R) -> Self {
        Self { reader, ring, lent: None, space: Space::None, ended: false }
    }
}

impl<R: AsyncRead> Produce for Reading<R> {
    fn poll_piece(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        left: Option<u64>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut this = self.project();
        loop {
            match this.space {
                _ if *this.ended => return Poll::Ready(None),
                Space::None => {
                    let lent = this.lent.get_or_insert_with(|| this.ring.lend());
                    *this.space = Space::Asked(lent.reserve(this.ring.piece(left)));
                }
                Space::Asked(reserve) => {
                    let outcome = ready!(Pin::new(reserve).poll(cx));
                    *this.space = Space::None;
                    match outcome {
                        Ok(grant) => *this.space = Space::Had(grant),
                        Err(error) => return Poll::Ready(Some(Err(BodyError::Ring(error)))),
                    }
                }
                Space::Had(grant) => {
                    let filled = grant.filled().len();
                    let read = pin!(this.reader.as_mut().read_buf(grant)).poll(cx);
                    match read {
                        Poll::Ready(Ok(1..)) if grant.remaining() > 0 => continue,
                        Poll::Ready(Ok(0)) => *this.ended = true,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(BodyError::Read(error)))),
                        Poll::Pending if filled > 0 => {}
                        // Who waits for a slow reader keeps no space from others.
                        Poll::Pending => {
                            *this.space = Space::None;
                            return Poll::Pending;
                        }
                    }
                    let Space::Had(grant) = mem::replace(this.space, Space::None) else { continue };
                    let piece = grant.commit();
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
            }
        }
    }
}
