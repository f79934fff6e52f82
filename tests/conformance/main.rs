//! The conformance kit, mounted by every backend on every link that it knows, and the broken backends that it must catch.

mod broken;
#[cfg(zerosink_linux)]
mod witness;

use zerosink::{
    backends,
    conformance::{Mount, TcpLoopback},
    conformance_tests,
};

fn copy(link: impl zerosink::conformance::Link + 'static) -> Mount {
    let mount = Mount::new(backends::Copy, link);
    #[cfg(zerosink_linux)]
    let mount = mount.witness(witness::only_copy);
    mount
}

mod copy_over_tcp_loopback {
    use super::*;
    conformance_tests!(copy(TcpLoopback));
}

#[cfg(unix)]
mod copy_over_unix {
    use super::*;
    conformance_tests!(copy(zerosink::conformance::UnixPair));
}

#[cfg(zerosink_linux)]
mod msg_zerocopy_over_tcp_loopback {
    use super::*;
    conformance_tests!(Mount::new(backends::MsgZerocopy, TcpLoopback).witness(witness::only_zero_copy));
}
