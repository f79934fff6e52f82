//! Peers that reset, or do nothing.

use std::{
    future::poll_fn,
    io,
    task::Poll,
    time::{Duration, Instant},
};

use crate::{
    SendQueue,
    conformance::{
        Subject,
        clock::{until, within},
        lender::Lender,
        line::Line,
        peer::Peer,
        report::{Rule, Step, Stop, ensure},
        stage::{MUCH, SILENCE, SILENT_POLLS, SMALL, Stage},
    },
};

/// Everything is back, or what is not is in quarantine and counted: here, or by the ring.
async fn released_or_quarantined(line: &mut Line, lender: &Lender, accepted: u64, when: &str) -> Step<String> {
    let patience = lender.patience();
    let released = line.released(accepted, patience, Rule::Deadline, &format!("release {when}")).await?;
    if released.is_ok() && line.stats().abandoned_bytes == 0 {
        lender.wait_for_all(when).await?;
        let (stats, ring) = (line.stats(), lender.ring().stats());
        ensure!(
            stats.pinned_bytes == 0,
            Figures,
            "all is released {when}, and yet {} bytes are pinned",
            stats.pinned_bytes
        );
        ensure!(ring.quarantined == 0, Quarantine, "all is released {when}, and yet the ring has {ring:?}");
        return Ok("everything was released".into());
    }
    let stats = line.stats();
    let counted = stats.quarantined_bytes + stats.abandoned_bytes;
    ensure!(
        counted > 0,
        Quarantine,
        "release was not proven {when} ({released:?}), and yet no byte is counted: {stats:?}"
    );
    // The ring has what was given up: replaced, or taken out of service.
    if stats.quarantined_bytes == 0 {
        lender.wait_for_all(when).await?;
    }
    Ok(format!("{counted} bytes were not proven released, and are counted"))
}

/// A reset while a send waits: it fails, and memory comes back or is counted.
pub(in crate::conformance) fn a_reset_ends_send_and_custody(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::start(pair.far, stage.patience(), |reader, gate| {
        reader.read_up_to(1000);
        gate.wait();
        let reset = reader.take_socket().map_or(Ok(()), crate::conformance::Socket::reset);
        reset.map(|()| reader.read_to_end())
    })?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let seen = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        line.fill(&mut queue).await?;
        let before = line.position()?.accepted;
        let mut waiting = 0;
        let sending = poll_fn(|cx| {
            loop {
                match line.offer(cx, &mut queue) {
                    Poll::Ready(Ok(Ok(_))) if queue.is_empty() => return Poll::Ready(Ok(None)),
                    Poll::Ready(Ok(Ok(_))) => {}
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Ok(Some(error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                    Poll::Pending => {
                        waiting += 1;
                        peer.go();
                        return Poll::Pending;
                    }
                }
            }
        });
        let failed = within(stage.patience(), Rule::Errors, "a send whose peer resets", sending).await??;
        ensure!(failed.is_some(), Errors, "the sink accepted everything from {before} on although the peer had reset");
        let accepted = line.position()?.accepted;
        drop(queue);
        let seen = released_or_quarantined(&mut line, &lender, accepted, "after a reset").await?;
        let again = line.send(&mut SendQueue::from(bytes::Bytes::from_static(b"more"))).await?;
        ensure!(again.is_err(), Errors, "a send after a reset was accepted");
        // Closing what the peer has closed is no error; a backend that knows better may say so.
        let closing = poll_fn(|cx| std::pin::Pin::new(line.sink_mut()).poll_close(cx));
        drop(within(stage.patience(), Rule::Errors, "closing after a reset", closing).await?);
        Ok(seen)
    })?;
    let received = peer.join()?.map_err(|error| Stop::setup("the peer's reset", &error))?;
    received.right()?;
    Ok(seen)
}

/// A peer that reads nothing, with its window full: at the deadline the connection is given up. A backend that has nothing in
/// custody has nothing to give up.
pub(in crate::conformance) fn a_silent_peer_is_given_up_at_the_deadline(subject: &dyn Subject) -> Step<String> {
    const DEADLINE: Duration = Duration::from_millis(400);
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let (accepted, seen) = stage.run(async {
        let start = Instant::now();
        let mut line = stage.line_with(pair.near, DEADLINE).await?;
        let mut queue = lender.queue(pieces)?;
        let accepted = line.fill(&mut queue).await?;
        if line.stats().pinned_bytes == 0 {
            drop(queue);
            let seen = released_or_quarantined(&mut line, &lender, accepted, "with a silent peer").await?;
            return Ok((Some(accepted), format!("nothing was in custody, {seen}")));
        }
        // Pending once is not full for ever: buffers grow, and packets are put together.
        let sent = match line.send(&mut queue).await {
            Err(Stop::Failed(mut failure)) if failure.rule == Rule::Wakes => {
                failure.rule = Rule::Deadline;
                return Err(Stop::Failed(failure));
            }
            other => other?,
        };
        let waited = start.elapsed();
        let Err(error) = sent else {
            return Err(Stop::failed(Rule::Deadline, "the sink accepted everything although the peer read nothing"));
        };
        let accepted = line.position()?.accepted;
        ensure!(
            waited >= DEADLINE,
            Deadline,
            "the peer was given up after {waited:?}, {DEADLINE:?} was the deadline: {error}"
        );
        ensure!(
            error.kind() == io::ErrorKind::TimedOut,
            Errors,
            "the send to a silent peer failed with {:?}, which is not TimedOut: {error}",
            error.kind()
        );
        drop(queue);
        let seen = released_or_quarantined(&mut line, &lender, accepted, "after the deadline").await?;
        Ok((None, format!("given up after {waited:?}: {seen}")))
    })?;
    peer.go();
    let received = peer.join()?;
    received.right()?;
    match accepted {
        Some(total) => received.exactly(total)?,
        None => ensure!(
            received.error.is_some() || subject.link().family() == crate::policy::Family::Unix,
            Deadline,
            "the connection was given up, and yet the peer read {} bytes and end of file, as if all were well",
            received.bytes
        ),
    }
    Ok(seen)
}

/// A full socket: the task sleeps as long as the peer does, and wakes when it reads.
pub(in crate::conformance) fn a_full_socket_wakes_its_sender_and_does_not_spin(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let total = (pieces * lender.piece()) as u64;
    let (silent, polls) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        line.fill(&mut queue).await?;
        let silent = line.count_idle_polls(&mut queue, SILENCE).await?;
        ensure!(
            silent <= SILENT_POLLS,
            Wakes,
            "the task was woken {silent} times in {SILENCE:?} although the socket was full and the peer did nothing: it spins"
        );
        let mut polls = 0;
        let sending = poll_fn(|cx| {
            polls += 1;
            while !queue.is_empty() {
                match line.offer(cx, &mut queue) {
                    Poll::Pending => {
                        // Not before: a reader that keeps up with the sender leaves nothing to be woken for.
                        peer.go();
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Ok(_))) => {}
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Err(Stop::unexpected("a send", &error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                }
            }
            Poll::Ready(Ok(()))
        });
        within(stage.patience(), Rule::Wakes, "a send whose peer reads", sending).await??;
        peer.go();
        // Each wake-up stands for room in the socket.
        let most = total as usize / 512;
        ensure!(polls <= most, Wakes, "{polls} polls for {total} bytes: it spins");
        line.close().await?;
        line.all_released(&lender).await?;
        until(stage.patience(), || peer.ended()).await;
        Ok((silent, polls))
    })?;
    peer.join()?.exactly(total)?;
    Ok(format!("{silent} polls in {SILENCE:?} of silence, {polls} for {total} bytes"))
}
