//! Connections that are given up while packets wait on the way.

use std::{future::poll_fn, task::Poll, time::Duration};

use super::super::{
    Held, Subject,
    clock::until,
    line::Line,
    peer::Peer,
    report::{Step, Stop, chain},
    stage::Stage,
};
use crate::SendQueue;

/// A connection whose packets wait.
pub(super) fn held(stage: &Stage<'_>) -> Step<Held> {
    match stage.subject().link().connect_held() {
        None => Err(Stop::not_applicable("on this link no packet waits outside the sockets")),
        Some(Err(error)) => Err(Stop::Skipped(format!("no packet can be held here: {}", chain(&error)))),
        Some(Ok(held)) => Ok(held),
    }
}

/// Sends until the sink is pending or the queue is empty.
pub(super) async fn send_what_goes(line: &mut Line, queue: &mut SendQueue<'_>) -> Step<u64> {
    poll_fn(|cx| {
        while !queue.is_empty() {
            match line.offer(cx, queue) {
                Poll::Ready(Ok(Ok(_))) => {}
                Poll::Ready(Ok(Err(error))) => return Poll::Ready(Err(Stop::unexpected("a send", &error))),
                Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(line.sink().position().accepted))
    })
    .await
}

/// A connection is revoked while its packets wait outside the socket, from where they leave later: what leaves are the bytes
/// that were sent, and not what was written into the memory since.
pub(in super::super) fn a_revoke_does_not_release_what_waits_to_leave(subject: &dyn Subject) -> Step<String> {
    const TIMEOUT: Duration = Duration::from_millis(300);
    /// For memory that may rightly stay in custody until the packets have left.
    const WAIT: Duration = Duration::from_millis(1500);
    let stage = Stage::new(subject)?;
    let Held { pair, gate } = held(&stage)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let mut lender = stage.usual_lender()?;
    let pieces = Stage::pieces(&lender);
    let (accepted, out, line) = stage.run(async {
        let mut line = stage.line_with(pair.near, TIMEOUT).await?;
        let mut queue = lender.queue(pieces)?;
        let accepted = send_what_goes(&mut line, &mut queue).await?;
        drop(queue);
        until(WAIT, || lender.out() == 0).await;
        // What has come back was poisoned by the ring. Now the packets leave.
        Ok((accepted, lender.out(), line))
    })?;
    gate().map_err(|error| Stop::setup("the gate did not open", &error))?;
    // Where nothing was in custody there was no revoke, and the stream ends here.
    drop(line);
    peer.go();
    // To the end: of the stream, or by a reset.
    let received = peer.join()?;
    received.right()?;
    stage.run(async {
        until(WAIT, || lender.out() == 0).await;
        Ok(())
    })?;
    let read = received.bytes;
    Ok(format!("the peer read {read} of {accepted} bytes after the deadline, when {out} pieces were still out"))
}
