//! Waiting for space.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{Grant, RingError, shared::Shared};

/// The future of [`Ring::reserve`](super::Ring::reserve).
///
/// It queues when it is first polled. Dropping it leaves the queue; space that it was given but has not taken goes to
/// whoever waits next.
#[must_use = "futures do nothing unless polled"]
pub struct Reserve {
    shared: Option<Arc<Shared>>,
    bytes: usize,
    ticket: Option<u64>,
}

impl Reserve {
    pub(super) const fn new(shared: Arc<Shared>, bytes: usize) -> Self {
        Self { shared: Some(shared), bytes, ticket: None }
    }
}

impl Future for Reserve {
    type Output = Result<Grant, RingError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let shared = this.shared.as_ref().expect("polled after it was ready");
        let outcome = match this.ticket {
            None => match shared.take_or_join(this.bytes, cx.waker()) {
                Ok(Ok(taken)) => Ok(taken),
                Ok(Err(ticket)) => {
                    this.ticket = Some(ticket);
                    return Poll::Pending;
                }
                Err(error) => Err(error),
            },
            Some(ticket) => match shared.collect(ticket, cx.waker()) {
                Some(outcome) => outcome,
                None => return Poll::Pending,
            },
        };
        this.ticket = None;
        let shared = mem::take(&mut this.shared).expect("was there just now");
        Poll::Ready(outcome.map(|taken| Grant::new(shared, taken, this.bytes)))
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if let (Some(shared), Some(ticket)) = (&self.shared, self.ticket) {
            shared.leave(ticket);
        }
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("bytes", &self.bytes).field("queued", &self.ticket.is_some()).finish()
    }
}
