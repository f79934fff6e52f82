//! Memory of rings as registered buffers.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use bytes::Bytes;
use zerosink::{mapped::MapOptions, prelude::*, region};

use crate::{
    harness::{self, Peer, Received, connection, runtime, sink_by, stream, until, within},
    missing, never_registers,
    support::events::Events,
    unaware::Unaware,
};

const RING: usize = 1 << 20;
const PIECE: usize = 64 << 10;

/// As on heap, and certainly in base pages, which an allocator's memory need not be.
fn heap() -> Ring {
    Ring::builder().build_on(Unaware(MapOptions::new().anonymous(RING).unwrap())).unwrap()
}

fn mapped(reuse: Reuse) -> Ring {
    Ring::builder().reuse(reuse).build_on(MapOptions::new().anonymous(RING).unwrap()).unwrap()
}

/// A piece of the stream in the ring.
fn lease(ring: &Ring, offset: u64) -> Bytes {
    let mut grant = ring.try_reserve(PIECE).unwrap();
    grant.as_mut_slice().copy_from_slice(&stream(offset, PIECE));
    grant.fill(PIECE).unwrap();
    grant.commit()
}

/// Whether an io_uring of this process has this memory registered, as the kernel says.
pub(crate) fn is_registered(address: usize) -> bool {
    let wanted = format!("{address:#x}/");
    let infos = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(Result::ok);
    // Other tests close theirs meanwhile.
    infos.filter_map(|info| fs::read_to_string(info.path()).ok()).any(|info| {
        let buffers = info.split_once("UserBufs:").map_or("", |(_, buffers)| buffers);
        buffers.lines().any(|line| line.contains(&wanted))
    })
}

/// The address of the ring that owns this memory.
pub(crate) fn start(memory: &[u8]) -> usize {
    region::locate(memory, |location| location.block.start).unwrap()
}

async fn close(mut sink: AutoSink, bytes: usize, peer: Peer<Received>) {
    within("close", sink.close()).await.unwrap();
    within("release", sink.released(bytes as u64)).await.unwrap();
    let stats = sink.stats();
    assert_eq!((stats.bytes_zero_copy, stats.pinned_bytes), (bytes as u64, 0), "{stats:?}");
    drop(sink);
    tokio::task::spawn_blocking(move || peer.finish().is_exactly(bytes)).await.unwrap();
}

async fn to_peer() -> (AutoSink, Peer<Received>) {
    let (socket, reader) = connection(None);
    let peer = Peer::reading(reader);
    peer.start();
    (sink_by(Mechanism::IoUring, socket).await, peer)
}

#[test]
fn a_ring_that_is_reused_in_place_is_registered_until_it_is_over_and_keeps_its_pages() {
    if never_registers("a_ring_that_is_reused_in_place_is_registered_until_it_is_over_and_keeps_its_pages") {
        return;
    }
    for ring in [heap(), mapped(Reuse::InPlace)] {
        runtime().block_on(async {
            let (mut sink, peer) = to_peer().await;
            let first = lease(&ring, 0);
            let address = start(&first);
            assert!(!is_registered(address));
            within("send", sink.send(first)).await.unwrap();
            assert!(is_registered(address));
            let second = lease(&ring, PIECE as u64);
            assert!(!region::give_away(&second), "the kernel would go on sending the old pages");
            within("send", sink.send(second)).await.unwrap();
            close(sink, 2 * PIECE, peer).await;
            assert!(is_registered(address), "the ring is not over");
            drop(ring);
            assert!(!is_registered(address), "memory of nobody is pinned");
        });
    }
}

#[test]
fn what_is_not_a_ring_in_place_is_not_registered() {
    if missing("what_is_not_a_ring_in_place_is_not_registered") {
        return;
    }
    for ring in [mapped(Reuse::FreshPages), mapped(Reuse::Immutable)] {
        runtime().block_on(async {
            let (mut sink, peer) = to_peer().await;
            let piece = lease(&ring, 0);
            let address = start(&piece);
            within("send", sink.send(piece)).await.unwrap();
            assert!(!is_registered(address));
            let heap = Bytes::from(stream(PIECE as u64, PIECE));
            let address = heap.as_ptr().addr();
            within("send", sink.send(heap)).await.unwrap();
            assert!(!is_registered(address));
            close(sink, 2 * PIECE, peer).await;
        });
    }
}

