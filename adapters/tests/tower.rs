//! Sinks made behind tower's own middleware.

use std::{io::Read as _, net::TcpListener, thread, time::Duration};

use tower::{ServiceBuilder, ServiceExt as _};
use zerosink_adapters::tower::MakeSink;
use zerosink_backends::By;
use zerosink_core::{Mechanism, SinkConfig, ZeroCopySinkExt as _};

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
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
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
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
}
