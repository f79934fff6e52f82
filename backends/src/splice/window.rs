//! How much an `AF_UNIX` socket's queue may hold, and how much of it one call fills.
//!
//! A full `AF_UNIX` socket becomes writable when three quarters of its send buffer are free (`unix_writable` in
//! `net/unix/af_unix.c`). A reader that copies 10 GB/s empties the quarter that is left of the default in 5 µs, in less time than it
//! takes to wake the writer, and then both sleep by turns. So the send buffer is enlarged, which costs the kernel nothing: the queue
//! refers to the sender's own pages. Each call makes a buffer that is freed only when its last byte was read, so that it is a small
//! part of the whole.

use std::{
    io::IoSlice,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::OnceLock,
};

use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};
use smallvec::SmallVec;
use zerosink_core::Segment;

/// Bytes that a send buffer is asked to hold. The kernel makes it twice that, for what it needs itself (socket(7)), and no more than
/// twice `net.core.wmem_max`, which is 208 KiB on many hosts.
const WANTED: usize = 1 << 20;
/// Bytes that one send refers to, at most. What a full socket does not take was referred to in vain.
pub(super) const MOST: usize = 256 << 10;
const SMALLEST: usize = 16 << 10;
const LARGEST: usize = 64 << 10;

/// Bytes of one call on this socket. A send buffer of the system's default size is enlarged, one that somebody chose stays.
#[cold]
pub(super) fn open(socket: BorrowedFd<'_>) -> usize {
    let Ok(mut buffer) = socket_send_buffer_size(socket) else { return SMALLEST };
    if default_send_buffer() == Some(buffer) && buffer < WANTED && set_socket_send_buffer_size(socket, WANTED).is_ok() {
        buffer = socket_send_buffer_size(socket).unwrap_or(buffer);
    }
    (buffer / 16 / 4096 * 4096).clamp(SMALLEST, LARGEST)
}

/// The first `most` bytes of segments.
pub(super) fn front<'a>(segments: &'a [Segment<'_>], most: usize) -> SmallVec<[IoSlice<'a>; 8]> {
    let mut left = most;
    let mut slices = SmallVec::new();
    for slice in segments.iter().map(Segment::as_slice) {
        if left == 0 {
            break;
        }
        let part = &slice[..slice.len().min(left)];
        left -= part.len();
        slices.push(IoSlice::new(part));
    }
    slices
}

/// What a new socket has. (`net.core.wmem_default` says so too, but not in every namespace.)
fn default_send_buffer() -> Option<usize> {
    static DEFAULT: OnceLock<Option<usize>> = OnceLock::new();
    *DEFAULT.get_or_init(|| socket_send_buffer_size(UnixStream::pair().ok()?.0).ok())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_send_buffer_of_the_default_size_is_enlarged_and_another_stays() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let default = socket_send_buffer_size(&ours).unwrap();
        let piece = open(ours.as_fd());
        let enlarged = socket_send_buffer_size(&ours).unwrap();
        assert!(enlarged >= 2 * default, "{default} and {enlarged} bytes");
        assert!((SMALLEST..=LARGEST).contains(&piece) && piece * 8 <= enlarged, "pieces of {piece} bytes");
        let (chosen, _theirs) = UnixStream::pair().unwrap();
        set_socket_send_buffer_size(&chosen, default / 4).unwrap();
        open(chosen.as_fd());
        assert_eq!(socket_send_buffer_size(&chosen).unwrap(), default / 2);
    }
}
