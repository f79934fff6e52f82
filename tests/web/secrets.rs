//! A small ring, and many clients with a secret each, who come and go as they like: no response has a byte of another's.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    time::Duration,
};

use zerosink::{
    Ring, SinkConfig,
    body::{BodyRing, Budget},
};

use crate::{
    client::Client,
    counting::CountingListener,
    endings::cases,
    harness::{self, within},
    secret::{self, Demand, Found, OWNERS, Random},
};

/// How a client behaves with one response.
#[derive(Debug, Clone, Copy)]
enum Manner {
    ReadsAll,
    /// Stops for a while, with all buffers full, and then reads the rest.
    Pauses,
    Resets,
    Closes,
    /// The server's own body fails in the middle.
    IsBrokenOff,
}

impl Manner {
    const ALL: [Self; 5] = [Self::ReadsAll, Self::Pauses, Self::Resets, Self::Closes, Self::IsBrokenOff];
}

/// Reads until `bytes` are there or the stream ends, one way or the other.
fn read_up_to(client: &mut Client, bytes: usize) -> Vec<u8> {
    let mut received = Vec::with_capacity(bytes);
    let end = client.stream.by_ref().take(bytes as u64).read_to_end(&mut received);
    let timed_out = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    assert!(!end.as_ref().is_err_and(timed_out), "the server hangs after {} bytes", received.len());
    received
}

/// One response on a connection of its own.
fn visit(server: SocketAddr, owner: u8, manner: Manner, random: &mut Random) -> Found {
    let bytes = (64 << 10) + random.below(512 << 10);
    let middle = random.below(bytes);
    let breaks = matches!(manner, Manner::IsBrokenOff).then_some(middle);
    let demand = Demand { owner, start: random.below(1 << 20), bytes, breaks };
    let mut client = Client::connect(server);
    socket2::SockRef::from(client.stream.get_ref()).set_recv_buffer_size(64 << 10).unwrap();
    client.write(demand.request());
    if client.head().is_err() {
        // A body that breaks off at once takes its head with it.
        assert!(breaks.is_some());
        return Found::default();
    }
    let first = match manner {
        Manner::ReadsAll => bytes,
        _ => middle,
    };
    let mut received = read_up_to(&mut client, first);
    match manner {
        Manner::ReadsAll => {}
        Manner::Pauses => {
            std::thread::sleep(Duration::from_millis(10));
            received.extend(read_up_to(&mut client, bytes - middle));
        }
        Manner::Resets => {
            socket2::SockRef::from(client.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        }
        Manner::Closes => drop(client),
        Manner::IsBrokenOff => received.extend(read_up_to(&mut client, bytes)),
    }
    if matches!(manner, Manner::ReadsAll | Manner::Pauses) {
        assert_eq!(received.len(), bytes, "{manner:?}");
    } else {
        assert!(received.len() < bytes, "{manner:?}");
    }
    Found::of(owner, demand.start, &received)
}

/// What all clients together find, each in its own thread, on a ring that is much too small for them.
async fn visits(config: SinkConfig, ring: &Ring, rounds: usize) -> Found {
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let bodies = BodyRing::new(ring.clone()).with_budget(Budget::new().chunk(16 << 10));
    let service = tower::service_fn(move |request| secret::respond(bodies.clone(), request));
    let server = tokio::spawn(zerosink::serve(listener, service).sink(config).into_future());
    let clients = OWNERS.map(|owner| {
        tokio::task::spawn_blocking(move || {
            let mut random = Random::new(owner.into());
            let mut found = Found::default();
            for round in 0..rounds {
                let manner = Manner::ALL[(usize::from(owner) + round) % Manner::ALL.len()];
                found += visit(address, owner, manner, &mut random);
            }
            found
        })
    });
    let mut found = Found::default();
    for client in clients {
        found += within("a client", client).await.unwrap();
    }
    server.abort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_ever_gets_a_byte_of_anothers() {
    for (config, ring) in cases() {
        let mechanism = config.mechanism;
        let found = visits(config, &ring, 15).await;
        assert_eq!(found.wrong(), 0, "{mechanism:?}: {found:?}");
        assert!(found.right > 10 << 20, "{mechanism:?}: {found:?}");
        harness::until("every lease to come back", || ring.stats().leased + ring.stats().granted == 0).await;
        assert_eq!(ring.stats().quarantined, 0, "{mechanism:?}");
    }
}

/// The same clients and the same ring, with the one word that takes the protection out: memory that is written again as soon as the
/// peer acknowledges it, though it is on this host.
#[cfg(zerosink_linux)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_misplaced_trust_shows_them_each_others() {
    use zerosink::{Mechanism, Path};

    let config = SinkConfig::new().mechanism(Mechanism::Splice).trust_peer_acks().path(Path::OffHost);
    let ring = crate::support::poisoned_ring(1 << 20);
    let mut found = Found::default();
    while found.foreign == 0 {
        found += visits(config.clone(), &ring, 5).await;
        assert!(found.right < 1 << 30, "{found:?}");
    }
}
