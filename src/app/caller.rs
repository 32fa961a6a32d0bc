//! The caller of a request, as handlers ask for it.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::place::{Errand, Place};
use super::{App, USER_PLACES};
use crate::auth::Principal;
use crate::error::Refusal;

/// Who calls, with a place among the open requests: what every route with a token asks for but chat, which takes its place
/// once the plan says how many a user may have.
pub struct Caller {
    /// Who.
    pub who: Principal,
    /// Given back when the answer is made.
    pub place: Place,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let who = Principal::from_request_parts(parts, app).await?;
        let place =
            app.places
                .take(who.user_id(), app.places_max(), (Errand::Look, USER_PLACES))?;
        Ok(Self { who, place })
    }
}

/// A handler that names a [`Principal`] cannot run without one.
impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let config = app.config();
        app.auth
            .verify(
                (&parts.headers, parts.uri.path()),
                &config.auth,
                app.clock.now(),
            )
            .await
    }
}
