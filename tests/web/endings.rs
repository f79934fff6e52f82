//! Every way in which a response can end early: all memory comes back to the ring, and no byte is wrong until then.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    time::Duration,
};

use axum::{Router, extract::Request, routing::get};
use tokio::sync::oneshot;
use zerosink::{Ring, SinkConfig, axum::ZeroCopyListenerExt as _};

use crate::{
    app::Order,
    client::Client,
    counting::CountingListener,
    harness::{self, MECHANISMS, within},
    server::{Way, router},
    support::{self, poisoned_ring},
};

const RING: usize = 1 << 20;

/// Larger than the ring and what sockets take, so that the response cannot end by itself.
const ENDLESS: Order = Order::of(64 << 20).in_frames(64 << 10);

/// Each mechanism, with a ring of memory that it takes.
pub(crate) fn cases() -> Vec<(SinkConfig, Ring)> {
    cases_of(RING)
}

/// The same with rings of so many bytes.
pub(crate) fn cases_of(ring: usize) -> Vec<(SinkConfig, Ring)> {
    let cases = MECHANISMS.iter().map(|mechanism| (SinkConfig::new().mechanism(*mechanism), poisoned_ring(ring)));
    #[cfg(zerosink_linux)]
    let cases = cases.chain([spliced(ring)]);
    cases.collect()
}

#[cfg(zerosink_linux)]
fn spliced(ring: usize) -> (SinkConfig, Ring) {
    let memory = zerosink::mapped::MappedMemory::memfd(ring).unwrap();
    let ring = Ring::builder().reuse(zerosink::Reuse::FreshPages).poison(support::POISON).build_on(memory).unwrap();
    (SinkConfig::new().mechanism(zerosink::Mechanism::Splice), ring)
}

/// The server has nothing of the ring any more.
async fn comes_back(what: &str, ring: &Ring) {
    harness::until(&format!("{what}: every lease to come back"), || ring.stats().leased + ring.stats().granted == 0)
        .await;
    assert_eq!(ring.stats().quarantined, 0, "{what}");
}

/// Reads a part of the body, checks it, and has the connection.
fn read_some(address: SocketAddr, order: Order) -> Client {
    let mut client = Client::connect(address);
    client.ask(&order.path());
    assert_eq!(client.head().unwrap().0, 200);
    let mut some = vec![0; 1 << 20];
    client.stream.read_exact(&mut some).unwrap();
    Order::of(some.len()).check(&some);
    client
}

