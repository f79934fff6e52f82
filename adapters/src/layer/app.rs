//! The layer around a whole axum app.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    serve::{IncomingStream, Listener},
};
use http::{Request, Response};
use http_body::Body as _;
use pin_project::pin_project;
use tower::Service;

use super::{ZeroCopyBody, ZeroCopyLayer};
use crate::body::BodyRing;

impl ZeroCopyLayer {
    /// An axum app, such as a `Router`, within this layer: for `axum::serve`, [`serve`](crate::serve::serve), or a layer around it.
    ///
    /// It does what `app.layer(..)` does, for less: a layer *in* a router costs each request some allocations, whatever it does, and here
    /// a body that is known to be small stays as it is.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use zerosink_adapters::{axum::ZeroCopyListenerExt as _, layer::ZeroCopyLayer};
    /// use zerosink_core::SinkConfig;
    ///
    /// # async {
    /// let app = ZeroCopyLayer::new().around(Router::new().route("/", get(|| async { "hello" })));
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?.zero_copy(SinkConfig::new());
    /// axum::serve(listener, app).await
    /// # };
    /// ```
    ///
    /// For `ConnectInfo` there is axum's `ServiceExt::into_make_service_with_connect_info`.
    pub fn around<S>(&self, app: S) -> ZeroCopyApp<S> {
        ZeroCopyApp { app, ring: self.body_ring(), threshold: self.threshold }
    }
}

/// An axum app within a [`ZeroCopyLayer`]; see [`around`](ZeroCopyLayer::around).
#[derive(Debug, Clone)]
pub struct ZeroCopyApp<S> {
    app: S,
    ring: Option<BodyRing>,
    threshold: usize,
}

impl<S, In> Service<Request<In>> for ZeroCopyApp<S>
where
    S: Service<Request<In>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AppFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        if let Some(ring) = &self.ring {
            request.extensions_mut().insert(ring.clone());
        }
        AppFuture { inner: self.app.call(request), threshold: self.threshold }
    }
}

/// Makes a service of each connection, as a `Router` does.
impl<S: Clone, L: Listener> Service<IncomingStream<'_, L>> for ZeroCopyApp<S> {
    type Response = Self;
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _connection: IncomingStream<'_, L>) -> Self::Future {
        ready(Ok(self.clone()))
    }
}

/// The future of [`ZeroCopyApp`].
#[pin_project]
#[derive(Debug)]
pub struct AppFuture<F> {
    #[pin]
    inner: F,
    threshold: usize,
}

impl<F, E> Future for AppFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let threshold = *this.threshold;
        let wrap = |body: Body| match body.size_hint().upper() {
            Some(bytes) if bytes < threshold as u64 => body,
            _ => Body::new(ZeroCopyBody::new(body, threshold)),
        };
        this.inner.poll(cx).map_ok(|response| response.map(wrap))
    }
}
