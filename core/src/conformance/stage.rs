//! What every check starts with: a runtime, a connection, a ring.

use std::{pin::pin, time::Duration};

use super::{
    Pair, Runtime, Socket, Subject,
    lender::Lender,
    line::Line,
    report::{Rule, Step, Stop},
    stream::POISON,
};
use crate::{Reuse, SinkConfig};

/// Small enough that a check's bytes do not fit.
pub(super) const SMALL: Option<usize> = Some(16 << 10);
/// Bytes of a usual piece, or one replacement unit if that is more.
pub(super) const PIECE: usize = 16 << 10;
/// More than fits into small socket buffers.
pub(super) const MUCH: usize = 32 * PIECE;

/// A peer does nothing for so long, and meanwhile a task that waits for it is woken no oftener than so many times.
pub(super) const SILENCE: Duration = Duration::from_millis(300);
pub(super) const SILENT_POLLS: usize = 50;

/// A subject and a runtime for one check.
pub(super) struct Stage<'a> {
    subject: &'a dyn Subject,
    runtime: Box<dyn Runtime>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(subject: &'a dyn Subject) -> Step<Self> {
        if let Some(why) = subject.link().missing() {
            return Err(Stop::Skipped(why));
        }
        let runtime = subject.runtime().map_err(|error| Stop::setup("no runtime", &error))?;
        Ok(Self { subject, runtime })
    }

    pub(super) const fn subject(&self) -> &'a dyn Subject {
        self.subject
    }

    pub(super) fn patience(&self) -> Duration {
        self.subject.patience()
    }

    /// Runs a part of the check inside of the runtime.
    pub(super) fn run<T>(&self, part: impl Future<Output = Step<T>>) -> Step<T> {
        let mut result = None;
        {
            let future = pin!(async { result = Some(part.await) });
            self.runtime.block_on(future);
        }
        result.unwrap_or_else(|| Err(Stop::failed(Rule::Setup, "Runtime::block_on returned too early")))
    }

    /// Ends the runtime.
    pub(super) fn end(self) {
        drop(self.runtime);
    }

    pub(super) fn into_runtime(self) -> Box<dyn Runtime> {
        self.runtime
    }

    pub(super) fn pair(&self, buffers: Option<usize>) -> Step<Pair> {
        self.subject.link().connect(buffers).map_err(|error| Stop::setup("no connection", &error))
    }

    /// A sink with the kit's usual time-out, which no healthy peer exceeds.
    pub(super) async fn line(&self, near: Socket) -> Step<Line> {
        self.line_with(near, 4 * self.patience()).await
    }

    pub(super) async fn line_with(&self, near: Socket, release_timeout: Duration) -> Step<Line> {
        let config: SinkConfig = self.subject.config().release_timeout(release_timeout);
        let sink = self.subject.sink(near, config).await.map_err(|error| Stop::setup("no sink", &error))?;
        Ok(Line::new(sink, self.patience()))
    }

    /// A ring of `pieces` usual pieces, for a stream of `total` bytes. Immutable memory is not used twice, so such a ring has room
    /// for all of them.
    pub(super) fn lender(&self, pieces: usize, total: u64) -> Step<Lender> {
        let ring = |capacity| self.subject.ring(capacity, POISON).map_err(|error| Stop::setup("no ring", &error));
        let small = ring(PIECE)?;
        let piece = if small.reuse() == Reuse::FreshPages { PIECE.max(small.facts().unit) } else { PIECE };
        let capacity = if small.reuse() == Reuse::Immutable {
            // Odd pieces leave the rest of their granule unused.
            total as usize + total as usize / 8 + piece
        } else {
            pieces * piece
        };
        Ok(Lender::new(ring(capacity)?, piece, self.patience()))
    }

    /// A ring of `bytes` bytes, or of a few pieces if they are large, to be lent out all at once, and how many pieces that is.
    pub(super) fn supply(&self, bytes: usize) -> Step<(Lender, usize)> {
        const LEAST: usize = 4;
        let lender = self.lender(bytes / PIECE, bytes as u64)?;
        let pieces = bytes / lender.piece();
        if lender.piece() == PIECE || pieces >= LEAST {
            return Ok((lender, pieces));
        }
        let bytes = LEAST * lender.piece();
        Ok((self.lender(LEAST, bytes as u64)?, LEAST))
    }
}
