//! Sinks and runtimes that end with memory in flight.

use crate::{
    SendQueue,
    conformance::{
        Subject,
        clock::limited,
        lender::Lender,
        peer::Peer,
        report::{Step, Stop, ensure},
        stage::{MUCH, SILENCE, SILENT_POLLS, SMALL, Stage},
        stream::POISON,
    },
};

/// Takes as much of the ring as is free now, and writes over it.
fn overwrite(lender: &Lender, taken: &mut Vec<bytes::Bytes>) -> Step {
    while let Ok(mut grant) = lender.ring().try_reserve(lender.piece()) {
        grant.as_mut_slice().fill(POISON);
        grant.fill(lender.piece()).map_err(|error| Stop::setup("the grant was not filled", &error))?;
        taken.push(grant.commit());
    }
    Ok(())
}

/// The sink is dropped with the socket full. What comes back is overwritten at once. The peer reads all that was accepted.
pub(in crate::conformance) fn a_dropped_sink_keeps_its_memory_until_it_is_read(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let (accepted, out) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        let accepted = line.fill(&mut queue).await?;
        drop(queue);
        drop(line);
        let (out, mut taken) = (lender.out(), Vec::new());
        overwrite(&lender, &mut taken)?;
        // Whoever releases too early has some time to do so.
        limited(std::time::Duration::from_millis(100), std::future::pending::<()>()).await;
        overwrite(&lender, &mut taken)?;
        peer.go();
        lender.wait_for_all("after the sink was dropped and the peer began to read").await?;
        Ok((accepted, out))
    })?;
    peer.join()?.exactly(accepted)?;
    let quarantined = lender.ring().stats().quarantined;
    ensure!(quarantined == 0, Quarantine, "the peer has read everything, and {quarantined} bytes are in quarantine");
    Ok(format!("{accepted} bytes, {out} pieces in custody when the sink was dropped"))
}

/// The runtime ends with the socket full. What comes back is overwritten. The sink, if it is still there, says that it cannot send,
/// in another runtime too.
pub(in crate::conformance) fn the_end_of_the_runtime_releases_nothing_too_early(subject: &dyn Subject) -> Step<String> {
    let mut pieces_out = [0; 2];
    for (sink_outlives, out) in [true, false].into_iter().zip(&mut pieces_out) {
        let stage = Stage::new(subject)?;
        let pair = stage.pair(SMALL)?;
        let peer = Peer::reading(pair.far, stage.patience())?;
        let (mut lender, pieces) = stage.supply(MUCH)?;
        let (line, accepted, flushed) = stage.run(async {
            let mut line = stage.line(pair.near).await?;
            let mut queue = lender.queue(pieces)?;
            let accepted = line.fill(&mut queue).await?;
            let flushed = line.position()?.flushed;
            Ok((sink_outlives.then_some(line), accepted, flushed))
        })?;
        *out = lender.out();
        stage.end();
        let mut taken = Vec::new();
        overwrite(&lender, &mut taken)?;
        let second = Stage::new(subject)?;
        let (sent, lender) = second.run(async {
            let mut sent = 0;
            let mut line = line;
            if let Some(line) = &mut line {
                let before = line.position()?.accepted;
                // An error, or the sink can do without its runtime: but it does not hang.
                let mut queue = SendQueue::from(bytes::Bytes::from(crate::conformance::stream::piece(before, 1000)));
                peer.go();
                drop(line.send(&mut queue).await?);
                sent = line.position()?.accepted - before;
            }
            peer.go();
            overwrite(&lender, &mut taken)?;
            lender.wait_for_all("after the runtime had ended and the peer began to read").await?;
            drop(line);
            Ok((sent, lender))
        })?;
        let received = peer.join()?;
        received.right()?;
        ensure!(
            received.bytes >= flushed && received.bytes <= accepted + sent,
            Content,
            "the runtime ended when {accepted} bytes were accepted and {flushed} flushed; the peer read {}",
            received.bytes
        );
        drop(lender);
    }
    let [with, without] = pieces_out;
    Ok(format!("{with} pieces in custody of a sink that outlived its runtime, {without} of one that did not"))
}

/// The peer closes its own direction first; then this one is closed: everything comes, then end of file, and release goes on.
pub(in crate::conformance) fn closing_puts_end_of_file_behind_everything(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    pair.far.shutdown(std::net::Shutdown::Write).map_err(|error| Stop::setup("the peer's shutdown", &error))?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let total = (pieces * lender.piece()) as u64;
    stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut queue = lender.queue(pieces)?;
        line.fill(&mut queue).await?;
        // A half-closed socket reports that all the time: who takes it for room spins.
        let silent = line.count_idle_polls(&mut queue, SILENCE).await?;
        ensure!(
            silent <= SILENT_POLLS,
            Wakes,
            "the task was woken {silent} times in {SILENCE:?} although the socket was full and the peer did nothing: it spins"
        );
        peer.go();
        line.send_all(&mut queue).await?;
        line.close().await?;
        // The sink lives on: it was close, not drop, that ended the stream.
        let ended = crate::conformance::clock::until(stage.patience(), || peer.ended()).await;
        ensure!(ended, EndOfStream, "the sink was closed, and the peer read no end of file for {:?}", stage.patience());
        line.all_released(&lender).await?;
        line.balanced(total)?;
        let late = lender.lend(1000.min(lender.piece())).await?;
        let sent = line.send(&mut SendQueue::from(late)).await?;
        ensure!(sent.is_err(), Errors, "a send after close was accepted");
        line.close().await
    })?;
    peer.join()?.exactly(total)?;
    Ok(format!("{total} bytes, then end of file"))
}
