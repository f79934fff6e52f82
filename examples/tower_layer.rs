//! An axum app as it is, made zero-copy by its listener and one layer. Serves, asks itself, and says how it was sent.
//!
//! ```text
//! cargo run --release --example tower_layer
//! ```

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Bytes, extract::State, routing::get};
use tokio::net::TcpListener;
use zerosink::{axum::ZeroCopyListenerExt as _, owner_of, prelude::*, tower::ZeroCopyLayer};

/// The app, which knows nothing of zerosink: one body is made for each request, one is cached.
fn app() -> Router {
    let cached = Bytes::from(vec![b'c'; 4_000_000]);
    Router::new()
        .route("/made", get(async || "made for you\n".repeat(100_000)))
        .route("/cached", get(async |State(cached): State<Bytes>| cached))
        .route("/small", get(async || "small\n"))
        .with_state(cached)
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let found = Arc::new(AtomicUsize::new(0));
    // ANCHOR: serve
    let app = app().layer(ZeroCopyLayer::new());
    let listener = TcpListener::bind("127.0.0.1:0").await?.zero_copy(SinkConfig::new());
    // ANCHOR_END: serve
    let address = axum::serve::Listener::local_addr(&listener)?;
    // Outside of the layer: what the stream will find.
    let app = app.layer(axum::middleware::map_response_with_state(Arc::clone(&found), watch));
    tokio::spawn(axum::serve(listener, app).into_future());

    for (path, large) in [("/made", 1_300_000), ("/cached", 4_000_000), ("/small", 0)] {
        found.store(0, Ordering::SeqCst);
        let received = tokio::task::spawn_blocking(move || fetch(address, path)).await??;
        let found = found.load(Ordering::SeqCst);
        println!("{path}: {received} bytes with their framing, {found} of them have an owner");
        assert!(received > large);
        assert_eq!(found, large, "all of a large body");
    }
    Ok(())
}

/// Counts the bytes whose owner can be found, frame by frame.
async fn watch(State(found): State<Arc<AtomicUsize>>, response: axum::response::Response) -> axum::response::Response {
    use http_body_util::BodyExt as _;
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |frame| {
            if let Some(bytes) = frame.data_ref().and_then(|data| owner_of(data)) {
                found.fetch_add(bytes.len(), Ordering::SeqCst);
            }
            frame
        }))
    })
}

/// The length of the body, with the framing of its chunks: who counts frames hides their total.
fn fetch(address: SocketAddr, path: &str) -> io::Result<usize> {
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut received = Vec::new();
    socket.read_to_end(&mut received)?;
    let head = received.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(received.len() - head - 4)
}
