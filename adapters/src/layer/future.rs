//! The response on its way through the layer.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project::pin_project;

use super::ZeroCopyBody;

/// The future of [`ZeroCopy`](super::ZeroCopy).
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    threshold: usize,
}

impl<F> ResponseFuture<F> {
    pub(super) const fn new(inner: F, threshold: usize) -> Self {
        Self { inner, threshold }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ZeroCopyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let threshold = *this.threshold;
        this.inner.poll(cx).map_ok(|response| response.map(|body| ZeroCopyBody::new(body, threshold)))
    }
}
