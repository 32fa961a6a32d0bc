//! Bearer token → [`Principal`].

use http::HeaderMap;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::Auth;
use crate::error::Refusal;

/// A verified caller. Made only in this file: a handler that names it cannot run without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    user_id: Uuid,
    email: Option<String>,
    is_anonymous: bool,
    plan_claim: Option<String>,
}

impl Principal {
    /// The user's id (`sub`).
    #[must_use]
    pub const fn user_id(&self) -> Uuid {
        self.user_id
    }
}
