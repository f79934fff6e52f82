//! Backpressure made visible: a ring fills because a peer reads slowly, the producer waits, and space comes back in the
//! order in which it is released.
//!
//! ```text
//! cargo run --release --example ring_fill
//! ```

use std::{
    io::{self, Read as _},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut as _;
use zerosink::prelude::*;

const RING: usize = 1 << 20;
const CHUNK: usize = 64 << 10;
const TOTAL: usize = 16 << 20;
/// The reader takes 64 KiB and rests: some 12 MiB/s.
const REST: Duration = Duration::from_millis(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || slow_reader(&listener));

    let socket = tokio::net::TcpStream::connect(address).await?;
    // Custody lasts until the peer has the bytes only if nothing is copied: insist on it, to see the ring fill.
    let mut sink = match socket.into_sink(SinkConfig::new().mechanism(Mechanism::MsgZerocopy)).await {
        Ok(sink) => sink,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("this host copies every send, so the ring never fills: {error}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let ring = Ring::builder().capacity(RING).build()?;
    let start = Instant::now();
    let (mut waits, mut waited) = (0u32, Duration::ZERO);
    for number in 0..TOTAL / CHUNK {
        // ANCHOR: backpressure
        let mut grant = match ring.try_reserve(CHUNK) {
            Ok(grant) => grant,
            Err(_full) => {
                let since = Instant::now();
                // Everything is in custody: wait until the kernel has let go of the oldest.
                let grant = ring.reserve(CHUNK).await?;
                waits += 1;
                waited += since.elapsed();
                grant
            }
        };
        grant.put_bytes(number as u8, CHUNK);
        sink.send(grant.commit()).await?;
        // ANCHOR_END: backpressure
        if number % 16 == 0 {
            let stats = ring.stats();
            println!(
                "{:>6.2} s  {}  {:>4} KiB in custody",
                start.elapsed().as_secs_f64(),
                bar(&stats),
                stats.leased >> 10
            );
        }
    }
    sink.close().await?;
    let end = sink.position().accepted;
    sink.released(end).await.map_err(io::Error::other)?;
    let received = reader.join().map_err(|_panic| io::Error::other("the reader panicked"))??;
    println!("{received} bytes received; the producer waited {waits} times, {:.2} s in all", waited.as_secs_f64());
    println!("ring free again: {} of {} bytes", ring.stats().free, ring.capacity());
    if received == TOTAL { Ok(()) } else { Err(io::Error::other("bytes were lost")) }
}

fn bar(stats: &zerosink::ring::RingStats) -> String {
    let full = stats.leased * 32 / stats.capacity.max(1);
    format!("[{}{}]", "#".repeat(full), ".".repeat(32 - full))
}

/// A stranger: checks that every chunk holds its own number.
fn slow_reader(listener: &TcpListener) -> io::Result<usize> {
    let mut stream = listener.accept()?.0;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(received);
        }
        for (i, byte) in buffer[..count].iter().enumerate() {
            if *byte != ((received + i) / CHUNK) as u8 {
                return Err(io::Error::other(format!("wrong byte at {}", received + i)));
            }
        }
        received += count;
        thread::sleep(REST);
    }
}
