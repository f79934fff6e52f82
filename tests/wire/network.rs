//! Two hosts and what is between them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use super::{
    conditions::Conditions,
    forwarder::Wire,
    namespace::Namespace,
    tap::{Offloads, Tap},
};

/// Two namespaces, each with one address, that reach each other.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) near: Namespace,
    pub(crate) far: Namespace,
    wire: Option<Wire>,
}

/// How two TAP devices are joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// From the near host to the far one.
    pub(crate) forth: Conditions,
    pub(crate) back: Conditions,
    /// With all of them a frame may have 64 KiB, which is the only way to be fast. A fate then hits 64 KiB at once.
    pub(crate) offloads: Offloads,
    /// The longest frame, offloads aside.
    pub(crate) mtu: u32,
}

impl Link {
    const MTU: u32 = 1500;

    /// The same both ways, but not the same fates.
    pub(crate) fn both(conditions: Conditions) -> Self {
        let back = Conditions { seed: !conditions.seed, ..conditions };
        Self { forth: conditions, back, offloads: Offloads::All, mtu: Self::MTU }
    }

    /// Frames of 1500 bytes, each with its own fate.
    pub(crate) fn small_frames(self) -> Self {
        Self { offloads: Offloads::Checksums, ..self }
    }

    /// Frames of 9000 bytes, each with its own fate.
    pub(crate) fn jumbo_frames(self) -> Self {
        Self { mtu: 9000, ..self.small_frames() }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::both(Conditions::default())
    }
}

impl Network {
    pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    /// The wire's end in either namespace.
    pub(crate) const DEVICE: &str = "wire0";

    /// Two TAP devices and a wire.
    ///
    /// TCP is as [`Namespace::tune_tcp`] makes it: delay times bandwidth fits into the window.
    pub(crate) fn by_wire(link: Link) -> io::Result<Self> {
        let (near, far) = (Namespace::create()?, Namespace::create()?);
        let end = |namespace: &Namespace, address| {
            let tap = Tap::open(namespace, Self::DEVICE, link.offloads)?;
            namespace.bring_up(Self::DEVICE, address)?;
            namespace.ip(&format!("link set {} mtu {}", Self::DEVICE, link.mtu))?;
            namespace.tune_tcp()?;
            io::Result::Ok(tap)
        };
        let ends = [end(&near, Self::NEAR)?, end(&far, Self::FAR)?];
        let wire = Wire::join(ends, [link.forth, link.back])?;
        Ok(Self { near, far, wire: Some(wire) })
    }

    /// A pair of virtual devices: the kernel hands packets over by reference, at once.
    pub(crate) fn by_veth() -> io::Result<Self> {
        let (near, far) = (Namespace::create()?, Namespace::create()?);
        near.ip(&format!("link add veth0 type veth peer name veth0 netns {}", far.path()))?;
        for (namespace, address) in [(&near, Self::NEAR), (&far, Self::FAR)] {
            namespace.bring_up("veth0", address)?;
            namespace.tune_tcp()?;
        }
        Ok(Self { near, far, wire: None })
    }

    /// Both hosts send again what was lost after a few milliseconds; the least is 200 otherwise, and a bad wire slow.
    pub(crate) fn resend_soon(&self) -> io::Result<()> {
        let route = |address| format!("dev {} scope link src {address} rto_min 5ms", Self::DEVICE);
        self.near.ip(&format!("route change 10.77.0.0/24 {}", route(Self::NEAR)))?;
        self.far.ip(&format!("route change 10.77.0.0/24 {}", route(Self::FAR)))
    }

    /// Segments that the near host has sent again.
    pub(crate) fn resent(&self) -> io::Result<u64> {
        self.near.tcp_counter("RetransSegs")
    }

    /// The wire of a network [`by_wire`](Self::by_wire).
    #[track_caller]
    pub(crate) fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("a network by veth has no wire")
    }

    /// The congestion control of new connections.
    pub(crate) fn congestion_control(&self) -> io::Result<String> {
        self.near.get("net/ipv4/tcp_congestion_control")
    }

    /// A listener on the far host.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        self.far.run(|| TcpListener::bind((Self::FAR, 0)))
    }

    /// A connection from the near host.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.near.run(|| TcpStream::connect(address))
    }

    /// A connection: its end on the near host, and its end on the far one.
    pub(crate) fn connection(&self) -> io::Result<(TcpStream, TcpStream)> {
        let listener = self.listen()?;
        let near = self.connect(listener.local_addr()?)?;
        Ok((near, listener.accept()?.0))
    }
}
