//! A sink whose every answer is compared with what it promises.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    clock::{limited, within},
    lender::Lender,
    report::{Rule, Step, Stop, ensure},
};
use crate::{ReleaseError, SendError, SendQueue, SinkStats, ZeroCopySink, ZeroCopySinkExt as _, sink::Position};

/// The sink under test.
pub(super) struct Line {
    sink: Box<dyn ZeroCopySink + Unpin>,
    patience: Duration,
    last: Position,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("position", &self.last).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(sink: Box<dyn ZeroCopySink + Unpin>, patience: Duration) -> Self {
        Self { sink, patience, last: Position::default() }
    }

    pub(super) fn stats(&self) -> SinkStats {
        self.sink.stats()
    }

    pub(super) fn sink(&self) -> &dyn ZeroCopySink {
        &*self.sink
    }

    /// The sink, for a future that will be dropped before its end.
    pub(super) fn sink_mut(&mut self) -> &mut (dyn ZeroCopySink + Unpin) {
        &mut *self.sink
    }

    /// The position, which must have gone nowhere but forward.
    pub(super) fn position(&mut self) -> Step<Position> {
        let (now, last) = (self.sink.position(), self.last);
        ensure!(now.released <= now.flushed && now.flushed <= now.accepted, Position, "{now:?}");
        ensure!(
            now.accepted >= last.accepted && now.flushed >= last.flushed && now.released >= last.released,
            Position,
            "it went back: {last:?}, then {now:?}"
        );
        self.last = now;
        Ok(now)
    }

