//! Bodies as axum's responses, and the ring as an extractor.

use std::{convert::Infallible, error::Error, fmt};

use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE, request::Parts};

use super::{BodyRing, RingBody};

impl IntoResponse for RingBody {
    /// As axum does it for [`bytes::Bytes`]: `application/octet-stream`, unless the handler says something else.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::new(self));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response
    }
}

/// No layer has given the request a ring: the answer is 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRing(());

impl fmt::Display for NoRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no ring for bodies: add ZeroCopyLayer with a ring to the router")
    }
}

impl Error for NoRing {}

impl IntoResponse for NoRing {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for BodyRing {
    type Rejection = NoRing;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, NoRing> {
        parts.extensions.get::<Self>().cloned().ok_or(NoRing(()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for BodyRing {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
