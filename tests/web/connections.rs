//! Connections that live longer than one response, and what travels on them beside bodies.

use std::io::{Read as _, Write as _};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    routing::{any, get, post},
};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use zerosink::{SinkConfig, axum::ZeroCopyListenerExt as _, hyper::client_address, tower::ZeroCopyLayer};

use crate::{
    app::Order,
    client::Client,
    counting::CountingListener,
    harness::{self, within},
    server::{Way, router},
    support::poisoned_ring,
};

/// Twenty of all kinds: small and large, out of the ring and off the heap, by length and in chunks.
fn twenty() -> Vec<Order> {
    const SIZES: [usize; 10] = [0, 1, 100, 4 << 10, 5000, 64 << 10, 100_000, 300, 1 << 20, 3];
    let mut orders = Vec::new();
    for (index, bytes) in SIZES.into_iter().cycle().take(20).enumerate() {
        let mut order = Order::of(bytes).chunked(index % 3 == 0);
        if index % 4 == 1 {
            order = order.heap();
        }
        if index % 5 == 2 {
            order = order.in_frames(7001);
        }
        orders.push(order);
    }
    orders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_requests_one_after_another_on_one_connection() {
    let ring = poisoned_ring(4 << 20);
    for way in Way::ALL {
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
        let server = way.serve(listener, SinkConfig::new(), ring.clone());
        let client = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address);
            for order in twenty() {
                order.check(&client.get(&order.path()).body);
            }
        });
        within("the client", client).await.unwrap();
        harness::until("the end of the connection", || counts.stats().len() == 1).await;
        server.abort();
    }
    harness::until("every lease to come back", || ring.stats().leased == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_pipelined_requests_are_answered_in_order() {
    let ring = poisoned_ring(4 << 20);
    for way in Way::ALL {
        let listener = CountingListener::bind().await;
        let address = listener.address();
        let server = way.serve(listener, SinkConfig::new(), ring.clone());
        let client = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address);
            for order in twenty() {
                client.ask(&order.path());
            }
            for order in twenty() {
                order.check(&client.reply().unwrap().body);
            }
        });
        within("the client", client).await.unwrap();
        server.abort();
    }
    harness::until("every lease to come back", || ring.stats().leased == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_follow_a_ring_body() {
    let ring = poisoned_ring(1 << 20);
    for way in Way::ALL {
        let listener = CountingListener::bind().await;
        let address = listener.address();
        let server = way.serve(listener, SinkConfig::new(), ring.clone());
        let client = tokio::task::spawn_blocking(move || {
            let order = Order::of(300_000).in_frames(64 << 10).trailer();
            let mut client = Client::connect(address);
            client.write(format!("GET {} HTTP/1.1\r\nhost: test\r\nte: trailers\r\n\r\n", order.path()));
            let reply = client.reply().unwrap();
            order.check(&reply.body);
            assert_eq!(reply.trailers.get("sum").map(String::as_str), Some("300000"), "{way:?}");
        });
        within("the client", client).await.unwrap();
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let app = Router::new().route("/", post(|body: Bytes| async move { body }));
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let server = tokio::spawn(zerosink::serve(listener, app).into_future());
    let client = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(address);
        client.write("POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 100000\r\n\r\n");
        assert_eq!(client.head().unwrap().0, 100);
        client.write(vec![3; 100_000]);
        assert_eq!(client.reply().unwrap().body, vec![3; 100_000]);
    });
    within("the client", client).await.unwrap();
    server.abort();
}

/// An upgraded connection echoes out of the ring, both directions at once, until the client closes its own.
async fn echo(mut request: Request) -> axum::response::Response {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
    });
    let response = axum::response::Response::builder().status(101).header("connection", "upgrade");
    response.header("upgrade", "echo").body(axum::body::Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_echoes_and_half_closes() {
    for by_axum in [true, false] {
        let app = Router::new().route("/", any(echo));
        let listener = CountingListener::bind().await;
        let address = listener.address();
        let server = tokio::spawn(async move {
            if by_axum {
                axum::serve(listener.zero_copy(SinkConfig::new()), app).await
            } else {
                zerosink::serve(listener, app).await
            }
        });
        let client = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address);
            client.write("GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
            assert_eq!(client.head().unwrap().0, 101);
            let sent = harness::stream(0, 2 << 20);
            let mut writer = client.stream.get_ref().try_clone().unwrap();
            let to_send = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&to_send).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            client.stream.read_to_end(&mut received).unwrap();
            writing.join().unwrap();
            assert!(received == sent, "{} bytes came back", received.len());
        });
        within("the client", client).await.unwrap();
        server.abort();
    }
}

