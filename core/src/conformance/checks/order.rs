//! What is accepted, and in which order the peer reads it.

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;

use crate::{
    SendQueue,
    conformance::{
        Subject,
        clock::within,
        peer::Peer,
        report::{Rule, Step, Stop, ensure},
        stage::{MUCH, PIECE, SMALL, Stage},
        stream::{self, POISON},
    },
};

/// Many queues of several segments, of even and odd lengths, through small socket buffers that are full again and again.
pub(in crate::conformance) fn bytes_arrive_in_order(subject: &dyn Subject) -> Step<String> {
    const TOTAL: u64 = 4 << 20;
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let mut lender = stage.lender(8, TOTAL)?;
    let sends = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        peer.go();
        let piece = lender.piece();
        let mut lengths = [piece, piece / 2, 5001, piece, 1, 20_001.min(2 * piece), 4096].into_iter().cycle();
        for segments in (1..=3).cycle() {
            let mut queue = SendQueue::new();
            for _ in 0..segments {
                let left = TOTAL - lender.offset();
                let bytes = lengths.next().map_or(left, |length| left.min(length as u64));
                if bytes > 0 {
                    queue.push(lender.lend(bytes as usize).await?);
                }
            }
            if queue.is_empty() {
                break;
            }
            line.send_all(&mut queue).await?;
        }
        line.close().await?;
        line.all_released(&lender).await?;
        let stats = line.balanced(TOTAL)?;
        Ok(stats.sends_zero_copy + stats.sends_copied)
    })?;
    peer.join()?.exactly(TOTAL)?;
    Ok(format!("{TOTAL} bytes in {sends} sends"))
}

/// A queue that no socket buffer holds, polled by hand: each answer is compared with queue and position.
pub(in crate::conformance) fn a_partial_accept_loses_nothing(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let total = (pieces * lender.piece()) as u64;
    let (partial, pending) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        let mut nothing = SendQueue::new();
        let answer = poll_fn(|cx| Poll::Ready(line.offer(cx, &mut nothing))).await;
        ensure!(
            matches!(answer, Poll::Ready(Ok(Ok(0)))),
            Accepted,
            "poll_send answered {answer:?} for an empty queue, which is Ok(0)"
        );
        let accepted = line.fill(&mut queue).await?;
        let (mut partial, mut pending) = (0, 1);
        peer.go();
        let sending = poll_fn(|cx| {
            while !queue.is_empty() {
                match line.offer(cx, &mut queue) {
                    Poll::Ready(Ok(Ok(_))) => partial += usize::from(!queue.remaining().is_multiple_of(lender.piece())),
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Ok(Err(error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                    Poll::Pending => {
                        pending += 1;
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(Ok(())))
        });
        let sent = within(stage.patience(), Rule::Wakes, "the rest of a queue whose peer reads", sending).await??;
        sent.map_err(|error| Stop::unexpected("a send", &error))?;
        ensure!(accepted < total, Accepted, "the socket took all {total} bytes");
        line.close().await?;
        line.all_released(&lender).await?;
        line.balanced(total)?;
        Ok((partial, pending))
    })?;
    peer.join()?.exactly(total)?;
    Ok(format!("{total} bytes, cut in the middle of a segment {partial} times, pending {pending} times"))
}

/// Heads that are only borrowed between bodies that are owned. Whatever was accepted of a head is overwritten when the call has
/// returned, while the peer has read nothing.
pub(in crate::conformance) fn borrowed_memory_is_copied_before_the_call_returns(subject: &dyn Subject) -> Step<String> {
    const HEADS: [usize; 6] = [37, 1, 4096, 700, 20_000, 64];
    const MESSAGES: usize = 30;
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let total: usize = HEADS.iter().cycle().take(MESSAGES).map(|head| head + PIECE).sum();
    let mut lender = stage.lender(MESSAGES, 2 * total as u64)?;
    stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let (mut offset, mut heads, mut bodies) = (0u64, Vec::new(), Vec::<Bytes>::new());
        for head in HEADS.into_iter().cycle().take(MESSAGES) {
            heads.push(stream::piece(offset, head));
            lender.skip_to(offset + head as u64);
            bodies.push(lender.try_lend(PIECE)?);
            offset += (head + PIECE) as u64;
        }
        // How much of the messages was accepted.
        let mut done = 0;
        let sending = poll_fn(|cx| {
            while done < total {
                let (mut start, mut queue) = (0, SendQueue::new());
                for (head, body) in heads.iter().zip(&bodies) {
                    queue.push_borrowed(&head[done.saturating_sub(start).min(head.len())..]);
                    start += head.len();
                    queue.push(body.slice(done.saturating_sub(start).min(body.len())..));
                    start += body.len();
                }
                match line.offer(cx, &mut queue) {
                    Poll::Ready(Ok(Ok(bytes))) => done += bytes,
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Ok(Err(error))),
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                    Poll::Pending => {
                        // From here on the peer reads.
                        peer.go();
                        return Poll::Pending;
                    }
                }
                drop(queue);
                let mut start = 0;
                for (head, body) in heads.iter_mut().zip(&bodies) {
                    let accepted = done.saturating_sub(start).min(head.len());
                    head[..accepted].fill(POISON);
                    start += head.len() + body.len();
                }
            }
            Poll::Ready(Ok(Ok(())))
        });
        let sent = within(stage.patience(), Rule::Wakes, "a mixed queue whose peer reads", sending).await??;
        sent.map_err(|error| Stop::unexpected("a send", &error))?;
        bodies.clear();
        peer.go();
        line.close().await?;
        line.all_released(&lender).await?;
        line.balanced(total as u64)
    })?;
    let received = peer.join()?;
    if let Err(Stop::Failed(mut failure)) = received.right() {
        if failure.rule == Rule::NotBefore {
            failure.rule = Rule::Borrowed;
        }
        return Err(Stop::Failed(failure));
    }
    received.exactly(total as u64)?;
    Ok(format!("{MESSAGES} heads and bodies, {total} bytes"))
}
