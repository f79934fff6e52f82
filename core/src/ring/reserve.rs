//! Waiting for space.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    Grant, Ring, RingError,
    limit::{Permit, Turn},
};

/// The future of [`Ring::reserve`](super::Ring::reserve).
///
/// It queues when it is first polled: for its handle's [limit](Ring::limited), if there is one, and then for space. Dropping it
/// leaves the queue; what it was given but has not taken goes to whoever waits next.
#[must_use = "futures do nothing unless polled"]
pub struct Reserve {
    ring: Option<Ring>,
    bytes: usize,
    ticket: Option<u64>,
    turn: Option<Turn>,
    permit: Option<Permit>,
}

impl Reserve {
    pub(super) const fn new(ring: Ring, bytes: usize) -> Self {
        Self { ring: Some(ring), bytes, ticket: None, turn: None, permit: None }
    }

    /// Ready with the permit, or with nothing where none is needed.
    #[cold]
    fn poll_permit(&mut self, cx: &Context<'_>) -> Poll<Result<(), RingError>> {
        let Some(ring) = &self.ring else { return Poll::Ready(Ok(())) };
        let Some(limit) = &ring.limit else { return Poll::Ready(Ok(())) };
        // What can never be does not wait for anybody.
        ring.shared().check(self.bytes)?;
        let turn = self.turn.get_or_insert_with(|| Turn::new(limit.clone()));
        self.permit = Some(ready!(turn.poll(cx)));
        self.turn = None;
        Poll::Ready(Ok(()))
    }
}

impl Future for Reserve {
    type Output = Result<Grant, RingError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let ring = this.ring.as_ref().expect("polled after it was ready");
        if ring.limit.is_some()
            && this.permit.is_none()
            && let Err(error) = ready!(this.poll_permit(cx))
        {
            this.ring = None;
            return Poll::Ready(Err(error));
        }
        let shared = this.ring.as_ref().expect("was there just now").shared();
        let outcome = match this.ticket {
            None => match shared.take_or_join(this.bytes, cx.waker()) {
                Ok(Ok(taken)) => Ok(taken),
                Ok(Err(ticket)) => {
                    this.ticket = Some(ticket);
                    return Poll::Pending;
                }
                Err(error) => Err(error),
            },
            Some(ticket) => match shared.collect(this.bytes, ticket, cx.waker()) {
                Some(outcome) => outcome,
                None => return Poll::Pending,
            },
        };
        this.ticket = None;
        let permit = this.permit.take();
        let grant = outcome.map(|taken| Grant::new(taken, permit));
        this.ring = None;
        Poll::Ready(grant)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // Space first, so that whoever gets the permit, which is dropped after this, finds it.
        if let (Some(ring), Some(ticket)) = (&self.ring, self.ticket) {
            ring.shared().desk().leave(ticket);
        }
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("bytes", &self.bytes).field("queued", &self.ticket.is_some()).finish()
    }
}
