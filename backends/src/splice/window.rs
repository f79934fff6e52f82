//! How much of an `AF_UNIX` socket's queue one call fills.
//!
//! A full `AF_UNIX` socket becomes writable when three quarters of its send buffer are free (`unix_writable` in
//! `net/unix/af_unix.c`), and each call makes a buffer that is freed only when its last byte was read. With the default
//! send buffer and 64 KiB a call, four calls fill it, and then writer and reader take turns instead of working side by side. Twice the
//! send buffer, and a sixteenth of it a call, keep both busy.

use std::{fs, os::fd::BorrowedFd, sync::OnceLock};

use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};

const SMALLEST: usize = 16 << 10;
const LARGEST: usize = 64 << 10;

/// Bytes of one call on this socket. A send buffer of the system's default size is doubled, one that somebody chose stays.
pub(super) fn piece(socket: BorrowedFd<'_>) -> usize {
    let Ok(mut buffer) = socket_send_buffer_size(socket) else { return SMALLEST };
    if default_send_buffer() == Some(buffer)
        // The kernel takes twice what it is told (socket(7)), up to twice `net.core.wmem_max`.
        && set_socket_send_buffer_size(socket, buffer).is_ok()
    {
        buffer = socket_send_buffer_size(socket).unwrap_or(buffer);
    }
    (buffer / 16 / 4096 * 4096).clamp(SMALLEST, LARGEST)
}

fn default_send_buffer() -> Option<usize> {
    static DEFAULT: OnceLock<Option<usize>> = OnceLock::new();
    *DEFAULT.get_or_init(|| fs::read_to_string("/proc/sys/net/core/wmem_default").ok()?.trim().parse().ok())
}