#[tokio::test]
async fn handlers_learn_the_address_of_the_client() {
    async fn axum_says(ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>) -> String {
        peer.to_string()
    }
    async fn extension_says(request: Request) -> String {
        client_address::<std::net::SocketAddr>(request.extensions()).unwrap().to_string()
    }
    let app = Router::new().route("/axum", get(axum_says)).route("/extension", get(extension_says));
    let ask = |address, paths: &'static [&'static str]| {
        tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address);
            let own = client.stream.get_ref().local_addr().unwrap().to_string();
            for path in paths {
                assert_eq!(String::from_utf8(client.get(path).body).unwrap(), own, "{path}");
            }
        })
    };
    // axum::serve, tapped and not tapped.
    use axum::serve::ListenerExt as _;
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let service = app.clone().into_make_service_with_connect_info::<std::net::SocketAddr>();
    let server = tokio::spawn(axum::serve(listener.zero_copy(SinkConfig::new()), service).into_future());
    within("the client", ask(address, &["/axum"])).await.unwrap();
    server.abort();

    let (tell, told) = std::sync::mpsc::channel();
    let before = tell.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener
        .tap_io(move |socket: &mut tokio::net::TcpStream| {
            socket.set_nodelay(true).unwrap();
            before.send("before").unwrap();
        })
        .zero_copy(SinkConfig::new())
        .tap_io(move |_stream: &mut zerosink::hyper::ZeroCopyStream| tell.send("after").unwrap());
    let service = app.clone().into_make_service_with_connect_info::<std::net::SocketAddr>();
    let server = tokio::spawn(axum::serve(listener, service).into_future());
    within("the client", ask(address, &["/axum"])).await.unwrap();
    assert_eq!((told.recv().unwrap(), told.recv().unwrap()), ("before", "after"));
    server.abort();

    // With a layer around the app, of which axum makes a service for each connection, with the address and without.
    let around = ZeroCopyLayer::new().around(app.clone());
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let service =
        axum::ServiceExt::<Request>::into_make_service_with_connect_info::<std::net::SocketAddr>(around.clone());
    let server = tokio::spawn(axum::serve(listener.zero_copy(SinkConfig::new()), service).into_future());
    within("the client", ask(address, &["/axum"])).await.unwrap();
    server.abort();
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let server = tokio::spawn(axum::serve(listener.zero_copy(SinkConfig::new()), around).into_future());
    let unknown = tokio::task::spawn_blocking(move || Client::connect(address).get("/axum").status);
    assert_eq!(within("the client", unknown).await.unwrap(), 500, "nobody said it");
    server.abort();

    // serve says it in both ways.
    let listener = CountingListener::bind().await;
    let address = listener.address();
    let server = tokio::spawn(zerosink::serve(listener, app).into_future());
    within("the client", ask(address, &["/axum", "/extension"])).await.unwrap();
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_serve_the_same() {
    let directory = std::env::temp_dir().join(format!("zerosink-web-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for by_axum in [true, false] {
        let ring = poisoned_ring(4 << 20);
        let path = directory.join(if by_axum { "axum" } else { "serve" });
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let app = router(ring.clone());
        let server = tokio::spawn(async move {
            if by_axum {
                axum::serve(listener.zero_copy(SinkConfig::new()), app).await
            } else {
                zerosink::serve(listener, app).await
            }
        });
        let client = tokio::task::spawn_blocking(move || {
            let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
            socket.set_read_timeout(Some(harness::STEP)).unwrap();
            let order = Order::of(1 << 20).in_frames(64 << 10);
            write!(socket, "GET {} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n", order.path()).unwrap();
            let mut received = Vec::new();
            socket.read_to_end(&mut received).unwrap();
            let head = received.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            order.check(&received[head..]);
        });
        within("the client", client).await.unwrap();
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
        server.abort();
    }
    std::fs::remove_dir_all(directory).unwrap();
}
