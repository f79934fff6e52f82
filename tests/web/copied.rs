//! Where there is nothing to send without a copy: everything works, and nothing of it is taken for zero-copy.

use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio_rustls::{TlsAcceptor, rustls};
use zerosink::{SinkConfig, hyper::ZeroCopyListener};

use crate::{
    app::{Order, respond},
    client::Client,
    counting::{CountingListener, Counts},
    harness::{self, within},
    server::router,
    strangers::{command, output, tool},
    support::poisoned_ring,
};

const ORDER: Order = Order::of(1 << 20).in_frames(64 << 10);

#[track_caller]
fn assert_copied(what: &str, counts: &Counts, least: u64) {
    assert_eq!((counts.owned(), counts.stray()), (0, 0), "{what}: {counts:?}");
    assert!(counts.copied() > least, "{what}: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flattened_and_gathered_writes() {
    for what in ["writev(false)", "pipeline_flush(true)"] {
        let ring = poisoned_ring(4 << 20);
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
        let server = zerosink::serve(listener, router(ring)).http(|http| {
            if what == "writev(false)" {
                http.http1().writev(false);
            } else {
                http.http1().pipeline_flush(true);
            }
        });
        let server = tokio::spawn(server.into_future());
        let client = tokio::task::spawn_blocking(move || Client::connect(address).get(&ORDER.path()));
        ORDER.check(&within("the client", client).await.unwrap().body);
        harness::until("the end of the connection", || counts.stats().len() == 1).await;
        server.abort();
        assert_copied(what, &counts, 1 << 20);
    }
}

fn tls() -> TlsAcceptor {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    Arc::new(config).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_by_both_versions() {
    let Some(curl) = tool("tls", "curl") else { return };
    for version in ["--http1.1", "--http2"] {
        let ring = poisoned_ring(4 << 20);
        let listener = CountingListener::bind().await;
        let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
        let server = tokio::spawn(async move {
            let tls = tls();
            let mut listener = ZeroCopyListener::new(listener, SinkConfig::new());
            let (stream, _) = listener.accept().await;
            let stream = tls.accept(stream).await.unwrap();
            let service = service_fn(move |request| respond(ring.clone(), request));
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
        });
        let url = format!("https://{address}{}", ORDER.path());
        ORDER.check(&output(command(&curl, &["-sS", "--insecure", version, &url])).await);
        within("the server", server).await.unwrap();
        assert_copied(version, &counts, 1 << 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies() {
    /// In one frame: the compressor polls a body after its end, which this test's channels do not bear.
    const ORDER: Order = Order::of(1 << 20);
    let Some(curl) = tool("gzip", "curl") else { return };
    let listener = CountingListener::bind().await;
    let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
    let app = router(poisoned_ring(4 << 20)).layer(tower_http::compression::CompressionLayer::new());
    let server = tokio::spawn(zerosink::serve(listener, app).into_future());
    let url = format!("http://{address}{}", ORDER.path());
    let plain = output(command(&curl, &["-sS", &url])).await;
    ORDER.check(&plain);
    assert_eq!(counts.owned() + counts.stray(), ORDER.bytes as u64, "control: not compressed unless it is asked for");
    let before = counts.copied();
    ORDER.check(&output(command(&curl, &["-sS", "--compressed", &url])).await);
    harness::until("the end of the connections", || counts.stats().len() == 2).await;
    server.abort();
    assert_eq!(counts.owned() + counts.stray(), ORDER.bytes as u64, "{counts:?}");
    // The pattern does not compress.
    assert!(counts.copied() - before > 1 << 20, "{counts:?}");
}
