//! The caller of a request, as handlers ask for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::place::{Errand, Place};
use super::{App, USER_PLACES};
use crate::auth::{Device, Principal};
use crate::clock::Timestamp;
use crate::config::{AttestMode, Config};
use crate::error::{Code, Refusal};
use crate::ledger::users::NewUser;

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

/// How long a user of another issuer counts as noted. (They may be forgotten meanwhile, and come again.)
const NOTED_FOR: Duration = Duration::from_mins(10);
/// How many are remembered.
const NOTED_MAX: usize = 16 * 1024;

/// Users of other issuers whom the ledger was told of lately.
pub(super) struct SubjectCache(Cache<Uuid, Instant>);

impl Default for SubjectCache {
    fn default() -> Self {
        Self(Cache::new(NOTED_MAX))
    }
}

impl App {
    /// Who sent these headers to this path.
    ///
    /// # Errors
    /// As [`crate::auth::Authenticator::verify`].
    pub(crate) async fn verify(
        &self,
        sender: (&HeaderMap, &str),
        config: &Config,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let who = self.auth.verify(sender, &config.auth, now).await?;
        self.note_subject(&who, now);
        if config.attest.mode == AttestMode::Off {
            return Ok(who);
        }
        let device = self
            .devices
            .device_of((sender.0, who.user_id()), &config.attest, now)
            .await;
        self.metrics.device(device);
        Ok(who.on(device))
    }

    /// Lets a caller spend, where that takes an attested device.
    ///
    /// # Errors
    /// `attestation_required`; `auth_unavailable` where the keys to check a proof by cannot be had.
    pub(crate) fn require_device(who: &Principal, config: &Config) -> Result<(), Refusal> {
        match (config.attest.mode, who.device()) {
            (AttestMode::Require, Device::Unattested) => Err(Refusal::new(
                Code::AttestationRequired,
                "Only attested devices are answered here: send a fresh X-Tollgate-Device or X-Firebase-AppCheck.",
            )),
            (AttestMode::Require, Device::Unknown) => Err(Refusal::new(
                Code::AuthUnavailable,
                "The keys that verify devices cannot be fetched at the moment.",
            )),
            _ => Ok(()),
        }
    }

    /// Tells the ledger whom the id of another issuer's user stands for, where it was not told lately.
    fn note_subject(&self, who: &Principal, now: Timestamp) {
        let Some(subject) = who.subject() else { return };
        let id = who.user_id();
        let noted = self.subjects.0.get(&id);
        if noted.is_some_and(|at| at.elapsed() < NOTED_FOR) {
            return;
        }
        self.subjects.0.insert(id, Instant::now());
        self.ledger.note_user(NewUser {
            user_id: id,
            issuer: subject.issuer.clone(),
            subject: subject.id.clone(),
            seen_at: now,
        });
    }
}

/// A handler that names a [`Principal`] cannot run without one.
impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let config = app.config();
        let sender = (&parts.headers, parts.uri.path());
        app.verify(sender, &config, app.clock.now()).await
    }
}