async fn client_goes<T: Send + 'static>(what: &str, go: impl Fn(Client) -> T + Copy + Send + 'static) {
    for way in Way::ALL {
        for (config, ring) in cases() {
            let what = format!("{what}, {way:?}, {:?}", config.mechanism);
            let listener = CountingListener::bind().await;
            let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
            let server = way.serve(listener, config, ring.clone());
            let client = tokio::task::spawn_blocking(move || go(read_some(address, ENDLESS)));
            let rest = within("the client", client).await.unwrap();
            harness::until("the server to notice", || counts.stats().len() == 1).await;
            comes_back(&what, &ring).await;
            drop(rest);
            server.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_in_mid_body_gives_everything_back() {
    client_goes("reset", |client| {
        socket2::SockRef::from(client.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_in_mid_body_gives_everything_back() {
    client_goes("close", drop).await;
}

/// hyper takes the end of the request stream in mid-body for nothing: the response goes on. The client then goes for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_no_more_and_goes_later_gives_everything_back() {
    client_goes("half-close", |client| {
        client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        drop(client);
    })
    .await;
}

async fn panics(request: Request) -> axum::response::Response {
    let ring = request.extensions().get::<Ring>().unwrap().clone();
    let _lease = support::lease(&ring, 0, 4096).await;
    panic!("a handler that panics with a lease (this is a test)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_ends_its_connection_and_no_other() {
    for by_axum in [true, false] {
        let ring = poisoned_ring(RING);
        let app = router(ring.clone()).route("/panic", get(panics)).layer(axum::Extension(ring.clone()));
        let listener = CountingListener::bind().await;
        let address = listener.address();
        let server = tokio::spawn(serve_either(by_axum, listener, app));
        let client = tokio::task::spawn_blocking(move || {
            let mut other = Client::connect(address);
            let order = Order::of(100_000);
            order.check(&other.get(&order.path()).body);
            let mut client = Client::connect(address);
            client.ask("/panic");
            assert_eq!(client.reply().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            order.check(&other.get(&order.path()).body);
        });
        within("the client", client).await.unwrap();
        comes_back("panic", &ring).await;
        server.abort();
    }
}

async fn serve_either(by_axum: bool, listener: CountingListener, app: Router) -> io::Result<()> {
    if by_axum {
        axum::serve(listener.zero_copy(SinkConfig::new()), app).await
    } else {
        zerosink::serve(listener, app).await
    }
}

/// The response is in the socket and in custody, the client has not read it, and the server closes the idle connection: the
/// client still gets every byte, and only then does the ring.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keep_alive_time_out_takes_no_byte_back() {
    for (config, ring) in cases() {
        let what = format!("{:?}", config.mechanism);
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
        let service_ring = ring.clone();
        let service = tower::service_fn(move |request| crate::app::respond(service_ring.clone(), request));
        let server = zerosink::serve(listener, service).sink(config).header_read_timeout(Duration::from_millis(100));
        let server = tokio::spawn(server.into_future());
        let order = Order::of(256 << 10);
        let client = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address);
            client.ask(&order.path());
            client
        });
        let mut client = client.await.unwrap();
        harness::until("the server to close", || counts.stats().len() == 1).await;
        let client = tokio::task::spawn_blocking(move || {
            order.check(&client.reply().unwrap().body);
            assert_eq!(client.reply().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
        within("the client", client).await.unwrap();
        comes_back(&what, &ring).await;
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graceful_shutdown_in_mid_body_lets_the_response_finish() {
    let order = Order::of(16 << 20).in_frames(64 << 10);
    for by_axum in [true, false] {
        for (config, ring) in cases() {
            let listener = CountingListener::bind().await;
            let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
            let (stop, stopped) = oneshot::channel::<()>();
            let signal = async move { drop(stopped.await) };
            let app = router(ring.clone());
            let what = format!("axum {by_axum}, {:?}", config.mechanism);
            let server = tokio::spawn(async move {
                if by_axum {
                    axum::serve(listener.zero_copy(config), app).with_graceful_shutdown(signal).await
                } else {
                    zerosink::serve(listener, app).sink(config).with_graceful_shutdown(signal).await
                }
            });
            let (idle, client) = tokio::task::spawn_blocking(move || {
                let mut idle = Client::connect(address);
                let small = Order::of(10);
                small.check(&idle.get(&small.path()).body);
                (idle, read_some(address, order))
            })
            .await
            .unwrap();
            stop.send(()).unwrap();
            harness::until("the idle connection to be closed", || counts.stats().len() == 1).await;
            assert!(!server.is_finished(), "{what}: a response is not finished");
            let client = tokio::task::spawn_blocking(move || {
                let mut client = client;
                let mut rest = Vec::new();
                client.stream.read_to_end(&mut rest).unwrap();
                assert_eq!(rest.len(), order.bytes - (1 << 20));
                assert!(std::net::TcpStream::connect(address).is_err(), "it still listens");
            });
            within("the client", client).await.unwrap();
            within("the server", server).await.unwrap().unwrap();
            comes_back(&what, &ring).await;
            drop(idle);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_its_deadline_a_graceful_shutdown_cuts_off_who_does_not_read() {
    for (config, ring) in cases() {
        let what = format!("{:?}", config.mechanism);
        let listener = CountingListener::bind().await;
        let address = listener.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = zerosink::serve(listener, router(ring.clone()))
            .sink(config)
            .stall_timeout(Duration::from_millis(500))
            .with_graceful_shutdown(async move { drop(stopped.await) })
            .shutdown_deadline(Duration::from_millis(100));
        let server = tokio::spawn(server.into_future());
        let client = tokio::task::spawn_blocking(move || read_some(address, ENDLESS)).await.unwrap();
        stop.send(()).unwrap();
        let error = within("the server", server).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().starts_with("1 connection"), "{error}");
        comes_back(&what, &ring).await;
        drop(client);
    }
}

/// In a process of its own, for descriptors of other tests would count.
#[cfg(target_os = "linux")]
#[test]
fn no_descriptor_is_left_open() {
    const NAME: &str = "endings::no_descriptor_is_left_open";
    if !harness::is_child() {
        return harness::run_child(std::process::Command::new(std::env::current_exe().unwrap()), NAME);
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    harness::runtime().block_on(async {
        for (config, ring) in cases() {
            let mut before = 0;
            for round in 0..60 {
                let listener = CountingListener::bind().await;
                let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
                let server = Way::ALL[round % 4].serve(listener, config.clone(), ring.clone());
                let client = tokio::task::spawn_blocking(move || {
                    let client = read_some(address, ENDLESS);
                    if round % 3 == 0 {
                        socket2::SockRef::from(client.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                });
                within("the client", client).await.unwrap();
                harness::until("the server to notice", || counts.stats().len() == 1).await;
                server.abort();
                assert!(within("the listener", server).await.unwrap_err().is_cancelled());
                comes_back("descriptors", &ring).await;
                if round == 9 {
                    // Whatever is opened once is open.
                    before = open();
                }
            }
            harness::until("the last descriptor to close", || open() <= before).await;
        }
    });
}