/// The kernel would send the pages of the ring that had the address before.
#[test]
fn rings_that_follow_each_other_at_one_address_send_their_own_bytes() {
    if never_registers("rings_that_follow_each_other_at_one_address_send_their_own_bytes") {
        return;
    }
    const RINGS: usize = 20;
    runtime().block_on(async {
        let (mut sink, peer) = to_peer().await;
        let mut addresses = Vec::new();
        for index in 0..RINGS {
            let ring = mapped(Reuse::InPlace);
            let piece = lease(&ring, (index * PIECE) as u64);
            addresses.push(start(&piece));
            within("send", sink.send(piece)).await.unwrap();
            assert!(is_registered(addresses[index]), "{index}");
            within("release", sink.released(((index + 1) * PIECE) as u64)).await.unwrap();
        }
        addresses.sort_unstable();
        addresses.dedup();
        assert!(addresses.len() < RINGS, "no address came twice: this shows nothing");
        close(sink, RINGS * PIECE, peer).await;
    });
}

#[test]
fn more_rings_than_can_be_registered_send_all_the_same() {
    if never_registers("more_rings_than_can_be_registered_send_all_the_same") {
        return;
    }
    const RINGS: usize = 20;
    runtime().block_on(async {
        let (mut sink, peer) = to_peer().await;
        let rings: Vec<_> = (0..RINGS).map(|_| mapped(Reuse::InPlace)).collect();
        let mut addresses = Vec::new();
        for (index, ring) in rings.iter().enumerate() {
            let piece = lease(ring, (index * PIECE) as u64);
            addresses.push(start(&piece));
            within("send", sink.send(piece)).await.unwrap();
        }
        assert_eq!(addresses.iter().filter(|address| is_registered(**address)).count(), 16);
        close(sink, RINGS * PIECE, peer).await;
        drop(rings);
        until("the end of all", || !addresses.iter().any(|address| is_registered(*address))).await;
    });
}

#[test]
fn without_lockable_memory_a_ring_is_sent_without_being_registered() {
    let name = "registered::without_lockable_memory_a_ring_is_sent_without_being_registered";
    if missing(name) {
        return;
    }
    if !harness::is_child() {
        if !rustix::process::geteuid().is_root() {
            return harness::skip(name, "it needs root, to become a user without privileges");
        }
        // By way of /proc, for that user may not be permitted to walk the path to this binary.
        let mut command = Command::new("/proc/self/exe");
        command.uid(65532).gid(65532).current_dir("/");
        return harness::run_child(command, name);
    }
    // Enough for a send, and not for the ring.
    let limit = rustix::process::Rlimit { current: Some(RING as u64 / 2), maximum: Some(RING as u64 / 2) };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).unwrap();
    let events = Events::recorded();
    let ring = mapped(Reuse::InPlace);
    runtime().block_on(async {
        let (mut sink, peer) = to_peer().await;
        for index in 0..4 {
            within("send", sink.send(lease(&ring, index * PIECE as u64))).await.unwrap();
        }
        assert_eq!(
            events.count(&["ring memory not registered", "bytes=1048576", "Cannot allocate"]),
            1,
            "{:?}",
            events.all()
        );
        close(sink, 4 * PIECE, peer).await;
    });
}

/// If the kernel said nothing, the others would prove nothing.
#[test]
fn control_the_kernel_tells_of_registered_memory() {
    if missing("control_the_kernel_tells_of_registered_memory") {
        return;
    }
    let mut memory = vec![0_u8; PIECE];
    let ring = io_uring::IoUring::new(4).unwrap();
    let iovec = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    assert!(!is_registered(memory.as_ptr().addr()));
    #[expect(unsafe_code, reason = "registers a buffer by hand")]
    // SAFETY: nothing is submitted that reads or writes it.
    unsafe { ring.submitter().register_buffers(&[iovec]) }.unwrap();
    assert!(is_registered(memory.as_ptr().addr()));
}
