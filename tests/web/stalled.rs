//! Clients that stop reading, on a ring that is small.

use std::time::{Duration, Instant};

use crate::{
    app::Order,
    client::Client,
    counting::CountingListener,
    endings::cases,
    harness::{self, within},
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
