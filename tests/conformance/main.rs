//! The conformance kit, mounted by every backend on every link that it knows, and the broken backends that it must catch.

#[cfg(zerosink_linux)]
mod between;
mod broken;
#[cfg(zerosink_linux)]
mod memory;
#[cfg(zerosink_linux)]
#[path = "../wire/mod.rs"]
mod wire;
#[cfg(zerosink_linux)]
mod witness;

#[cfg(unix)]
use zerosink::conformance::UnixPair;
use zerosink::{
    backends,
    conformance::{Link, Mount, TcpLoopback},
};

/// A module of tests for each mount: every check has a name of its own.
macro_rules! mounts {
    ($($name:ident: $mount:expr;)+) => {
        $(mod $name {
            use super::*;
            zerosink::conformance_tests!($mount);
        })+
    };
}

fn copy(link: impl Link + 'static) -> Mount {
    let mount = Mount::new(backends::Copy, link);
    #[cfg(zerosink_linux)]
    let mount = mount.witness(witness::only_copy);
    mount
}

mounts! {
    copy_over_tcp_loopback: copy(TcpLoopback);
}

#[cfg(unix)]
mounts! {
    copy_over_unix: copy(UnixPair);
}

#[cfg(zerosink_linux)]
mod linux {
    use zerosink::{Path, SinkConfig};

    use super::*;
    use crate::between::Between;

    fn msg_zerocopy(link: impl Link + 'static) -> Mount {
        Mount::new(backends::MsgZerocopy, link).witness(witness::only_zero_copy)
    }

    fn splice(link: impl Link + 'static) -> Mount {
        Mount::new(backends::Splice, link).witness(witness::only_splice)
    }

    fn gift(link: impl Link + 'static) -> Mount {
        Mount::new(backends::Gift, link).ring(memory::fresh_pages).witness(witness::only_splice)
    }

    /// On the peer's word, which holds on a wire. The device is of this host: that the path is none of it is stated.
    fn splice_in_place(link: impl Link + 'static) -> Mount {
        splice(link).config(SinkConfig::new().trust_peer_acks().path(Path::OffHost))
    }

    mounts! {
        copy_over_veth: copy(Between::Veth).workers(2);
        msg_zerocopy_over_tcp_loopback: msg_zerocopy(TcpLoopback);
        msg_zerocopy_over_veth: msg_zerocopy(Between::Veth).workers(2);
        splice_of_fresh_pages_over_tcp_loopback: splice(TcpLoopback).ring(memory::fresh_pages);
        splice_of_fresh_pages_over_veth: splice(Between::Veth).ring(memory::fresh_pages).workers(2);
        splice_of_fresh_pages_over_unix: splice(UnixPair).ring(memory::fresh_pages);
        splice_of_a_memfd_over_tcp_loopback: splice(TcpLoopback).ring(memory::fresh_pages_of_a_memfd).workers(2);
        splice_of_a_memfd_over_unix: splice(UnixPair).ring(memory::fresh_pages_of_a_memfd).workers(2);
        splice_of_immutable_memory_over_tcp_loopback: splice(TcpLoopback).ring(memory::immutable).workers(2);
        splice_of_immutable_memory_over_unix: splice(UnixPair).ring(memory::immutable);
        splice_to_a_peer_that_copies: splice(UnixPair).config(SinkConfig::new().peer_copies());
        splice_in_place_over_a_wire: splice_in_place(Between::Wire).ring(memory::in_place);
        splice_of_a_memfd_in_place_over_a_lossy_wire:
            splice_in_place(Between::LossyWire).ring(memory::memfd_in_place).workers(2);
        msg_zerocopy_over_a_lossy_wire: msg_zerocopy(Between::LossyWire).workers(2);
        gift_over_tcp_loopback: gift(TcpLoopback);
        gift_over_veth: gift(Between::Veth).workers(2);
        gift_over_unix: gift(UnixPair).workers(2);
        gift_of_a_ring_in_place: gift(TcpLoopback).ring(memory::in_place);
    }

    #[cfg(zerosink_uring)]
    fn io_uring(link: impl Link + 'static) -> Mount {
        Mount::new(backends::IoUring, link).witness(witness::only_ring)
    }

    #[cfg(zerosink_uring)]
    mounts! {
        io_uring_over_tcp_loopback: io_uring(TcpLoopback);
        io_uring_over_veth: io_uring(Between::Veth).workers(2);
        io_uring_over_a_lossy_wire: io_uring(Between::LossyWire).workers(2);
    }
}