    /// Polls once, and compares answer, queue and position.
    pub(super) fn offer(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Step<Result<usize, SendError>>> {
        let (offered, before) = (queue.remaining(), self.sink.position().accepted);
        let polled = Pin::new(&mut *self.sink).poll_send(cx, queue);
        let said = match &polled {
            Poll::Pending => 0,
            Poll::Ready(Ok(bytes)) => *bytes,
            Poll::Ready(Err(error)) => error.accepted,
        };
        let (taken, accepted) = (offered.wrapping_sub(queue.remaining()), self.sink.position().accepted - before);
        let judge = || {
            ensure!(
                taken == said && accepted == said as u64,
                Accepted,
                "poll_send answered {polled:?}, that is {said} bytes; {taken} went off the queue, and position().accepted \
                 grew by {accepted}"
            );
            ensure!(
                !matches!(polled, Poll::Ready(Ok(0))) || offered == 0,
                Accepted,
                "poll_send answered Ok(0) for a queue of {offered} bytes"
            );
            Ok(())
        };
        if let Err(stop) = judge().and_then(|()| self.position().map(drop)) {
            return Poll::Ready(Err(stop));
        }
        polled.map(Ok)
    }

    /// Sends until the queue is empty, or an error.
    pub(super) async fn send(&mut self, queue: &mut SendQueue<'_>) -> Step<Result<(), SendError>> {
        let patience = self.patience;
        while !queue.is_empty() {
            let sent = poll_fn(|cx| self.offer(cx, queue));
            if let Err(error) = within(patience, Rule::Wakes, "a send whose peer reads", sent).await?? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Sends the whole queue.
    pub(super) async fn send_all(&mut self, queue: &mut SendQueue<'_>) -> Step {
        self.send(queue).await?.map_err(|error| Stop::unexpected("a send", &error))
    }

    /// Sends until the sink is pending. True if the queue is empty.
    pub(super) async fn send_what_goes(&mut self, queue: &mut SendQueue<'_>) -> Step<bool> {
        poll_fn(|cx| {
            while !queue.is_empty() {
                match self.offer(cx, queue) {
                    Poll::Pending => return Poll::Ready(Ok(false)),
                    Poll::Ready(Ok(Ok(_))) => {}
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Err(Stop::unexpected("a send", &error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                }
            }
            Poll::Ready(Ok(true))
        })
        .await
    }

    /// The same with a peer that reads nothing: the socket is full before the queue is empty. Returns how many bytes were accepted.
    pub(super) async fn fill(&mut self, queue: &mut SendQueue<'_>) -> Step<u64> {
        let all = self.send_what_goes(queue).await?;
        let accepted = self.position()?.accepted;
        ensure!(
            !all,
            Accepted,
            "the sink accepted all {accepted} bytes although the peer read none: it must be pending when the socket is full"
        );
        ensure!(accepted > 0, Accepted, "the sink was pending on an empty socket");
        Ok(accepted)
    }

    pub(super) async fn flush(&mut self) -> Step<Result<(), SendError>> {
        let patience = self.patience;
        let flushed = within(patience, Rule::Wakes, "a flush whose peer reads", self.sink.flush()).await?;
        let position = self.position()?;
        ensure!(
            flushed.is_err() || position.flushed == position.accepted,
            Position,
            "flushed, and yet not everything is in the socket: {position:?}"
        );
        Ok(flushed)
    }

    pub(super) async fn close(&mut self) -> Step {
        let closed = within(self.patience, Rule::Wakes, "closing", self.sink.close()).await?;
        closed.map_err(|error| Stop::unexpected("closing", &error))
    }

    /// Waits for release as a user does, within `limit`.
    pub(super) async fn released(
        &mut self,
        upto: u64,
        limit: Duration,
        rule: Rule,
        what: &str,
    ) -> Step<Result<(), ReleaseError>> {
        let result = within(limit, rule, what, self.sink.released(upto)).await?;
        let position = self.position()?;
        // What was accepted and will never be in the socket, because the connection is over, is released all the same.
        let upto = upto.min(position.flushed);
        ensure!(
            result.is_err() || position.released >= upto,
            Position,
            "released({upto}) was ready, and yet the position is {position:?}"
        );
        Ok(result)
    }

    /// Waits until everything accepted is released, and all memory back.
    pub(super) async fn all_released(&mut self, lender: &Lender) -> Step {
        let accepted = self.position()?.accepted;
        let what = "release of everything, whose peer has read it,";
        let released = match self.released(accepted, self.patience, Rule::InTheEnd, what).await {
            Err(Stop::Failed(mut failure)) => {
                failure.seen = format!("{}; {}; {:?}", failure.seen, lender.list(), self.sink.stats());
                return Err(Stop::Failed(failure));
            }
            other => other?,
        };
        ensure!(released.is_ok(), InTheEnd, "a peer that reads, and memory in quarantine: {:?}", self.sink.stats());
        lender.wait_for_all("after everything was released").await
    }

    /// Polls once more for each wake-up, for so long. Returns the number of polls that found nothing to do.
    pub(super) async fn count_idle_polls(&mut self, queue: &mut SendQueue<'_>, time: Duration) -> Step<usize> {
        let mut idle = 0;
        let waiting = poll_fn(|cx| {
            loop {
                match self.offer(cx, queue) {
                    Poll::Pending => {
                        idle += 1;
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Ok(0))) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(Ok(_))) => {}
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Err(Stop::unexpected("a send", &error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                }
            }
        });
        match limited(time, waiting).await {
            Some(Err(stop)) => Err(stop),
            None | Some(Ok(())) => Ok(idle),
        }
    }

    /// What must hold of every stream that was sent and released whole.
    pub(super) fn balanced(&mut self, total: u64) -> Step<SinkStats> {
        let position = self.position()?;
        ensure!(
            (position.accepted, position.flushed, position.released) == (total, total, total),
            Figures,
            "{total} bytes were sent and released, and yet the position is {position:?}"
        );
        let stats = self.sink.stats();
        let by_mechanism: u64 = stats.sent.iter().sum();
        let by_reason: u64 = stats.copied.iter().sum();
        ensure!(
            stats.bytes_zero_copy + stats.bytes_copied == total && by_mechanism == total,
            Figures,
            "{total} bytes accepted, but {} by zero-copy and {} copied, {by_mechanism} by all mechanisms",
            stats.bytes_zero_copy,
            stats.bytes_copied
        );
        ensure!(
            by_reason == stats.bytes_copied,
            Figures,
            "{} bytes copied, but {by_reason} with a reason",
            stats.bytes_copied
        );
        ensure!(
            (stats.pinned_bytes, stats.quarantined_bytes, stats.abandoned_bytes) == (0, 0, 0),
            Figures,
            "everything is released, and yet {} bytes are pinned, {} in quarantine, {} abandoned",
            stats.pinned_bytes,
            stats.quarantined_bytes,
            stats.abandoned_bytes
        );
        ensure!(
            stats.strays == 0,
            Figures,
            "{} releases named no send in custody: something was released twice, or never taken in",
            stats.strays
        );
        ensure!(
            stats.notified <= stats.sends_zero_copy && stats.notified_copied <= stats.notified,
            Figures,
            "more notifications than sends: {stats:?}"
        );
        Ok(stats)
    }
}
