//! The id of a request.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use uuid::Uuid;

use crate::clock::Timestamp;

/// The id of a request, made by us: the `X-Request-Id` of its answer and the id of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub Uuid);

impl RequestId {
    /// The header that carries it, on the request once it is inside and on its answer.
    pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// A new one: a `UUIDv7` of our own clock (RFC 9562 §5.7).
    pub(crate) fn new(now: Timestamp) -> Self {
        let ms = u64::try_from(now.millis()).unwrap_or(0);
        let (seconds, rest) = (ms.div_euclid(1000), ms.rem_euclid(1000));
        let nanos = u32::try_from(rest.saturating_mul(1_000_000)).unwrap_or(0);
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(
            uuid::NoContext,
            seconds,
            nanos,
        )))
    }

    /// As `server::layers` has written it into the request.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let id = headers
            .get(Self::HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self(id.unwrap_or_else(Uuid::now_v7))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}
