//! What a send in huge pages is charged to its socket: its bytes, and not the part of the huge page that lies before them.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use bytes::BufMut as _;
use io_uring::{IoUring, opcode, types::Fd};
use zerosink::{
    mapped::{MapOptions, MappedMemory, Pages},
    memory::Memory as _,
    prelude::*,
};

use crate::{
    harness::{self, connection, runtime, sink_by, within},
    missing,
    registered::{is_registered, start},
    unaware::Unaware,
};

const PIECE: usize = 64 << 10;
/// Fit into the send buffer and a little more than half of a huge page.
const PIECES: usize = 20;
const RING: usize = 4 << 20;

/// Huge pages, or `None`, and it is said.
fn huge(test: &str) -> Option<MappedMemory> {
    let memory = MapOptions::new().pages(Pages::Huge).anonymous(RING).unwrap();
    if memory.pages() != Pages::Huge {
        harness::skip(test, &format!("there are no huge pages here: {:?}", memory.fallbacks()));
        return None;
    }
    Some(memory)
}

/// Bytes of memory that the socket's send queue is charged (`SK_MEMINFO_WMEM_QUEUED`).
fn charged(socket: BorrowedFd<'_>) -> usize {
    let mut info = [0_u32; 9];
    let mut length = size_of_val(&info) as libc::socklen_t;
    let into = (&raw mut info).cast();
    #[expect(unsafe_code, reason = "libc alone has SO_MEMINFO")]
    // SAFETY: an array of plain numbers, and its size.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, into, &raw mut length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    info[5] as usize
}

fn sent_from_the_middle_of_huge_pages(ring: &Ring) {
    runtime().block_on(async {
        let (socket, _silent) = connection(None);
        let fd = socket.try_clone().unwrap();
        let mut sink = sink_by(Mechanism::IoUring, socket).await;
        for _ in 0..PIECES {
            let mut grant = ring.try_reserve(PIECE).unwrap();
            grant.put_bytes(1, PIECE);
            let piece = grant.commit();
            let address = start(&piece);
            within("send", sink.send(piece)).await.unwrap();
            assert!(!is_registered(address));
        }
        let stats = sink.stats();
        let by_reference = (stats.sent[Mechanism::IoUring.index()], stats.bytes_copied);
        assert_eq!(by_reference, ((PIECES * PIECE) as u64, 0), "{stats:?}");
        let charged = charged(fd.as_fd());
        assert!((PIECE..2 * PIECES * PIECE).contains(&charged), "{charged} for {} bytes", PIECES * PIECE);
    });
}

#[test]
fn a_ring_of_huge_pages_is_charged_what_it_sends() {
    let name = "charge::a_ring_of_huge_pages_is_charged_what_it_sends";
    if missing(name) {
        return;
    }
    let Some(memory) = huge(name) else { return };
    sent_from_the_middle_of_huge_pages(&Ring::builder().reuse(Reuse::InPlace).build_on(memory).unwrap());
}

#[test]
fn huge_pages_that_nobody_asked_for_are_found() {
    let name = "charge::huge_pages_that_nobody_asked_for_are_found";
    if missing(name) {
        return;
    }
    let Some(memory) = huge(name) else { return };
    sent_from_the_middle_of_huge_pages(&Ring::builder().build_on(Unaware(memory)).unwrap());
}

/// Why they are not registered: by hand, a few pieces of a registered huge page fill a send buffer.
#[test]
fn control_registered_huge_pages_are_charged_too_much() {
    let name = "charge::control_registered_huge_pages_are_charged_too_much";
    if missing(name) {
        return;
    }
    let Some(memory) = huge(name) else { return };
    let start = memory.as_ptr().as_ptr();
    #[expect(unsafe_code, reason = "registers a buffer by hand")]
    // SAFETY: all of the mapping, which nobody else reaches.
    unsafe {
        start.write_bytes(1, RING)
    };
    let (socket, _silent): (TcpStream, TcpStream) = connection(None);
    let mut ring = IoUring::new(4).unwrap();
    let iovec = libc::iovec { iov_base: start.cast(), iov_len: RING };
    #[expect(unsafe_code, reason = "registers a buffer by hand")]
    // SAFETY: the mapping outlives the io_uring's sends: nothing is freed before the sockets are closed.
    unsafe { ring.submitter().register_buffers(&[iovec]) }.unwrap();
    let mut sent = 0;
    for index in PIECES / 2..PIECES {
        let piece = start.wrapping_add(index * PIECE);
        let send = opcode::SendZc::new(Fd(socket.as_raw_fd()), piece, PIECE as u32).buf_index(Some(0));
        let send = send.flags(libc::MSG_DONTWAIT).build();
        #[expect(unsafe_code, reason = "submits by hand")]
        // SAFETY: a part of the registered mapping.
        unsafe { ring.submission().push(&send) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let results = ring.completion().filter(|entry| !io_uring::cqueue::notif(entry.flags()));
        sent += results.map(|entry| entry.result().max(0) as usize).sum::<usize>();
    }
    let charged = charged(socket.as_fd());
    assert!(charged > sent / 2 && sent > PIECE, "{charged} for {sent} bytes");
    if charged < 4 * sent {
        // One before 6.4, or one that has mended it: from there on huge pages may be registered.
        harness::skip(name, &format!("this kernel charges {charged} for {sent} bytes of huge pages"));
    }
}
