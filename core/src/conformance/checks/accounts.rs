//! What the sink says about itself, and whether it is true.

use std::thread;

use crate::{
    Mechanism, SendQueue,
    conformance::{
        Subject, clock,
        peer::Peer,
        report::{Rule, Step, Stop, chain, ensure},
        stage::{MUCH, SMALL, Stage},
        stream,
    },
};

/// Whole pieces in memory that the mechanism can send: all of them go by it, says the sink, and so says the witness.
pub(in crate::conformance) fn the_mechanism_carries_the_bytes(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let pair = stage.pair(None)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (lender, pieces) = stage.supply(MUCH / 2)?;
    let total = (pieces * lender.piece()) as u64;
    let mechanism = subject.mechanism();
    clock::start();
    // The witness takes the thread's rights away for good. It must not be the one that drops the runtime, for what that starts
    // inherits them.
    let (result, _runtime) = thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let mut lender = lender;
            let result = stage.run(async {
                let mut line = stage.line(pair.near).await?;
                ensure!(
                    line.sink().mechanism() == mechanism,
                    Mechanism,
                    "the sink says that its mechanism is {}, under test is {mechanism}",
                    line.sink().mechanism()
                );
                let witness = match subject.confine() {
                    None => "nobody else",
                    Some(Ok(())) => "the witness",
                    Some(Err(error)) => {
                        return Err(Stop::Skipped(format!("there is no witness on this host: {}", chain(&error))));
                    }
                };
                peer.go();
                for _ in 0..pieces {
                    let mut queue = SendQueue::from(lender.lend(lender.piece()).await?);
                    let sent = line.send(&mut queue).await?;
                    ensure!(
                        sent.is_ok(),
                        Mechanism,
                        "a send failed where nothing but {mechanism} is permitted: {}",
                        sent.err().map_or(String::new(), |error| chain(&error))
                    );
                }
                line.close().await?;
                line.all_released(&lender).await?;
                let stats = line.balanced(total)?;
                let by = stats.sent[mechanism.index()];
                let refusals: Vec<_> = stats.copied_by().map(|(why, bytes)| format!("{bytes} bytes: {why}")).collect();
                ensure!(
                    by == total,
                    Mechanism,
                    "{by} of {total} bytes went by {mechanism}, the others were copied ({})",
                    refusals.join(", ")
                );
                let zero_copy = if mechanism == Mechanism::Copy { 0 } else { total };
                ensure!(
                    stats.bytes_zero_copy == zero_copy,
                    Figures,
                    "{} bytes by zero-copy where {zero_copy} went by {mechanism}",
                    stats.bytes_zero_copy
                );
                Ok(witness)
            });
            (result, stage.into_runtime())
        });
        let panicked = |_| Stop::failed(Rule::Panic, "the backend panicked, or the witness stopped it");
        confined.join().map_err(panicked)
    })?;
    let witness = result?;
    peer.join()?.exactly(total)?;
    Ok(format!("{total} bytes by {mechanism}, says the sink and {witness}"))
}

/// Odd pieces, borrowed heads, a full socket: accepted is the sum of its parts, and in the end nothing is pinned.
pub(in crate::conformance) fn the_figures_add_up(subject: &dyn Subject) -> Step<String> {
    const HEAD: usize = 123;
    let stage = Stage::new(subject)?;
    let pair = stage.pair(SMALL)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(MUCH)?;
    let (total, stats) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let starts = (0..pieces as u64).map(|index| index * (HEAD + lender.piece() - 1) as u64);
        let heads: Vec<_> = starts.map(|start| stream::piece(start, HEAD)).collect();
        let mut queue = SendQueue::new();
        for head in &heads {
            queue.push_borrowed(head);
            lender.skip_to(lender.offset() + HEAD as u64);
            queue.push(lender.try_lend(lender.piece() - 1)?);
        }
        let total = lender.offset();
        line.fill(&mut queue).await?;
        let (stats, position) = (line.stats(), line.position()?);
        ensure!(
            stats.bytes_zero_copy + stats.bytes_copied == position.accepted,
            Figures,
            "{} bytes by zero-copy and {} copied, of {} accepted",
            stats.bytes_zero_copy,
            stats.bytes_copied,
            position.accepted
        );
        ensure!(
            stats.pinned_bytes <= stats.bytes_zero_copy && stats.pinned_bytes <= stats.pinned_high_water,
            Figures,
            "more bytes are pinned than were ever sent by zero-copy: {stats:?}"
        );
        ensure!(
            (stats.pinned_bytes == 0) == stats.oldest_pin.is_none(),
            Figures,
            "bytes are pinned exactly if one is the oldest: {stats:?}"
        );
        peer.go();
        line.send_all(&mut queue).await?;
        line.close().await?;
        line.all_released(&lender).await?;
        Ok((total, line.balanced(total)?))
    })?;
    peer.join()?.exactly(total)?;
    let (zero_copy, copied, high) = (stats.bytes_zero_copy, stats.bytes_copied, stats.pinned_high_water);
    Ok(format!("{total} bytes accepted: {zero_copy} by zero-copy, {copied} copied; at most {high} were pinned"))
}
