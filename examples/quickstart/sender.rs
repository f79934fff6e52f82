//! The sending side: file, ring, sink.

use std::{
    error::Error,
    fs::File,
    io::{self, Read as _, Seek as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt as _, net, runtime::Handle, sync::mpsc};
use zerosink::{RingError, prelude::*};

use crate::{
    Refused,
    arguments::{Arguments, Endpoint},
    receiver::{self, ANSWER},
    report::Report,
};

type Failure = Box<dyn Error>;

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let path = match &arguments.path {
        Some(path) => path.clone(),
        None => std::env::current_exe()?,
    };
    let file =
        File::open(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(Refused(format!("{} is empty: there is nothing to send", path.display())).into());
    }
    let mut sink = connect(arguments).await?;
    if let Some(refusal) = arguments.refusal(sink.path()) {
        return Err(Refused(refusal).into());
    }
    let ring = build_ring(arguments, length)?;
    let bar = progress(arguments);
    let start = Instant::now();
    let (chunks, producer) = produce(file, ring.clone(), arguments)?;
    send(&mut sink, chunks, &bar).await?;
    let sent = producer.join().map_err(|_panic| "the reading thread panicked")??;

    let mut answer = [0; ANSWER];
    sink.read_exact(&mut answer).await.map_err(|error| format!("the receiver did not answer: {error}"))?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    // ANCHOR: report
    // The digest says that the peer has everything; the kernel's proof of release is a different moment.
    let end = sink.position().accepted;
    sink.released(end).await?;
    let stats = sink.stats();
    // ANCHOR_END: report
    Ok(Report {
        mechanism: stats.main_mechanism(),
        path: sink.path(),
        bytes: end,
        seconds,
        stats,
        ring: ring.stats(),
        sha256: sent,
        sha256_match: sent == answer,
    })
}

async fn connect(arguments: &Arguments) -> Result<AutoSink, Failure> {
    let config = arguments.config();
    let made = match arguments.endpoint() {
        Endpoint::UnixPair => {
            let (ours, theirs) = UnixStream::pair()?;
            thread::spawn(move || receiver::hash_and_answer(theirs));
            ours.into_sink(config).await
        }
        Endpoint::Connect(address) => net::TcpStream::connect(address).await?.into_sink(config).await,
        Endpoint::Loopback | Endpoint::Listen(_) => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            thread::spawn(move || receiver::hash_and_answer(listener.accept()?.0));
            // ANCHOR: sink
            let socket = net::TcpStream::connect(address).await?;
            let sink = socket.into_sink(config).await; // or, without a config: ZeroCopySink::auto(socket)
            // ANCHOR_END: sink
            sink
        }
    };
    made.map_err(|error| match error.kind() {
        io::ErrorKind::Unsupported => Refused(error.to_string()).into(),
        _ => error.into(),
    })
}

fn build_ring(arguments: &Arguments, file_length: u64) -> Result<Ring, Failure> {
    let reuse = arguments.reuse();
    // What is never written again has to hold the whole file; it is read once and sent again and again.
    let capacity = match reuse {
        Reuse::Immutable => file_length + arguments.chunk.as_u64(),
        _ => arguments.ring.as_u64(),
    };
    let capacity = usize::try_from(capacity)?;
    let refused = |error: &dyn Error| Failure::from(Refused(format!("no ring of {capacity} bytes: {error}")));
    #[cfg(zerosink_linux)]
    {
        use zerosink::mapped::{MappedMemory, Pages};
        let memory = MappedMemory::anonymous(capacity, Pages::Base).map_err(|error| refused(&error))?;
        Ring::builder().capacity(capacity).reuse(reuse).build_on(memory).map_err(|error| refused(&error))
    }
    #[cfg(not(zerosink_linux))]
    Ring::builder().capacity(capacity).reuse(reuse).build().map_err(|error| refused(&error))
}

type Digest = [u8; ANSWER];
type Producer = thread::JoinHandle<io::Result<Digest>>;

/// Reads the file into the ring on a thread of its own, so that the disk never blocks the runtime. Gives the leases in
/// order, and in the end the digest of what they held.
fn produce(mut file: File, ring: Ring, arguments: &Arguments) -> io::Result<(mpsc::Receiver<Bytes>, Producer)> {
    let (leases, chunks) = mpsc::channel(16);
    let (total, chunk) = (arguments.total.as_u64(), arguments.chunk.as_u64().max(1));
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("reader".into()).spawn(move || {
        let mut hasher = Sha256::new();
        let mut left = total;
        let mut kept: Vec<Bytes> = Vec::new();
        'laps: while left > 0 {
            let known = std::mem::take(&mut kept);
            for lease in &known {
                if left == 0 {
                    break 'laps;
                }
                let lease = lease.slice(..lease.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                left -= lease.len() as u64;
                hasher.update(&lease);
                if leases.blocking_send(lease).is_err() {
                    break 'laps;
                }
            }
            if !known.is_empty() {
                kept = known;
                continue;
            }
            file.rewind()?;
            while left > 0 {
                // ANCHOR: ring
                let wanted = usize::try_from(chunk.min(left)).unwrap_or(usize::MAX);
                // Waits while the kernel, or a slow peer, still holds what was sent before.
                let mut grant = runtime.block_on(ring.reserve(wanted)).map_err(refusal)?;
                let count = file.read(grant.as_mut_slice())?;
                grant.fill(count).map_err(refusal)?;
                let lease = grant.commit(); // `Bytes`: of what was read, and not a byte more
                // ANCHOR_END: ring
                if count == 0 {
                    break;
                }
                left -= count as u64;
                hasher.update(&lease);
                if ring.reuse() == Reuse::Immutable {
                    kept.push(lease.clone());
                }
                if leases.blocking_send(lease).is_err() {
                    break 'laps;
                }
            }
        }
        Ok(hasher.finalize().into())
    })?;
    Ok((chunks, thread))
}

fn refusal(error: RingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

async fn send(sink: &mut AutoSink, mut chunks: mpsc::Receiver<Bytes>, bar: &ProgressBar) -> Result<(), Failure> {
    while let Some(lease) = chunks.recv().await {
        bar.inc(lease.len() as u64);
        // Resolves when the bytes are accepted. The lease goes back to the ring when they are released.
        sink.send(lease).await?;
    }
    sink.close().await?;
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn progress(arguments: &Arguments) -> ProgressBar {
    if arguments.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    ProgressBar::new(arguments.total.as_u64()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
