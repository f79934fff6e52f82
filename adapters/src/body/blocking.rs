//! A body that is read on a thread that may block.

use std::{
    io::{self, Read},
    panic,
};

use tokio::task::spawn_blocking;
use zerosink_core::Grant;

use super::{BodyError, BodyRing, BodyWriter};

/// Reads pieces until there are no more. Each is read in one go, so a piece is as long as the reader had it.
pub(super) async fn read(
    ring: BodyRing,
    writer: BodyWriter,
    mut reader: impl Read + Send + 'static,
) -> Result<(), BodyError> {
    loop {
        let grant = writer.reserve(ring.piece(None)).await?;
        let task = spawn_blocking(move || fill(reader, grant));
        // The task is not cancelled, so what did not return has panicked, or its runtime is shutting down.
        let outcome = task.await.map_err(|failed| match failed.try_into_panic() {
            Ok(panicked) => panic::resume_unwind(panicked),
            Err(failed) => io::Error::other(failed),
        })?;
        let (rest, grant) = outcome?;
        if grant.filled().is_empty() {
            return Ok(());
        }
        writer.send(grant.commit()).await?;
        reader = rest;
    }
}

fn fill<R: Read>(mut reader: R, mut grant: Grant) -> io::Result<(R, Grant)> {
    loop {
        match reader.read(grant.as_mut_slice()) {
            Ok(read) => {
                grant.fill(read)?;
                return Ok((reader, grant));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
