//! From how many bytes on zero-copy pays, measured on this host.
//!
//! A zero-copy send saves the copy, which costs by the byte, and adds pinning, bookkeeping and the notification, which
//! cost by the call and by the page. Both are measured on a loopback connection with one reader: the added cost directly,
//! as the difference between zero-copy and plain sends of one byte; the copy as the slope between two sizes of plain send.

use std::{
    io::{self, IoSlice, Read},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use crate::{probe, sys};

/// Answers outside of this are a disturbed measurement.
const LEAST: usize = 8 << 10;
const MOST: usize = 128 << 10;
/// If nothing can be measured: what `Documentation/networking/msg_zerocopy.rst` states as the usual break-even.
const DOCUMENTED: usize = 10 << 10;

const ROUNDS: usize = 24;
const SMALL: usize = 1;
const LARGE: usize = 64 << 10;

/// Sends of fewer bytes should be copied.
pub(crate) fn copy_threshold() -> usize {
    match measure() {
        Ok(bytes) => {
            let threshold = bytes.clamp(LEAST, MOST);
            tracing::debug!(threshold, measured = bytes, "copy threshold calibrated");
            threshold
        }
        Err(error) => {
            tracing::warn!(%error, "copy threshold could not be measured");
            DOCUMENTED
        }
    }
}

fn measure() -> io::Result<usize> {
    let (client, mut server) = probe::loopback_pair()?;
    client.set_nodelay(true)?;
    server.set_read_timeout(Some(Duration::from_secs(1)))?;
    sys::socket::set_zerocopy(client.as_fd())?;
    let block = vec![0u8; LARGE];
    let mut scratch = vec![0u8; LARGE];
    let mut time = |bytes: usize, zerocopy: bool| -> io::Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let spent = one(&client, &block[..bytes], zerocopy, &mut server, &mut scratch)?;
            best = best.min(spent);
        }
        Ok(best)
    };
    let plain = time(SMALL, false)?;
    let zerocopy = time(SMALL, true)?;
    let large = time(LARGE, false)?;
    let added = zerocopy.saturating_sub(plain).as_nanos() as f64;
    let per_byte = large.saturating_sub(plain).as_nanos() as f64 / LARGE as f64;
    if per_byte <= 0.0 {
        return Err(io::Error::other("a larger send took no longer than a small one"));
    }
    Ok((added / per_byte) as usize)
}

/// The time of one send call, with reading its notification if it has one; the reader's time does not count.
fn one(
    client: &TcpStream,
    data: &[u8],
    zerocopy: bool,
    server: &mut TcpStream,
    scratch: &mut [u8],
) -> io::Result<Duration> {
    let start = Instant::now();
    let slices = [IoSlice::new(data)];
    let sent = if zerocopy {
        sys::socket::send_zerocopy(client.as_fd(), &slices)?
    } else {
        sys::socket::send(client.as_fd(), &slices, false)?
    };
    let mut spent = start.elapsed();
    server.read_exact(&mut scratch[..sent])?;
    if zerocopy {
        let start = Instant::now();
        sys::errqueue::drain(client.as_fd(), |_| {})?;
        spent += start.elapsed();
    }
    Ok(spent)
}
