//! TCP over veth between two network namespaces, as between two containers: the kernel hands packets over by reference.

use std::{
    io,
    process::Command,
    sync::{Arc, OnceLock},
};

use zerosink::{
    conformance::{Held, Link, Pair, tcp_pair},
    policy::Family,
};

use crate::wire::{self, namespace::Namespace, network::Network};

/// The link. All tests of this process share the two namespaces, except where packets are held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Veth;

fn shared() -> Result<&'static Network, &'static str> {
    static NETWORK: OnceLock<Result<Network, String>> = OnceLock::new();
    let make = || {
        let made = wire::missing().map_or_else(Network::by_veth, |why| Err(io::Error::other(why)));
        made.map_err(|error| error.to_string())
    };
    NETWORK.get_or_init(make).as_ref().map_err(String::as_str)
}

fn connect(network: &Network, buffers: Option<usize>) -> io::Result<Pair> {
    let listener = network.listen()?;
    let address = listener.local_addr()?.into();
    network.near.run(|| tcp_pair(&listener, buffers, |near| near.connect(&address)))
}

/// Runs `tc qdisc`, which only takes the end of what leaves the near host.
fn queue(near: &Namespace, arguments: &str) -> io::Result<()> {
    let output = near.run(|| Command::new("tc").arg("qdisc").args(arguments.split_whitespace()).output())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("tc qdisc {arguments}: {}", said.trim())))
    }
}

impl Link for Veth {
    fn family(&self) -> Family {
        Family::Tcp
    }

    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair> {
        connect(shared().map_err(io::Error::other)?, buffers)
    }

    /// A few packets pass, then one in twelve seconds: the others wait in a token bucket filter.
    fn connect_held(&self) -> Option<io::Result<Held>> {
        let held = || {
            let network = Arc::new(Network::by_veth()?);
            let pair = connect(&network, None)?;
            queue(&network.near, "add dev veth0 root tbf rate 1kbit burst 6000 limit 10000000")?;
            let open =
                move || queue(&network.near, "change dev veth0 root tbf rate 10gbit burst 10000000 limit 10000000");
            Ok(Held { pair, gate: Box::new(open) })
        };
        Some(held())
    }

    fn missing(&self) -> Option<String> {
        shared().err().map(Into::into)
    }
}
