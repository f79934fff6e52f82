//! Whole transfers on one host: rings of fresh pages, spliced, against a ring that is reused in place, copied.

use std::{
    fmt,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use bytes::BufMut as _;
use zerosink::{
    AutoSink,
    mapped::{MapOptions, MappedMemory, Pages},
    prelude::*,
};

use crate::way::{LARGE, median, sorted};

const RING: usize = 8 << 20;
/// What most hosts have.
const CONGESTION: &str = "cubic";

/// What is sent how, in which batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sender {
    mechanism: Mechanism,
    pages: Pages,
    memfd: bool,
    batch: usize,
}

const COPY: Sender = Sender { mechanism: Mechanism::Copy, pages: Pages::Base, memfd: false, batch: 64 << 10 };

const SENDERS: [Sender; 9] = [
    COPY,
    Sender { pages: Pages::Huge, ..COPY },
    Sender { pages: Pages::Huge, batch: 2 << 20, ..COPY },
    Sender { mechanism: Mechanism::Splice, ..COPY },
    Sender { mechanism: Mechanism::Splice, batch: 256 << 10, ..COPY },
    Sender { mechanism: Mechanism::Splice, pages: LARGE, ..COPY },
    Sender { mechanism: Mechanism::Splice, pages: LARGE, batch: 256 << 10, ..COPY },
    Sender { mechanism: Mechanism::Splice, pages: Pages::Huge, batch: 2 << 20, ..COPY },
    Sender { mechanism: Mechanism::Splice, pages: Pages::Huge, batch: 2 << 20, memfd: true },
];

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, pages, memfd, batch } = self;
        let memfd = if *memfd { "memfd " } else { "" };
        f.pad(&format!("{mechanism}, {memfd}{pages}, {} KiB", batch >> 10))
    }
}

impl Sender {
    /// `None` where the host has no such pages.
    fn ring(self) -> io::Result<Option<Ring>> {
        let options = MapOptions::new().pages(self.pages);
        let memory: MappedMemory = if self.memfd { options.memfd(RING)? } else { options.anonymous(RING)? };
        if memory.pages() != self.pages {
            return Ok(None);
        }
        let reuse = if self.mechanism == Mechanism::Copy { Reuse::InPlace } else { Reuse::FreshPages };
        Ring::builder().reuse(reuse).build_on(memory).map(Some).map_err(io::Error::other)
    }

    /// GB/s, from the first fill to the reader's end of file.
    fn run(self, ring: &Ring, unix: bool, total: u64) -> io::Result<f64> {
        let config = SinkConfig::new().mechanism(self.mechanism);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (start, reader);
        if unix {
            let (socket, stream) = UnixStream::pair()?;
            reader = thread::spawn(move || count(stream));
            start = Instant::now();
            runtime.block_on(async { self.send(socket.into_sink(config).await?, ring, total).await })?;
        } else {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let socket = TcpStream::connect(listener.local_addr()?)?;
            rustix::net::sockopt::set_tcp_congestion(&socket, CONGESTION)?;
            let (stream, _) = listener.accept()?;
            reader = thread::spawn(move || count(stream));
            start = Instant::now();
            runtime.block_on(async { self.send(socket.into_sink(config).await?, ring, total).await })?;
        }
        let counted = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
        if counted == total {
            Ok(total as f64 / start.elapsed().as_secs_f64() / 1e9)
        } else {
            Err(io::Error::other(format!("{self}: {counted} of {total} bytes")))
        }
    }

    async fn send(self, mut sink: AutoSink, ring: &Ring, total: u64) -> io::Result<()> {
        static PIECE: [u8; 64 << 10] = [0x5a; 64 << 10];
        for _ in 0..total / self.batch as u64 {
            let mut grant = ring.reserve(self.batch).await?;
            while grant.remaining() > 0 {
                grant.put_slice(&PIECE);
            }
            sink.send(grant.commit()).await?;
        }
        sink.close().await?;
        let (end, stats) = (sink.position().accepted, sink.stats());
        let by_it = if self.mechanism == Mechanism::Copy { stats.bytes_copied } else { stats.bytes_zero_copy };
        if by_it != total || ring.stats().quarantined > 0 {
            return Err(io::Error::other(format!("{self}: {stats:?}")));
        }
        sink.released(end).await.map_err(io::Error::other)
    }
}

fn count(mut stream: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

pub(crate) fn print(rounds: usize, total: u64) -> io::Result<()> {
    for unix in [false, true] {
        let link = if unix { "AF_UNIX".to_owned() } else { format!("TCP loopback, {CONGESTION}") };
        println!("\n{link}, ring of {} MiB, a reader that copies; GB/s, and its ratio to the first line", RING >> 20);
        println!("{:<36} {:>8}  {:>24}", "", "GB/s", "least median most");
        let mut contenders = Vec::new();
        for sender in SENDERS {
            contenders.extend(sender.ring()?.map(|ring| (sender, ring)));
        }
        let mut rates = vec![Vec::new(); contenders.len()];
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                let at = (turn + round) % contenders.len();
                let (sender, ring) = &contenders[at];
                rates[at].push(sender.run(ring, unix, total)?);
            }
        }
        for ((sender, _), own) in contenders.iter().zip(&rates) {
            let ratios = sorted(own.iter().zip(&rates[0]).map(|(own, copy)| own / copy).collect());
            let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
            let rate = median(&sorted(own.clone()));
            println!("{sender:<36} {rate:>8.2}  {least:>9.2} {:>9.2} {most:>9.2}", median(&ratios));
        }
    }
    Ok(())
}
