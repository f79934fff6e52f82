//! When memory comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use crate::{
    SendQueue,
    conformance::{
        Held, Subject,
        clock::{a_moment, limited, until},
        lender::Lender,
        peer::Peer,
        report::{Step, Stop, ensure},
        stage::{MUCH, SMALL, Stage},
    },
    policy::Family,
};

/// The peer has read everything: whoever waits for release is woken, and all memory is back.
pub(in crate::conformance) fn memory_comes_back_once_the_peer_has_read(subject: &dyn Subject) -> Step<String> {
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
pub(in crate::conformance) fn memory_comes_back_though_nobody_polls_the_sink(subject: &dyn Subject) -> Step<String> {
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

/// The peer reads again and again a part of what waits for it, so the socket is never empty: memory comes back all the same.
pub(in crate::conformance) fn memory_comes_back_while_the_stream_goes_on(subject: &dyn Subject) -> Step<String> {
    /// Room for several pieces at both ends.
    const BUFFERS: usize = 128 << 10;
    /// What can come back by itself does so in this time.
    const SETTLED: Duration = Duration::from_millis(50);
    /// Room that the peer makes is used in this time.
    const REFILLED: Duration = Duration::from_secs(2);
    let stage = Stage::new(subject)?;
    let pair = stage.pair(Some(BUFFERS))?;
    let (mut lender, pieces) = stage.supply(4 * MUCH)?;
    let (tell, told) = mpsc::channel();
    let has_read = Arc::new(AtomicU64::new(0));
    let reading = Arc::clone(&has_read);
    let peer = Peer::start(pair.far, stage.patience(), move |reader, _| {
        for upto in told {
            reader.read_up_to(upto);
            reading.store(upto, Relaxed);
        }
        reader.read_to_end()
    })?;
    let (accepted, seen) = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let (mut sent, mut read) = (0, 0);
        // A TCP peer acknowledges what it has not read.
        let tcp = subject.link().family() == Family::Tcp;
        let mut queue = SendQueue::new();
        let mut first: Option<Vec<u64>> = None;
        while first.as_ref().is_none_or(|first| !first.is_empty()) && sent < pieces {
            if read > 0 && tcp {
                // Before more is sent the peer reads no more: what it has acknowledged would soon be all there is.
                if let Some(sent) = limited(REFILLED, line.send(&mut queue)).await {
                    sent?.map_err(|error| Stop::unexpected("a send", &error))?;
                }
            }
            while line.send_what_goes(&mut queue).await? && sent < pieces {
                sent += 1;
                queue = lender.queue(1)?;
            }
            let accepted = line.position()?.accepted;
            if first.is_none() {
                until(SETTLED, || lender.out() == 1).await;
                // Pieces that are sent, and out until the peer reads.
                let whole = |start: &u64| start + lender.piece() as u64 <= accepted;
                first = Some(lender.starts().into_iter().filter(whole).collect());
                continue;
            }
            let more = (accepted - read) / 4;
            ensure!(
                more > 0,
                Incremental,
                "the peer has read {read} of {accepted} bytes, the socket takes no more, and {}",
                lender.list()
            );
            read += more;
            tell.send(read).ok();
            let done = until(stage.patience(), || has_read.load(Relaxed) == read).await;
            ensure!(done, Content, "the peer could not read {read} of {accepted} accepted bytes");
            // A reader may be so quick that nobody had to wait, and whoever hears of it had no turn.
            a_moment().await;
        }
        drop(queue);
        let accepted = line.position()?.accepted;
        let first = first.unwrap_or_default();
        let out = || lender.starts().into_iter().filter(|start| first.contains(start)).count();
        let back = until(stage.patience(), || first.is_empty() || out() < first.len()).await;
        ensure!(
            back,
            Incremental,
            "the peer has read {read} of {accepted} bytes, a part at a time, and after {:?} {}",
            stage.patience(),
            lender.list()
        );
        let seen = match first.len() {
            0 => "all memory had come back before the peer read".into(),
            all => {
                format!("{} of {all} pieces were back when the peer had read {read} of {accepted} bytes", all - out())
            }
        };
        drop(tell);
        line.all_released(&lender).await?;
        Ok((accepted, seen))
    })?;
    peer.join()?.exactly(accepted)?;
    Ok(seen)
}

/// Completions in another order than sends: what was revoked before it left comes back first, what waits on the way last.
pub(in crate::conformance) fn completions_may_come_in_any_order(subject: &dyn Subject) -> Step<String> {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let stage = Stage::new(subject)?;
    let Held { pair, gate } = super::revoke::held(&stage)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(super::revoke::HELD)?;
    let (mut line, before, late) = stage.run(async {
        let mut line = stage.line_with(pair.near, TIMEOUT).await?;
        super::revoke::send_pieces(&mut line, &mut lender, pieces).await?;
        let before = lender.starts();
        let limit = 4 * TIMEOUT + Duration::from_secs(1);
        until(limit, || lender.out() == 0 || out_of_order(&lender, &before)).await;
        let late = if out_of_order(&lender, &before) { lender.starts() } else { Vec::new() };
        if let Some(first) = late.first() {
            let position = line.position()?;
            ensure!(
                position.released <= first + lender.piece() as u64,
                Position,
                "memory from {first} on is out, and yet the position is {position:?}"
            );
        }
        // Where nothing is in custody there is no revoke, and the stream ends here.
        Ok(((!before.is_empty()).then_some(line), before.len(), late.len()))
    })?;
    gate().map_err(|error| Stop::setup("the gate did not open", &error))?;
    peer.go();
    peer.join()?.right()?;
    let Some(line) = &mut line else {
        return Err(Stop::NotApplicable(
            "nothing is in custody while packets wait: there is nothing to complete".into(),
        ));
    };
    if late == 0 {
        let why = format!("nothing came back out of order: {} of {before} pieces are out", lender.out());
        return Err(Stop::NotApplicable(why));
    }
    stage.run(async {
        lender.wait_for_all("after what waited had left").await?;
        let stats = line.stats();
        ensure!(stats.strays == 0, Figures, "{} releases named no send in custody", stats.strays);
        ensure!(
            stats.pinned_bytes == 0,
            Figures,
            "all memory is back, and yet {} bytes are pinned",
            stats.pinned_bytes
        );
        Ok(())
    })?;
    Ok(format!("{late} of {before} pieces came back after later ones"))
}

/// Some later piece is back while an earlier one is out.
fn out_of_order(lender: &Lender, before: &[u64]) -> bool {
    let out = lender.starts();
    out.last().is_some_and(|last| before.iter().any(|start| start > last))
}
