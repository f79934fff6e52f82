//! TCP between two network namespaces.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use zerosink::{
    conformance::{Held, Link, Pair, tcp_pair},
    policy::Family,
};

use crate::wire::{self, conditions::Conditions, network, network::Network};

/// What is between them. All tests of this process share the two namespaces, except where packets are held.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Between {
    /// A pair of virtual devices, as between two containers: the kernel hands packets over by reference.
    Veth,
    /// A wire, on which everything is copied: what a peer has acknowledged it has.
    Wire,
    /// The same, and of a hundred frames one is lost, one comes twice, and two are overtaken.
    LossyWire,
}

type Shared = OnceLock<Result<Network, String>>;

impl Between {
    fn make(self) -> io::Result<Network> {
        if let Some(why) = wire::missing() {
            return Err(io::Error::other(why));
        }
        let lossy = Conditions { lose: 0.01, duplicate: 0.01, reorder: 0.02, ..Conditions::default() };
        let conditions = match self {
            Self::Veth => return Network::by_veth(),
            Self::Wire => Conditions::default(),
            Self::LossyWire => lossy,
        };
        let link = network::Link::both(conditions.delayed(Duration::from_millis(1))).small_frames();
        let network = Network::by_wire(link)?;
        network.resend_soon()?;
        Ok(network)
    }

    fn shared(self) -> Result<&'static Network, &'static str> {
        static NETWORKS: [Shared; 3] = [const { Shared::new() }; 3];
        let made = NETWORKS[self as usize].get_or_init(|| self.make().map_err(|error| error.to_string()));
        made.as_ref().map_err(String::as_str)
    }

    const fn device(self) -> &'static str {
        match self {
            Self::Veth => "veth0",
            Self::Wire | Self::LossyWire => Network::DEVICE,
        }
    }
}

fn connect(network: &Network, buffers: Option<usize>) -> io::Result<Pair> {
    let listener = network.listen()?;
    let address = listener.local_addr()?.into();
    network.near.run(|| tcp_pair(&listener, buffers, |near| near.connect(&address)))
}

/// Networks in which packets were held. A wire carries frames as long as it lives, so they live as long as the process.
static HELD: Mutex<Vec<Arc<Network>>> = Mutex::new(Vec::new());

impl Link for Between {
    fn family(&self) -> Family {
        Family::Tcp
    }

    fn connect(&self, buffers: Option<usize>) -> io::Result<Pair> {
        connect(self.shared().map_err(io::Error::other)?, buffers)
    }

    /// A few packets pass, then one in twelve seconds: the others wait in a token bucket filter.
    fn connect_held(&self) -> Option<io::Result<Held>> {
        let filter = |verb, rate| format!("qdisc {verb} dev {} root tbf {rate} limit 10000000", self.device());
        let (slow, fast) = (filter("add", "rate 1kbit burst 6000"), filter("change", "rate 10gbit burst 10000000"));
        let held = || {
            let network = Arc::new(self.make()?);
            HELD.lock().map_err(|_poisoned| io::Error::other("another test failed"))?.push(Arc::clone(&network));
            let pair = connect(&network, None)?;
            network.near.tc(&slow)?;
            Ok(Held { pair, gate: Box::new(move || network.near.tc(&fast)) })
        };
        Some(held())
    }

    fn missing(&self) -> Option<String> {
        self.shared().err().map(Into::into)
    }
}
