//! What this backend rests on, asked of the kernel alone.
#![expect(unsafe_code, reason = "submissions point to memory")]

use std::{
    io::Read as _,
    net::TcpStream,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    thread,
    time::Instant,
};

use io_uring::{IoUring, cqueue, opcode, types::Fd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    harness::{SMALL, STEP, connection},
    missing,
};

const BYTES: usize = 1 << 20;
const WAIT_ALL: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// `IORING_SEND_ZC_REPORT_USAGE` and `IORING_NOTIF_USAGE_ZC_COPIED`.
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;

static MEMORY: [u8; BYTES] = [0x5a; BYTES];

/// Submits a zero-copy send of all of it.
fn send(ring: &mut IoUring, socket: &TcpStream, flags: i32) {
    let send = opcode::SendZc::new(Fd(socket.as_raw_fd()), MEMORY.as_ptr(), BYTES as u32);
    let entry = send.flags(flags).zc_flags(REPORT_USAGE).build();
    // SAFETY: the memory is static.
    unsafe { ring.submission().push(&entry) }.unwrap();
    assert_eq!(ring.submit().unwrap(), 1);
}

/// The next completion: the result, and the flags. `None` if there is none within so long.
fn completion(ring: &mut IoUring, limit: std::time::Duration) -> Option<(i32, u32)> {
    let start = Instant::now();
    loop {
        if let Some(entry) = ring.completion().next() {
            return Some((entry.result(), entry.flags()));
        }
        let left = limit.checked_sub(start.elapsed())?;
        // SAFETY: the ring owns the descriptor and outlives the call.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        // The kernel interrupts a thread to have it deliver its completions.
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&Timespec::try_from(left).unwrap())).ok();
    }
}

#[test]
fn a_non_blocking_socket_does_not_end_a_send_that_waits_for_all() {
    if missing("a_non_blocking_socket_does_not_end_a_send_that_waits_for_all") {
        return;
    }
    for flags in [libc::MSG_NOSIGNAL, WAIT_ALL] {
        let (socket, mut reader) = connection(SMALL);
        socket.set_nonblocking(true).unwrap();
        let mut ring = IoUring::new(4).unwrap();
        send(&mut ring, &socket, flags);
        if flags == WAIT_ALL {
            assert!(ring.completion().next().is_none(), "it waits for room");
            let peer = thread::spawn(move || reader.read_exact(&mut vec![0; BYTES]).unwrap());
            assert_eq!(completion(&mut ring, STEP).unwrap().0, BYTES as i32);
            peer.join().unwrap();
        } else {
            let (result, _) = completion(&mut ring, STEP).unwrap();
            assert!(0 < result && result < BYTES as i32, "{result}");
        }
    }
}

#[test]
fn the_end_of_the_submitting_thread_ends_its_sends_short() {
    if missing("the_end_of_the_submitting_thread_ends_its_sends_short") {
        return;
    }
    let (socket, _reader) = connection(SMALL);
    let mut ring = IoUring::new(4).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| send(&mut ring, &socket, WAIT_ALL));
    });
    let (result, flags) = completion(&mut ring, STEP).unwrap();
    assert!(0 < result && result < BYTES as i32, "{result}");
    assert!(cqueue::more(flags), "what was sent is still pinned");
}

#[test]
fn aborting_a_connection_ends_the_sends_that_wait_for_room() {
    if missing("aborting_a_connection_ends_the_sends_that_wait_for_room") {
        return;
    }
    let (socket, _reader) = connection(SMALL);
    let mut ring = IoUring::new(4).unwrap();
    send(&mut ring, &socket, WAIT_ALL);
    assert!(ring.completion().next().is_none(), "it waits for room");
    rustix::net::connect_unspec(&socket).unwrap();
    let (result, flags) = completion(&mut ring, STEP).unwrap();
    assert!(result < BYTES as i32, "{result}");
    if cqueue::more(flags) {
        assert!(cqueue::notif(completion(&mut ring, STEP).unwrap().1));
    }
}

/// So a notification is nobody's proof that something was sent, and an error is none that nothing is pinned.
#[test]
fn a_send_that_fails_may_have_a_notification_which_says_that_it_was_copied() {
    if missing("a_send_that_fails_may_have_a_notification_which_says_that_it_was_copied") {
        return;
    }
    let (socket, reader) = connection(SMALL);
    socket2::SockRef::from(&reader).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(reader);
    let mut hung_up = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut hung_up, Some(&Timespec::try_from(STEP).unwrap())).unwrap(), 1, "the reset is here");
    let mut ring = IoUring::new(4).unwrap();
    send(&mut ring, &socket, WAIT_ALL);
    let (result, flags) = completion(&mut ring, STEP).unwrap();
    assert!([-libc::ECONNRESET, -libc::EPIPE].contains(&result), "{result}");
    assert!(cqueue::more(flags));
    let (result, flags) = completion(&mut ring, STEP).unwrap();
    assert!(cqueue::notif(flags) && result as u32 & COPIED != 0, "{result:#x}");
}
