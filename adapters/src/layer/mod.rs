//! A tower layer that makes a web service zero-copy.
//!
//! [`ZeroCopyLayer`] does two things for the service within:
//!
//! * it gives handlers the ring: a [`BodyRing`] among the request's extensions, in axum an extractor, whose bodies keep to their
//!   [`Budget`];
//! * it lets **bodies that are already there** go without a copy. Large frames on heap are entered in the
//!   [region table](zerosink_core::region) for as long as the frame lives, so that an IO that is handed their bytes finds the
//!   owner by address. Handlers stay as they are.
//!
//! The layer goes outside of whatever rewrites bodies, such as compression, and needs an IO that asks for owners, such as
//! `ZeroCopyStream`; with any other, or behind TLS, it changes nothing that anybody can see.

#[cfg(feature = "axum")]
mod app;
mod body;
mod future;

use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};
use zerosink_core::Ring;

#[cfg(feature = "axum")]
pub use app::{AppFuture, ZeroCopyApp};
pub use body::ZeroCopyBody;
pub use future::ResponseFuture;

use crate::body::{BodyRing, Budget};

/// Gives handlers a ring, and makes large bodies on heap findable. See the [module](self).
///
/// ```
/// use zerosink_adapters::layer::ZeroCopyLayer;
///
/// # fn main() -> Result<(), zerosink_core::ring::RingError> {
/// let layer = ZeroCopyLayer::new(); // bodies that handlers make on heap
/// # drop(layer);
/// let ring = zerosink_core::Ring::builder().capacity(16 << 20).build()?;
/// let layer = ZeroCopyLayer::new().ring(ring); // and a ring for handlers
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ZeroCopyLayer {
    ring: Option<Ring>,
    budget: Budget,
    threshold: usize,
}

impl ZeroCopyLayer {
    /// Where frames begin to be large, in bytes, unless [`threshold`](Self::threshold) says otherwise. From between 8 and 16 KiB on
    /// an entry costs less than a copy (`benches/threshold.rs`).
    pub const THRESHOLD: usize = 16 << 10;

    /// Large bodies on heap go without a copy; there is no ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { ring: None, budget: Budget::new(), threshold: Self::THRESHOLD }
    }

    /// Handlers get this ring.
    #[must_use]
    pub fn ring(mut self, ring: Ring) -> Self {
        self.ring = Some(ring);
        self
    }

    /// How much of the ring one body may hold.
    #[must_use]
    pub const fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Frames of fewer bytes are left alone: to enter them would cost more than it could save. `usize::MAX` leaves all alone.
    #[must_use]
    pub const fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// What requests are given.
    fn body_ring(&self) -> Option<BodyRing> {
        self.ring.clone().map(|ring| BodyRing::new(ring).with_budget(self.budget))
    }
}

impl Default for ZeroCopyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ZeroCopyLayer {
    type Service = ZeroCopy<S>;

    fn layer(&self, inner: S) -> ZeroCopy<S> {
        ZeroCopy { inner, ring: self.body_ring(), threshold: self.threshold }
    }
}

/// The service of [`ZeroCopyLayer`].
#[derive(Debug, Clone)]
pub struct ZeroCopy<S> {
    inner: S,
    ring: Option<BodyRing>,
    threshold: usize,
}

impl<S, In, Out> Service<Request<In>> for ZeroCopy<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
{
    type Response = Response<ZeroCopyBody<Out>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        if let Some(ring) = &self.ring {
            request.extensions_mut().insert(ring.clone());
        }
        ResponseFuture::new(self.inner.call(request), self.threshold)
    }
}
