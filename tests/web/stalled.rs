//! Clients that stop reading, on a ring that is small.

use std::time::{Duration, Instant};

use zerosink::body::{BodyRing, Budget};

use crate::{
    app::Order,
    client::Client,
    counting::CountingListener,
    endings::cases,
    harness::{self, within},
    secret::{self, Demand, Found, OWNERS},
    server::router,
};

const GOOD: usize = 6;
const STALLED: usize = 3;

/// The stalled ones hold the whole ring, so that nobody else gets anything, until they are cut off. Then the good ones finish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_clients_finish_because_stalled_ones_are_cut_off() {
    let stall = Duration::from_millis(700);
    for (config, ring) in cases() {
        let what = format!("{:?}", config.mechanism);
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
        let server = zerosink::serve(listener, router(ring.clone())).sink(config).stall_timeout(stall);
        let server = tokio::spawn(server.into_future());
        let endless = Order::of(256 << 20).in_frames(64 << 10);
        let stalled = tokio::task::spawn_blocking(move || {
            let clients = (0..STALLED).map(|_| {
                let mut client = Client::connect(address);
                client.ask(&endless.path());
                client
            });
            clients.collect::<Vec<_>>()
        });
        let stalled = stalled.await.unwrap();
        // Each has a full socket, or the ring is empty: nobody asks for more.
        let start = Instant::now();
        let good: Vec<_> = (0..GOOD)
            .map(|index| {
                tokio::task::spawn_blocking(move || {
                    let order = Order::of((1 << 20) + index * 1000).in_frames(64 << 10);
                    order.check(&Client::connect(address).get(&order.path()).body);
                })
            })
            .collect();
        for client in good {
            within(&what, client).await.unwrap();
        }
        harness::until("everybody to be gone", || counts.stats().len() == GOOD + STALLED).await;
        assert!(start.elapsed() >= stall, "{what}: cut off after {:?}", start.elapsed());
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
        for mut client in stalled {
            let cut = tokio::task::spawn_blocking(move || client.reply().unwrap_err().kind());
            let kind = within("a stalled client", cut).await.unwrap();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{what}");
        }
        server.abort();
    }
}

/// As many stalled ones as the ring can bear, and nobody is cut off: `ring > stalled × (budget + cap)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_clients_finish_beside_as_many_stalled_ones_as_the_ring_withstands() {
    const CAP: usize = 64 << 10;
    let budget = Budget::new().leases(2).chunk(32 << 10);
    for (config, ring) in cases() {
        let what = format!("{:?}", config.mechanism);
        let stalled = budget.stalled(ring.capacity(), CAP);
        assert_eq!(stalled, 7, "1 MiB is not more than 8 × 128 KiB");
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
        let bodies = BodyRing::new(ring.clone()).with_budget(budget);
        let service = tower::service_fn(move |request| secret::respond(bodies.clone(), request));
        let config = config.max_pinned_bytes(CAP as u64);
        let server = tokio::spawn(zerosink::serve(listener, service).sink(config).into_future());
        let ask = move |owner, bytes| {
            let mut client = Client::connect(address);
            client.write(Demand { owner, start: 0, bytes, breaks: None }.request());
            assert_eq!(client.head().unwrap().0, 200);
            client
        };
        let stalled: Vec<_> =
            tokio::task::spawn_blocking(move || (0..stalled).map(|index| ask(OWNERS[index], 256 << 20)).collect())
                .await
                .unwrap();
        let good: Vec<_> = OWNERS[OWNERS.len() - GOOD..]
            .iter()
            .map(|&owner| {
                tokio::task::spawn_blocking(move || {
                    let (mut client, mut body) = (ask(owner, 2 << 20), vec![0; 2 << 20]);
                    std::io::Read::read_exact(&mut client.stream, &mut body).unwrap();
                    assert_eq!(Found::of(owner, 0, &body).wrong(), 0);
                })
            })
            .collect();
        for client in good {
            within(&what, client).await.unwrap();
        }
        harness::until("the good ones to be gone", || counts.stats().len() == GOOD).await;
        let most = stalled.len() * (budget.bytes() + CAP);
        harness::until("the stalled ones alone to hold something", || ring.stats().leased <= most).await;
        drop(stalled);
        harness::until("everything to come back", || ring.stats().leased + ring.stats().granted == 0).await;
        server.abort();
    }
}
