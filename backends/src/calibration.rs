//! From how many bytes on zero-copy pays, measured on this host.
//!
//! A zero-copy send saves the copy, which costs by the byte, and adds to the call: references and bookkeeping, and where the
//! kernel notifies, pins and a message. Both are measured on a loopback connection: what is added directly, as the difference
//! between sends of one byte; the copy as the slope between two sizes of plain send. Where the
//! reader is on this host it gains as much as the sender by a reference, for it finds pages that no other core has just written:
//! the copy counts twice then (`benches/ladder` shows it; with one thread, as here, both ends have the same warm cache).

use std::{
    io::{self, IoSlice, Read as _},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use zerosink_core::{Support, policy::Thresholds};

use crate::{
    probe,
    splice::{How, Pipe},
    sys::{self, splice::NoSigpipe},
};

/// Answers outside of this are a disturbed measurement.
const LEAST: usize = 4 << 10;
const MOST: usize = 128 << 10;
/// If nothing can be measured: what `Documentation/networking/msg_zerocopy.rst` states as the usual break-even.
const DOCUMENTED: usize = 10 << 10;

const ROUNDS: usize = 24;
const LARGE: usize = 64 << 10;

/// How a send is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Copied,
    Notified,
    Referred,
}

/// Sends of fewer bytes should be copied.
pub(crate) fn thresholds() -> Thresholds {
    let mut thresholds = Thresholds::all(DOCUMENTED);
    match Host::new() {
        Ok(mut host) => {
            thresholds.notified = host.threshold(Way::Notified, &probe::msg_zerocopy());
            thresholds.referred = host.threshold(Way::Referred, &probe::splice());
        }
        Err(error) => tracing::warn!(%error, "copy thresholds could not be measured"),
    }
    tracing::debug!(?thresholds, "copy thresholds calibrated");
    thresholds
}

/// A connection of our own, with one reader: this thread.
struct Host {
    client: TcpStream,
    server: TcpStream,
    block: Vec<u8>,
    scratch: Vec<u8>,
}

impl Host {
    fn new() -> io::Result<Self> {
        let (client, server) = probe::loopback_pair()?;
        client.set_nodelay(true)?;
        server.set_read_timeout(Some(Duration::from_secs(1)))?;
        if let Err(error) = sys::socket::set_zerocopy(client.as_fd()) {
            tracing::debug!(%error, "no zero-copy to measure");
        }
        Ok(Self { client, server, block: vec![0; LARGE], scratch: vec![0; LARGE] })
    }

    fn threshold(&mut self, way: Way, support: &Support) -> usize {
        match support {
            Support::Yes => {}
            Support::No(_) => return usize::MAX,
            // Descriptors may come back, and this answer is kept.
            Support::Unknown(_) => return DOCUMENTED,
        }
        match self.measure(way) {
            Ok(bytes) => bytes.clamp(LEAST, MOST),
            Err(error) => {
                tracing::warn!(?way, %error, "copy threshold could not be measured");
                DOCUMENTED
            }
        }
    }

    /// The bytes whose copy costs as much as this way adds to a call.
    fn measure(&mut self, way: Way) -> io::Result<usize> {
        let plain = self.best(Way::Copied, 1)?;
        let added = (self.best(way, 1)? - plain).max(0.0);
        let copies = if way == Way::Referred { 2.0 } else { 1.0 };
        let per_byte = copies * (self.best(Way::Copied, LARGE)? - plain) / LARGE as f64;
        if per_byte <= 0.0 {
            return Err(io::Error::other("a larger send took no longer than a small one"));
        }
        Ok((added / per_byte) as usize)
    }

    /// The best of some rounds, in nanoseconds: what disturbs only adds.
    fn best(&mut self, way: Way, bytes: usize) -> io::Result<f64> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(self.time(way, bytes)?);
        }
        Ok(best.as_nanos() as f64)
    }

    /// The time of one send, with reading its notification if it has one; the reader's time does not count.
    fn time(&mut self, way: Way, bytes: usize) -> io::Result<Duration> {
        let slices = [IoSlice::new(&self.block[..bytes])];
        let start = Instant::now();
        let sent = match way {
            Way::Copied => sys::socket::send(self.client.as_fd(), &slices, false)?,
            Way::Notified => sys::socket::send_zerocopy(self.client.as_fd(), &slices)?,
            Way::Referred => {
                let _quiet = NoSigpipe::new();
                Pipe::take()?.carry(&slices, self.client.as_fd(), How::PLAIN)?.bytes
            }
        };
        let mut spent = start.elapsed();
        self.server.read_exact(&mut self.scratch[..sent])?;
        if way == Way::Notified {
            let start = Instant::now();
            sys::errqueue::drain(self.client.as_fd(), |_| {})?;
            spent += start.elapsed();
        }
        Ok(spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_can_be_measured() {
        let Thresholds { notified, referred } = thresholds();
        for bytes in [notified, referred] {
            assert!((LEAST..=MOST).contains(&bytes) || bytes == usize::MAX, "{bytes}");
        }
    }
}
