//! One connection of the server.

use std::{sync::Arc, time::Duration};

use http::{Extensions, Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::{server::graceful::Watcher, service::TowerToHyperService};
use tokio::io::AsyncRead;
use tower::Service;
use zerosink_core::ZeroCopySink;

use super::{BoxError, Http, greeting::Greeting, timer::ConnectionTimer};
use crate::stream::ZeroCopyStream;

/// What a request's extensions have for the address of the client. One entry, for each costs an allocation.
#[cfg(feature = "axum")]
use axum::extract::ConnectInfo as Client;
#[cfg(not(feature = "axum"))]
#[derive(Debug, Clone)]
struct Client<A>(A);

/// The address of the client, out of the extensions of a request that [`serve`](super::serve) has got: `SocketAddr` for TCP. `None` for
/// other requests, and for another type than the listener's.
#[must_use]
pub fn client_address<A: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Option<&A> {
    extensions.get::<Client<A>>().map(|client| &client.0)
}

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
        request.extensions_mut().insert(Client(peer.clone()));
        service.call(request)
    });
    let stream = Greeting::new(stream, greeting_timeout);
    let mut http = Http::clone(&http);
    http.http1().timer(ConnectionTimer::default());
    let connection = http.serve_connection_with_upgrades(stream, service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "connection ended");
    }
}
