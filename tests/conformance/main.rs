//! The conformance kit, mounted by every backend on every link that it knows, and the broken backends that it must catch.

mod broken;
#[cfg(zerosink_linux)]
mod veth;
#[cfg(zerosink_linux)]
#[path = "../wire/mod.rs"]
mod wire;
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
mod copy_over_veth {
    use super::*;
    conformance_tests!(copy(veth::Veth).workers(2));
}

#[cfg(zerosink_linux)]
fn msg_zerocopy(link: impl zerosink::conformance::Link + 'static) -> Mount {
    Mount::new(backends::MsgZerocopy, link).witness(witness::only_zero_copy)
}

#[cfg(zerosink_linux)]
mod msg_zerocopy_over_tcp_loopback {
    use super::*;
    conformance_tests!(msg_zerocopy(TcpLoopback));
}

#[cfg(zerosink_linux)]
mod msg_zerocopy_over_veth {
    use super::*;
    conformance_tests!(msg_zerocopy(veth::Veth).workers(2));
}
