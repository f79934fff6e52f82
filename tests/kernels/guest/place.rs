//! The two ends of a path. This process is at the near end, and has been since it began; the far end is a namespace.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use zerosink::{
    conformance::{Held, Link, Pair, Socket, tcp_pair},
    policy::Family,
};
use zerosink_kernels::{
    Topology,
    topology::{Device, card_address},
};

use crate::wire::{namespace::Namespace, network::Network};

/// A path, built. It is gone with this process.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) topology: Topology,
    /// Whether it can hold packets on the way, for half a minute.
    pub(crate) holds_packets: bool,
    near: Namespace,
    far: Namespace,
    address: Ipv4Addr,
    /// What is between them.
    _node: Option<Namespace>,
    _cards: Vec<Card>,
}

/// The near end's device, where it has one.
const DEVICE: &str = "near0";
/// The network behind a node that routes.
const POD: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

impl Place {
    pub(crate) fn build(topology: Topology) -> io::Result<Self> {
        let near = Namespace::at("/proc/self/ns/net")?;
        let (mut far, mut address, mut node) = (Namespace::create()?, Network::FAR, None);
        let mut cards = Vec::new();
        match topology {
            Topology::Loopback | Topology::Unix => {
                far = near.clone();
                address = Ipv4Addr::LOCALHOST;
            }
            Topology::Veth => {
                near.ip(&format!("link add {DEVICE} type veth peer name far0 netns {}", far.path()))?;
                near.bring_up(DEVICE, Network::NEAR)?;
                far.bring_up("far0", Network::FAR)?;
            }
            Topology::VirtioTap | Topology::Ktls | Topology::Vmxnet3 | Topology::VirtioHub => {
                cards.push(Card::take(topology, 1, &near, DEVICE)?);
                cards.push(Card::take(topology, 2, &far, "far0")?);
                near.bring_up(DEVICE, Network::NEAR)?;
                far.bring_up("far0", Network::FAR)?;
            }
            Topology::PodRouted => {
                let between = pod(&near, POD)?;
                cards.push(Card::take(topology, 1, &between, "out0")?);
                cards.push(Card::take(topology, 2, &far, "far0")?);
                between.bring_up("pod0", GATEWAY)?;
                between.bring_up("out0", NODE)?;
                between.set("net/ipv4/ip_forward", "1")?;
                near.ip(&format!("route add default via {GATEWAY}"))?;
                far.bring_up("far0", Network::FAR)?;
                far.ip(&format!("route add {POD} via {NODE}"))?;
                node = Some(between);
            }
            Topology::PodBridged => {
                let between = pod(&near, Network::NEAR)?;
                cards.push(Card::take(topology, 1, &between, "out0")?);
                cards.push(Card::take(topology, 2, &far, "far0")?);
                bridge(&between, ["pod0", "out0"])?;
                far.bring_up("far0", Network::FAR)?;
                node = Some(between);
            }
            Topology::PodToPod => {
                let between = pod(&near, Network::NEAR)?;
                between.ip(&format!("link add pod1 type veth peer name far0 netns {}", far.path()))?;
                bridge(&between, ["pod0", "pod1"])?;
                far.bring_up("far0", Network::FAR)?;
                node = Some(between);
            }
        }
        Ok(Self { topology, holds_packets: false, near, far, address, _node: node, _cards: cards })
    }

    /// A listener at the far end.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        self.far.run(|| TcpListener::bind((self.address, 0)))
    }
}

/// A node, whose device `pod0` is the other side of the near end's.
fn pod(near: &Namespace, address: Ipv4Addr) -> io::Result<Namespace> {
    let node = Namespace::create()?;
    near.ip(&format!("link add {DEVICE} type veth peer name pod0 netns {}", node.path()))?;
    near.bring_up(DEVICE, address)?;
    Ok(node)
}

fn bridge(node: &Namespace, ports: [&str; 2]) -> io::Result<()> {
    node.ip("link add bridge0 type bridge")?;
    for port in ports {
        node.ip(&format!("link set {port} master bridge0 up"))?;
    }
    node.ip("link set bridge0 up")
}

/// A network card of the guest that is in a namespace for the time being.
#[derive(Debug)]
struct Card {
    namespace: Namespace,
    name: &'static str,
    /// What it is called where it was.
    own_name: String,
}

impl Card {
    /// Moves it from its first namespace into this one.
    fn take(topology: Topology, card: u8, into: &Namespace, name: &'static str) -> io::Result<Self> {
        const LIMIT: Duration = Duration::from_secs(15);
        let root = Namespace::at("/proc/1/ns/net")?;
        let address = topology.cards().map(|pair| card_address(pair, card)).ok_or(io::ErrorKind::NotFound)?;
        let start = Instant::now();
        // After a process that was killed it comes back when the kernel ends that one's namespaces.
        let device = loop {
            let links = root.run(|| Command::new("ip").args(["-o", "link"]).output())?;
            let links = String::from_utf8_lossy(&links.stdout).into_owned();
            let line = links.lines().find(|line| line.contains(&address));
            if let Some(device) = line.and_then(|line| line.split(": ").nth(1)) {
                break device.to_owned();
            }
            if start.elapsed() > LIMIT {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("no network card {address} in:\n{links}")));
            }
            thread::sleep(Duration::from_millis(20));
        };
        root.ip(&format!("link set {device} netns {}", into.path()))?;
        into.ip(&format!("link set {device} name {name}"))?;
        Ok(Self { namespace: into.clone(), name, own_name: device })
    }
}

impl Drop for Card {
    /// Back to where it was. The kernel would do it when it ends the namespace, but a socket that still tries to reach its peer keeps
    /// that for minutes.
    fn drop(&mut self) {
        let (name, own) = (self.name, &self.own_name);
        let renamed = self.namespace.ip(&format!("link set {name} down name {own}"));
        if let Err(error) = renamed.and_then(|()| self.namespace.ip(&format!("link set {own} netns 1"))) {
            eprintln!("{name} is not back: {error}");
        }
    }
}

impl Link for Place {
    fn family(&self) -> Family {
        if self.topology == Topology::Unix { Family::Unix } else { Family::Tcp }
    }

    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair> {
        if self.topology == Topology::Unix {
            let (near, far) = UnixStream::pair()?;
            if let Some(bytes) = buffers {
                socket2::SockRef::from(&near).set_send_buffer_size(bytes)?;
            }
            return Ok(Pair { near: Socket::Unix(near), far: Socket::Unix(far) });
        }
        let listener = self.listen()?;
        let address = listener.local_addr()?.into();
        tcp_pair(&listener, buffers, |near| near.connect(&address))
    }

    /// A few packets pass, then one in twelve seconds: the others wait in a token bucket filter before the near end's device.
    fn connect_held(&self) -> Option<io::Result<Held>> {
        if !self.holds_packets || matches!(self.topology.device(), Device::None | Device::Loopback) {
            return None;
        }
        let held = || {
            let pair = self.connect(None)?;
            queue(&self.near, "1kbit", 6000)?;
            let near = self.near.clone();
            Ok(Held { pair, gate: Box::new(move || queue(&near, "10gbit", 10_000_000)) })
        };
        Some(held())
    }
}

/// Makes what leaves by the near end's device wait for so many tokens.
fn queue(near: &Namespace, rate: &str, burst: u32) -> io::Result<()> {
    near.tc(&format!("qdisc replace dev {DEVICE} root tbf rate {rate} burst {burst} limit 10000000"))
}
