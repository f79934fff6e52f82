//! Sinks made behind tower's own middleware.

use std::{
    future::{Future, Ready, pending, ready},
    io::{self, Read as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use tokio::net::TcpStream;
use tower::{Service, ServiceBuilder, ServiceExt, retry::Policy, service_fn, timeout::error::Elapsed};
use zerosink_adapters::tower::MakeSink;
use zerosink_backends::{AutoSink, By};
use zerosink_core::{IntoSink, Mechanism, SinkConfig, ZeroCopySink, ZeroCopySinkExt as _};

#[tokio::test]
async fn sinks_are_made_behind_a_timeout_and_a_limit_and_deliver() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let service = ServiceBuilder::new()
        .concurrency_limit(1)
        .timeout(Duration::from_secs(5))
        .service(MakeSink::<By>::new(SinkConfig::new()));
    let socket = TcpStream::connect(address).await.unwrap();
    let mut sink = service.oneshot(socket).await.unwrap();
    sink.send(vec![7; 100_000]).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(reader.join().unwrap(), vec![7; 100_000]);
}

#[tokio::test]
async fn a_refused_mechanism_is_the_services_error() {
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let service = MakeSink::<By>::new(SinkConfig::new().mechanism(Mechanism::MsgZerocopy));
    let error = service.oneshot(ours).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
}

/// A socket of which no sink is ever made, and which says when it is dropped.
struct Stuck(Arc<AtomicUsize>);

struct Ours;

impl IntoSink<Ours> for Stuck {
    type Sink = AutoSink;

    async fn into_sink(self, _config: SinkConfig) -> io::Result<AutoSink> {
        let _socket = self;
        pending().await
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_sink_that_takes_too_long_is_given_up_and_its_socket_closed() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let service =
        ServiceBuilder::new().timeout(Duration::from_millis(1)).service(MakeSink::<Ours>::new(SinkConfig::new()));
    let error = service.oneshot(Stuck(dropped.clone())).await.err().unwrap();
    assert!(error.is::<Elapsed>(), "{error}");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_limit_counts_sinks_in_the_making_and_no_longer() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut service = ServiceBuilder::new().concurrency_limit(1).service(MakeSink::<Ours>::new(SinkConfig::new()));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Service::<Stuck>::poll_ready(&mut service, &mut cx).is_ready());
    let making = service.call(Stuck(dropped.clone()));
    assert!(Service::<Stuck>::poll_ready(&mut service, &mut cx).is_pending());
    drop(making);
    assert!(matches!(Service::<Stuck>::poll_ready(&mut service, &mut cx), Poll::Ready(Ok(()))));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);

    // A sink that is made counts no more, however long it lives.
    let mut service = ServiceBuilder::new().concurrency_limit(1).service(MakeSink::<By>::new(SinkConfig::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sinks = Vec::new();
    for _ in 0..2 {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sinks.push(ServiceExt::<TcpStream>::ready(&mut service).await.unwrap().call(socket).await.unwrap());
    }
}

/// Tries again, as often as it says.
#[derive(Clone)]
struct Again(usize);

impl<T, E> Policy<SocketAddr, T, E> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut SocketAddr, outcome: &mut Result<T, E>) -> Option<Ready<()>> {
        self.0 = if outcome.is_err() { self.0.checked_sub(1)? } else { return None };
        Some(ready(()))
    }

    fn clone_request(&mut self, address: &SocketAddr) -> Option<SocketAddr> {
        Some(*address)
    }
}

/// Connects, but not the first `failures` times, and counts.
fn connector(
    failures: usize,
    tries: Arc<AtomicUsize>,
) -> impl FnMut(SocketAddr) -> std::pin::Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Clone {
    move |address| {
        let refused = tries.fetch_add(1, Ordering::SeqCst) < failures;
        Box::pin(async move {
            if refused { Err(io::ErrorKind::ConnectionRefused.into()) } else { TcpStream::connect(address).await }
        })
    }
}

#[tokio::test]
async fn a_retry_around_connecting_and_making_gets_a_sink() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (retries, made) in [(2, true), (1, false)] {
        let tries = Arc::new(AtomicUsize::new(0));
        let make = MakeSink::<By>::new(SinkConfig::new());
        let service = ServiceBuilder::new()
            .retry(Again(retries))
            .service(service_fn(connector(2, tries.clone())).and_then(move |socket| make.clone().oneshot(socket)));
        let outcome = service.oneshot(address).await;
        assert_eq!((outcome.is_ok(), tries.load(Ordering::SeqCst)), (made, retries + 1));
        let Ok(mut sink) = outcome else { continue };
        sink.send("hello").await.unwrap();
        sink.close().await.unwrap();
        let mut received = String::new();
        listener.accept().unwrap().0.read_to_string(&mut received).unwrap();
        assert_eq!((&*received, sink.position().accepted), ("hello", 5));
    }
}
