//! When memory comes back.

use std::time::Duration;

use super::super::{
    Subject,
    clock::until,
    lender::Lender,
    line::Line,
    peer::Peer,
    report::{Step, Stop, ensure},
    stage::{MUCH, SMALL, Stage},
};

/// The peer has read everything: whoever waits for release is woken, and all memory is back.
pub(in super::super) fn memory_comes_back_once_the_peer_has_read(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let total = (pieces * lender.piece()) as u64;
    let longest = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        line.fill(&mut queue).await?;
        peer.go();
        line.send_all(&mut queue).await?;
        line.all_released(&lender).await?;
        // One more, so that the last send is not special.
        let mut queue = lender.queue(1)?;
        line.send_all(&mut queue).await?;
        line.all_released(&lender).await?;
        let stats = line.balanced(total + lender.piece() as u64)?;
        line.close().await?;
        Ok(stats.longest_pin)
    })?;
    peer.join()?.exactly(total + lender.piece() as u64)?;
    Ok(format!("{total} bytes came back, the longest in custody for {longest:?}"))
}

/// A ring may be full because of a connection that nobody polls: its memory comes back all the same.
pub(in super::super) fn memory_comes_back_though_nobody_polls_the_sink(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let accepted = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        let accepted = line.fill(&mut queue).await?;
        drop(queue);
        peer.go();
        lender.wait_for_all("after the peer began to read, with nobody polling the sink").await?;
        let position = line.position()?;
        ensure!(
            position.released == accepted,
            Position,
            "all memory is back, and yet the position is {position:?} after {accepted} bytes"
        );
        Ok(accepted)
    })?;
    peer.join()?.exactly(accepted)?;
    Ok(format!("{accepted} bytes came back"))
}

/// The peer reads a part, and stops: some memory comes back, although the socket is never empty.
pub(in super::super) fn memory_comes_back_while_the_stream_goes_on(subject: &dyn Subject) -> Step<String> {
    /// Room for several pieces at both ends.
    const BUFFERS: usize = 128 << 10;
    let stage = Stage::new(subject)?;
    let pair = stage.pair(Some(BUFFERS))?;
    let (mut lender, pieces) = stage.supply(4 * MUCH)?;
    let (tell, told) = std::sync::mpsc::channel();
    let peer = Peer::start(pair.far, stage.patience(), move |reader, gate| {
        gate.wait();
        let part = told.recv().unwrap_or(0);
        reader.read_up_to(part);
        gate.wait();
        reader.read_to_end()
    })?;
    let (accepted, part, back) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        let accepted = line.fill(&mut queue).await?;
        drop(queue);
        // What was accepted of the last piece keeps all of it out.
        let before = lender.out();
        let part = (accepted / 4).max(lender.piece() as u64).min(accepted / 2);
        tell.send(part).ok();
        peer.go();
        let came_back = until(stage.patience(), || lender.out() < before || position_moved(&line)).await;
        let back = line.position()?.released;
        ensure!(
            came_back,
            Incremental,
            "the peer has read {part} of {accepted} bytes, and after {:?} {}",
            stage.patience(),
            lender.list()
        );
        peer.go();
        line.all_released(&lender).await?;
        Ok((accepted, part, back))
    })?;
    peer.join()?.exactly(accepted)?;
    Ok(format!("{back} bytes were back when the peer had read {part} of {accepted}"))
}

fn position_moved(line: &Line) -> bool {
    line.sink().position().released > 0
}

/// Completions in another order than sends: what was revoked before it left comes back first, what waits on the way last.
pub(in super::super) fn completions_may_come_in_any_order(subject: &dyn Subject) -> Step<String> {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let stage = Stage::new(subject)?;
    let held = super::revoke::held(&stage)?;
    let (gate, pair) = (held.gate, held.pair);
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(super::revoke::HELD)?;
    stage
        .run(async {
            let mut line = stage.line_with(pair.near, TIMEOUT).await?;
            let accepted = super::revoke::send_what_goes(&mut line, &mut lender, pieces).await?;
            let before = lender.starts();
            if before.is_empty() {
                let why = format!(
                    "of {accepted} bytes that wait on the way none is in custody: there is nothing to complete"
                );
                return Err(Stop::NotApplicable(why));
            }
            let revoked = until(4 * TIMEOUT + Duration::from_secs(1), || out_of_order(&lender, &before)).await;
            if !revoked {
                let why =
                    format!("nothing came back out of order: {} of {} pieces are out", lender.out(), before.len());
                return Err(Stop::NotApplicable(why));
            }
            let (first, position) = (lender.starts().first().copied().unwrap_or(accepted), line.position()?);
            ensure!(
                position.released <= first + lender.piece() as u64,
                Position,
                "memory from {first} on is out, and yet the position is {position:?}"
            );
            let late = lender.out();
            gate().map_err(|error| Stop::setup("the gate did not open", &error))?;
            lender.wait_for_all("after what waited had left").await?;
            let stats = line.stats();
            ensure!(stats.strays == 0, Figures, "{} releases named no send in custody", stats.strays);
            ensure!(
                stats.pinned_bytes == 0,
                Figures,
                "all memory is back, and yet {} bytes are pinned",
                stats.pinned_bytes
            );
            Ok(format!("{late} of {} pieces came back after later ones", before.len()))
        })
        .and_then(|seen| {
            peer.go();
            peer.join()?.right()?;
            Ok(seen)
        })
}

/// Some later piece is back while an earlier one is out.
fn out_of_order(lender: &Lender, before: &[u64]) -> bool {
    let out = lender.starts();
    out.last().is_some_and(|last| before.iter().any(|start| start > last))
}
