//! Two hundred connections at once, of every size and speed, from another process. Every byte of every response is compared.
//!
//! In CI for seconds. For as long as one likes, on a quiet machine:
//!
//! ```text
//! ZEROSINK_LOAD_SECONDS=60 cargo test --release -p zerosink --test web load:: -- --nocapture
//! ```

use std::{
    io::Read as _,
    net::SocketAddr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use zerosink::{Mechanism, Ring, SinkConfig, body::BodyRing, body::Budget};

use crate::{
    client::Client,
    counting::{CountingListener, Counts},
    endings::cases,
    harness,
    secret::{self, Demand, Found, OWNERS, Random},
    support::poisoned_ring,
};

const CONNECTIONS: usize = 200;
const LARGEST: usize = 8 << 20;
const RING: usize = 16 << 20;

/// Where the clients find the servers, and until when they ask.
const SERVERS: &str = "ZEROSINK_LOAD_SERVERS";
const SECONDS: &str = "ZEROSINK_LOAD_SECONDS";

fn seconds() -> Duration {
    let asked = std::env::var(SECONDS).ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(asked.unwrap_or(2))
}

struct Server {
    mechanism: Option<Mechanism>,
    address: SocketAddr,
    counts: Arc<Counts>,
    ring: Ring,
}

/// One server for each mechanism, and one that chooses.
async fn servers() -> Vec<Server> {
    let in_place = poisoned_ring(RING);
    let mut servers = Vec::new();
    let chooses = (SinkConfig::new(), in_place.clone());
    for (config, ring) in cases().into_iter().chain([chooses]) {
        // Rings that are reused in place are one, so that whoever reads too late reads another server's bytes.
        let ring = match ring.reuse() {
            zerosink::Reuse::InPlace => in_place.clone(),
            _ => ring,
        };
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
        let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().chunk(32 << 10));
        let service = tower::service_fn(move |request| secret::respond(bodies.clone(), request));
        let mechanism = config.mechanism;
        tokio::spawn(zerosink::serve(listener, service).sink(config).into_future());
        servers.push(Server { mechanism, address, counts, ring });
    }
    servers
}

#[test]
fn two_hundred_clients_at_every_speed_get_their_own_bytes_and_no_others() {
    const NAME: &str = "load::two_hundred_clients_at_every_speed_get_their_own_bytes_and_no_others";
    if harness::is_child() {
        return clients();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let servers = servers().await;
        let addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
        let clients = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.env(SERVERS, addresses.join(" "));
            let output = harness::child(command, NAME);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
            said
        });
        let said = clients.await.unwrap();
        println!("{}", said.lines().find(|line| line.contains("responses")).expect("the clients' account"));
        harness::until("the end of all connections", || {
            servers.iter().map(|server| server.counts.stats().len()).sum::<usize>() == CONNECTIONS
        })
        .await;
        for Server { mechanism, counts, ring, .. } in servers {
            harness::until("every lease to come back", || ring.stats().leased + ring.stats().granted == 0).await;
            assert_eq!(ring.stats().quarantined, 0, "{mechanism:?}");
            if let Some(mechanism) = mechanism {
                let sent: u64 = counts.stats().iter().map(|stats| stats.sent[mechanism.index()]).sum();
                let all: u64 = counts.stats().iter().map(|stats| stats.sent.iter().sum::<u64>()).sum();
                println!("{mechanism}: {} MiB of {} MiB", sent >> 20, all >> 20);
                assert!(sent > all / 2, "{mechanism}: it sent {sent} of {all} bytes");
            }
        }
    });
}

/// How a client reads one response: so many bytes, then a pause.
struct Pace {
    bytes: usize,
    pause: Duration,
}

impl Pace {
    fn random(random: &mut Random) -> Self {
        let (bytes, millis) = match random.below(6) {
            0..3 => (64 << 10, 0),
            3 => (1 + random.below(5000), 0),
            4 => (256 << 10, 5 + random.below(20)),
            _ => (8 << 10, 1 + random.below(2)),
        };
        Self { bytes, pause: Duration::from_millis(millis as u64) }
    }
}

/// From nothing to the largest, most of them small; the borders more often than chance would have them.
fn random_size(random: &mut Random) -> usize {
    const BORDERS: [usize; 8] = [0, 1, 4095, 4096, 16 << 10, 32 << 10, (1 << 20) + 1, LARGEST];
    match random.below(8) {
        0 => BORDERS[random.below(BORDERS.len())],
        1..7 => {
            let magnitude = random.below(LARGEST.ilog2() as usize);
            random.below(2 << magnitude)
        }
        _ => random.below(LARGEST + 1),
    }
}

/// All clients, in a process of their own.
fn clients() {
    let servers: Vec<SocketAddr> =
        std::env::var(SERVERS).unwrap().split(' ').map(|address| address.parse().unwrap()).collect();
    let until = Instant::now() + seconds();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let server = servers[index % servers.len()];
            std::thread::spawn(move || client(server, index, until))
        })
        .collect();
    let (mut responses, mut largest, mut found) = (0, 0, Found::default());
    for client in clients {
        let (its_responses, its_largest, its_found) = client.join().expect("a client");
        assert!(its_responses > 0);
        responses += its_responses;
        largest = largest.max(its_largest);
        found += its_found;
    }
    assert_eq!(found.wrong(), 0, "{found:?}");
    assert!(largest > LARGEST / 2);
    println!("{responses} responses, {} MiB, the largest of {largest} bytes", found.right >> 20);
}

fn client(server: SocketAddr, index: usize, until: Instant) -> (usize, usize, Found) {
    let mut random = Random::new(index as u64 + 1);
    let owner = OWNERS[index % OWNERS.len()];
    let mut client = Client::connect(server);
    if random.below(3) == 0 {
        socket2::SockRef::from(client.stream.get_ref()).set_recv_buffer_size(32 << 10).unwrap();
    }
    let (mut responses, mut largest, mut found) = (0, 0, Found::default());
    let mut buffer = vec![0; 256 << 10];
    while responses == 0 || Instant::now() < until {
        let demand = Demand { owner, start: random.below(1 << 20), bytes: random_size(&mut random), breaks: None };
        let pace = Pace::random(&mut random);
        client.write(demand.request());
        let (status, headers) = client.head().unwrap();
        assert_eq!((status, headers["content-length"].as_str()), (200, demand.bytes.to_string().as_str()));
        let mut at = 0;
        while at < demand.bytes {
            let room = pace.bytes.min(demand.bytes - at);
            let read = client.stream.read(&mut buffer[..room]).unwrap();
            assert!(read > 0, "the response ended after {at} of {} bytes", demand.bytes);
            found += Found::of(owner, demand.start + at, &buffer[..read]);
            at += read;
            std::thread::sleep(pace.pause);
        }
        largest = largest.max(demand.bytes);
        responses += 1;
    }
    (responses, largest, found)
}
