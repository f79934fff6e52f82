//! Connections that are given up while packets wait on the way.

use std::time::Duration;

use crate::conformance::{
    Held, Subject,
    clock::until,
    lender::Lender,
    line::Line,
    peer::Peer,
    report::{Step, Stop, chain},
    stage::{PIECE, Stage},
};

/// More than waits outside the socket, and more than one notification of `MSG_ZEROCOPY` stands for: sends that are put together in a
/// packet share one, up to 512 KiB.
pub(super) const HELD: usize = 96 * PIECE;

/// A connection whose packets wait.
pub(super) fn held(stage: &Stage<'_>) -> Step<Held> {
    match stage.subject().link().connect_held() {
        None => Err(Stop::not_applicable("on this link no packet waits outside the sockets")),
        Some(Err(error)) => Err(Stop::Skipped(format!("no packet can be held here: {}", chain(&error)))),
        Some(Ok(held)) => Ok(held),
    }
}

/// Sends piece by piece, each in a send of its own, until the sink is pending. Returns how many bytes were accepted.
pub(super) async fn send_pieces(line: &mut Line, lender: &mut Lender, pieces: usize) -> Step<u64> {
    for _ in 0..pieces {
        if !line.send_what_goes(&mut lender.queue(1)?).await? {
            break;
        }
    }
    Ok(line.position()?.accepted)
}

/// A connection is revoked while its packets wait outside the socket, from where they leave later: what leaves are the bytes
/// that were sent, and not what was written into the memory since.
pub(in crate::conformance) fn a_revoke_does_not_release_what_waits_to_leave(subject: &dyn Subject) -> Step<String> {
    const TIMEOUT: Duration = Duration::from_millis(300);
    /// For memory that may rightly stay in custody until the packets have left.
    const WAIT: Duration = Duration::from_millis(1500);
    let stage = Stage::new(subject)?;
    let Held { pair, gate } = held(&stage)?;
    let peer = Peer::reading(pair.far, stage.patience())?;
    let (mut lender, pieces) = stage.supply(HELD)?;
    let (accepted, out, line) = stage.run(async {
        let mut line = stage.line_with(pair.near, TIMEOUT).await?;
        let accepted = send_pieces(&mut line, &mut lender, pieces).await?;
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
