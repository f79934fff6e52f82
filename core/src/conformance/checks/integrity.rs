//! Not one wrong byte, with memory that is poisoned as soon as it comes back.

use std::{io::Read, thread, time::Duration};

use crate::{
    SendQueue,
    conformance::{
        Subject,
        clock::until,
        peer::{Peer, Reader},
        report::{Rule, Step, Stop, ensure},
        stage::{PIECE, Stage},
        stream::Received,
    },
};

/// Pieces of a ring that is much smaller than the stream.
const RING: usize = 8;
/// The reader begins so much later.
const LATE: Duration = Duration::from_millis(100);

/// A small ring, a long stream, a reader that is late, then slow for more than a lap, then fast.
pub(in crate::conformance) fn released_memory_is_not_read_any_more(subject: &dyn Subject) -> Step<String> {
    let stage = Stage::new(subject)?;
    let mut lender = stage.lender(RING, 32 * (RING * PIECE) as u64)?;
    let piece = lender.piece();
    let total = (32 * RING * PIECE).max(3 * RING * piece) as u64;
    // More than one lap. Large units take a while, so that only the first of them are read slowly.
    let slow_reads = (RING * piece / Reader::SLOW_BYTES + 8).min(48);
    let pair = stage.pair(Some(64 << 10))?;
    let peer = Peer::start(pair.far, stage.patience(), move |reader, _| {
        thread::sleep(LATE);
        reader.read_slowly(slow_reads);
        reader.read_to_end()
    })?;
    let longest = stage.run(async {
        let mut line = stage.line(pair.near).await?;
        let mut lengths = [piece, piece, piece / 2, piece - 1, piece].into_iter().cycle();
        while lender.offset() < total {
            let left = total - lender.offset();
            let bytes = lengths.next().map_or(left, |length| left.min(length as u64));
            let mut queue = SendQueue::from(lender.lend(bytes as usize).await?);
            line.send_all(&mut queue).await?;
        }
        line.close().await?;
        line.all_released(&lender).await?;
        Ok(line.balanced(total)?.longest_pin)
    });
    // What the peer saw says more than that memory did not come back.
    let received = peer.join()?;
    received.right_in_every_lap(total)?;
    let longest = longest?;
    received.exactly(total)?;
    Ok(format!("{total} bytes through a ring of {}, the longest in custody for {longest:?}", lender.ring().capacity()))
}

/// A reader that takes the bytes out of its socket without copying them: it has the sender's own pages, if the sender shares
/// them, and reads them later.
pub(in crate::conformance) fn a_reader_that_splices_gets_the_right_bytes(subject: &dyn Subject) -> Step<String> {
    /// For a release that may rightly never come while the pages are held.
    const WAIT: Duration = Duration::from_millis(500);
    let stage = Stage::new(subject)?;
    // Pipes have 16 slots of a page each to begin with.
    let mut lender = stage.lender(3, (3 * PIECE) as u64)?;
    let total = (3 * PIECE) as u64;
    let pair = stage.pair(None)?;
    let probe = subject.splice_away(&pair.far, 0);
    match probe {
        None => return Err(Stop::not_applicable("no reader here takes bytes without copying them")),
        Some(Err(error)) => return Err(Stop::setup("taking nothing out of a socket", &error)),
        Some(Ok(_)) => {}
    }
    thread::scope(|scope| {
        let taking = scope.spawn(|| subject.splice_away(&pair.far, total as usize));
        let (mut line, released) = stage.run(async {
            let mut line = stage.line(pair.near).await?;
            for _ in 0..3 {
                let mut queue = SendQueue::from(lender.try_lend(PIECE)?);
                line.send_all(&mut queue).await?;
            }
            let flushed = line.flush().await?;
            ensure!(flushed.is_ok(), Errors, "a flush failed: {flushed:?}");
            let taken = until(stage.patience(), || taking.is_finished()).await;
            ensure!(taken, Content, "the peer could not take the {total} bytes that were flushed");
            let released = until(WAIT, || lender.out() == 0).await;
            Ok((line, released))
        })?;
        let taken = taking.join().map_err(|_panic| Stop::failed(Rule::Setup, "splice_away panicked"))?;
        let Some(taken) = taken else { return Err(Stop::failed(Rule::Setup, "splice_away changed its mind")) };
        let mut taken = taken.map_err(|error| Stop::setup("the peer could not take the bytes", &error))?;
        // Everything that is released was poisoned by now.
        let mut read = vec![0; total as usize];
        taken.read_exact(&mut read).map_err(|error| Stop::setup("the peer could not read what it took", &error))?;
        let mut received = Received::default();
        received.take(&read);
        received.right()?;
        drop(taken);
        stage.run(async {
            line.close().await?;
            line.all_released(&lender).await
        })?;
        let when = if released { "before" } else { "after" };
        Ok(format!("{total} bytes, released {when} the peer read the pages"))
    })
}
