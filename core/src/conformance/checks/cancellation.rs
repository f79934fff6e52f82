//! Futures that are dropped after any poll.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    SendError, SendQueue, ZeroCopySinkExt as _,
    conformance::{
        Subject,
        clock::{limited, within},
        line::Line,
        peer::Peer,
        report::{Rule, Step, Stop, ensure},
        stage::{MUCH, SMALL, Stage},
    },
};

/// Futures are dropped after 0, 1, ... so many polls.
const MOST_POLLS: usize = 4;
/// So many futures are dropped before one goes on to the end.
const MOST_CUTS: usize = 6;

/// Polls `future` at most `polls` times, then drops it. Calls `pending` each time it is not ready. The last poll is made with a
/// waker that wakes nobody: whoever polls next must be woken instead.
async fn cut_after<F: Future>(polls: usize, mut pending: impl FnMut(), future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let mut nobody = Context::from_waker(Waker::noop());
        let polled = future.as_mut().poll(if left == 0 { &mut nobody } else { cx });
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                pending();
                if left == 0 { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    })
    .await
}

fn healthy<T>(result: Result<T, SendError>, what: &str) -> Step<T> {
    result.map_err(|error| Stop::unexpected(what, &error))
}

/// What a cut future left behind: queue and position agree.
fn agree(line: &mut Line, queue: &SendQueue<'_>, total: u64, polls: usize) -> Step {
    let accepted = line.position()?.accepted;
    ensure!(
        accepted + queue.remaining() as u64 == total,
        Accepted,
        "a send was dropped after {polls} polls: {accepted} of {total} bytes accepted, and {} left on the queue",
        queue.remaining()
    );
    Ok(())
}

/// `send_queue` is dropped again and again: what was accepted is off the queue, the rest still on it. Then one more has to wait, and is
/// woken.
pub(in crate::conformance) fn a_send_dropped_after_any_poll_loses_nothing(subject: &dyn Subject) -> Step<String> {
    let mut cuts = 0;
    for polls in 0..=MOST_POLLS {
        let stage = Stage::new(subject)?;
        let pair = stage.pair(SMALL)?;
        let (mut lender, pieces) = stage.supply(MUCH)?;
        let (first, second) = (pieces / 2, pieces - pieces / 2);
        let half = (first * lender.piece()) as u64;
        let total = half + (second * lender.piece()) as u64;
        let peer = Peer::start(pair.far, stage.patience(), move |reader, gate| {
            gate.wait();
            reader.read_up_to(half);
            gate.wait();
            reader.read_to_end()
        })?;
        cuts += stage.run(async {
            let mut line = stage.line(pair.near).await?;
            let mut queue = lender.queue(first)?;
            let (mut cuts, mut begun) = (0, false);
            let cutting = async {
                let mut begin = || {
                    if !std::mem::replace(&mut begun, true) {
                        peer.go();
                    }
                };
                // Without a poll nothing would ever be sent: then only the first future goes unpolled.
                while !queue.is_empty() && cuts < MOST_CUTS {
                    let polls = if cuts > 0 { polls.max(1) } else { polls };
                    let sent = cut_after(polls, &mut begin, line.sink_mut().send_queue(&mut queue)).await;
                    sent.map_or(Ok(()), |sent| healthy(sent, "a send"))?;
                    agree(&mut line, &queue, half, polls)?;
                    cuts += 1;
                    // The peer makes room meanwhile.
                    limited(Duration::from_millis(1), std::future::pending::<()>()).await;
                }
                Ok(())
            };
            within(stage.patience(), Rule::Wakes, "sending, cut by cut", cutting).await??;
            line.send_all(&mut queue).await?;
            // The peer reads no more until this one has to wait: who listens to the first waker only shows now.
            let mut queue = lender.queue(second)?;
            let sending = cut_after(usize::MAX, || peer.go(), line.sink_mut().send_queue(&mut queue));
            let sent = within(stage.patience(), Rule::Wakes, "sending the rest", sending).await?;
            sent.map_or(Ok(()), |sent| healthy(sent, "a send"))?;
            peer.go();
            line.close().await?;
            line.all_released(&lender).await?;
            line.balanced(total)?;
            Ok(cuts)
        })?;
        peer.join()?.exactly(total)?;
    }
    Ok(format!("{cuts} sends dropped after 0 to {MOST_POLLS} polls"))
}

/// `released`, `flush` and `close` are dropped, and asked again.
pub(in crate::conformance) fn waiting_may_be_given_up_and_taken_up_again(subject: &dyn Subject) -> Step<String> {
    for polls in 0..=MOST_POLLS {
        let stage = Stage::new(subject)?;
        let pair = stage.pair(SMALL)?;
        let peer = Peer::reading(pair.far, stage.patience())?;
        let (mut lender, pieces) = stage.supply(MUCH)?;
        let total = (pieces * lender.piece()) as u64;
        stage.run(async {
            let mut line = stage.line(pair.near).await?;
            let mut queue = lender.queue(pieces)?;
            let accepted = line.fill(&mut queue).await?;
            if let Some(flushed) = cut_after(polls, || peer.go(), line.sink_mut().flush()).await {
                healthy(flushed, "a flush")?;
            }
            if let Some(released) = cut_after(polls, || peer.go(), line.sink_mut().released(accepted)).await {
                ensure!(released.is_ok(), InTheEnd, "a healthy peer, and memory in quarantine: {:?}", line.stats());
            }
            let position = line.position()?;
            ensure!(position.accepted == accepted, Accepted, "waiting for release accepted bytes: {position:?}");
            peer.go();
            healthy(line.flush().await?, "a flush")?;
            line.send_all(&mut queue).await?;
            healthy(line.flush().await?, "a flush")?;
            if let Some(closed) = cut_after(polls, || {}, line.sink_mut().close()).await {
                healthy(closed, "closing")?;
            }
            line.close().await?;
            line.all_released(&lender).await?;
            line.balanced(total)?;
            Ok(())
        })?;
        peer.join()?.exactly(total)?;
    }
    Ok(format!("flush, release and close dropped after 0 to {MOST_POLLS} polls"))
}
