//! One connection of the server.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::{server::graceful::Watcher, service::TowerToHyperService};
use tokio::io::AsyncRead;
use tower::Service;
use zerosink_core::ZeroCopySink;

use super::{BoxError, Http, greeting::Greeting, timer::ConnectionTimer};
use crate::stream::ZeroCopyStream;

/// The address of the client, in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<A>(pub A);

/// Serves one connection to its end, which a panic of the service also is.
pub(super) async fn run<IO, A, S, B>(
    http: Arc<Http>,
    stream: ZeroCopyStream<IO>,
    peer: A,
    service: S,
    greeting_timeout: Option<Duration>,
    watcher: Watcher,
) where
    IO: ZeroCopySink + AsyncRead + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let service = TowerToHyperService::new(service);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        #[cfg(feature = "axum")]
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer.clone()));
        request.extensions_mut().insert(Peer(peer.clone()));
        service.call(request)
    });
    let stream = Greeting::new(stream, greeting_timeout);
    let mut http = Http::clone(&http);
    http.http1().timer(ConnectionTimer::default());
    let connection = http.serve_connection_with_upgrades(stream, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "connection ended");
    }
}
