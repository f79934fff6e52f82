//! A backend of one's own, against `zerosink-core`'s traits alone: a copying one that never sends more than a few bytes
//! per call, to find out how a peer copes with small segments.
//!
//! ```text
//! cargo run --release --example own_backend
//! ```

use std::{
    io::{self, IoSlice, Read as _},
    net::TcpListener,
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
};

use async_trait::async_trait;
use zerosink::{AttachError, Backend, Connection, Refusal, SendError, Support, Transmit, prelude::*};

// ANCHOR: backend
/// Sends at most this many bytes per call.
#[derive(Debug)]
pub(crate) struct Trickle(pub(crate) usize);

#[async_trait]
impl Backend for Trickle {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Copy
    }

    fn probe(&self) -> Support {
        Support::Yes
    }

    async fn attach(
        &self,
        connection: &Arc<Connection>,
        _: &SinkConfig,
    ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
        // The connection brings the rest of a sink: position, release, closing, statistics.
        Ok(connection.sink(Self(self.0.max(1))))
    }
}

impl Transmit for Trickle {
    fn mechanism(&self) -> Mechanism {
        Mechanism::Copy
    }

    fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        let failed = |error| SendError::new(Mechanism::Copy, "sendmsg", error);
        loop {
            let Some(front) = queue.segments().first() else { return Poll::Ready(Ok(0)) };
            let piece = &front.as_slice()[..front.as_slice().len().min(self.0)];
            // Taken before the call: an event after it is then not missed.
            let mark = connection.reactor().mark();
            // Copied when the call returns, so nothing goes into custody; the connection counts.
            match connection.send_copy(&[IoSlice::new(piece)], false, Refusal::NotChosen) {
                Ok(bytes) => {
                    queue.advance(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx, mark)).map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(failed(error))),
            }
        }
    }
}
// ANCHOR_END: backend

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept()?.0.read_to_end(&mut received).map(|_| received)
    });
    let sink = ZeroCopySink::auto(tokio::net::TcpStream::connect(address).await?).await?;
    let mut sink = sink.with_backend(&Trickle(1000), &SinkConfig::new()).await?;
    let message: bytes::Bytes = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    sink.send(message.clone()).await?;
    sink.close().await?;
    let calls = sink.stats().sends_copied;
    let received = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
    println!("{} bytes in {calls} calls, {}", received.len(), if received == message { "verified" } else { "WRONG" });
    if received == message && calls >= 400 { Ok(()) } else { Err(io::Error::other("the backend was not used")) }
}
