//! The four ways to serve.

use std::net::SocketAddr;

use axum::{Router, extract::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::task::JoinHandle;
use zerosink::{
    Ring, SinkConfig,
    axum::ZeroCopyListenerExt as _,
    hyper::{Accept, Duplex, ZeroCopyListener},
};

use crate::app::respond;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// hyper's own HTTP/1, on hyper's own traits.
    Http1,
    /// hyper-util, which tells the versions apart, on tokio's traits.
    Auto,
    Axum,
    Serve,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Http1, Self::Auto, Self::Axum, Self::Serve];

    /// Serves ring bodies on `listener` until the task is aborted.
    pub(crate) fn serve<L, By>(self, listener: L, config: SinkConfig, ring: Ring) -> JoinHandle<()>
    where
        L: Accept<Socket: Duplex<By>, Address = SocketAddr>,
        By: 'static,
    {
        match self {
            Self::Http1 | Self::Auto => {
                let mut listener = ZeroCopyListener::new(listener, config);
                tokio::spawn(async move {
                    loop {
                        let (stream, _) = listener.accept().await;
                        let ring = ring.clone();
                        let service =
                            service_fn(move |request: hyper::Request<Incoming>| respond(ring.clone(), request));
                        tokio::spawn(async move {
                            // A client that goes away is an error here.
                            if self == Self::Http1 {
                                hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await.ok();
                            } else {
                                let http = auto::Builder::new(TokioExecutor::new());
                                http.serve_connection(TokioIo::new(stream), service).await.ok();
                            }
                        });
                    }
                })
            }
            Self::Axum => {
                let app = router(ring);
                tokio::spawn(async move { axum::serve(listener.zero_copy(config), app).await.unwrap() })
            }
            Self::Serve => {
                let service = tower::service_fn(move |request| respond(ring.clone(), request));
                tokio::spawn(async move { zerosink::serve(listener, service).sink(config).await.unwrap() })
            }
        }
    }
}

/// The same service as an axum app.
pub(crate) fn router(ring: Ring) -> Router {
    Router::new().fallback(move |request: Request| respond(ring.clone(), request))
}
