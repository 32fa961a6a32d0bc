//! Turns a bearer token into a [`Principal`].
//!
//! It knows what a Supabase access token is and who it names, and the tokens of other issuers; it does not know plans,
//! limits or requests. Invariants:
//! - A [`Principal`] exists only for a token whose signature and claims were verified here.
//! - The algorithm belongs to the key, so the shared secret verifies HS256 and nothing else.
//! - A key belongs to an issuer: a token's `iss` chooses whose keys and whose rules it is tried by, and no others.
//! - Whatever a stranger sends costs at most a digest, one pass over 8 KiB and a few signature checks. It never causes
//!   more fetches of keys than `keys` allows.

mod bearer;
mod claims;
mod issuer;
pub(crate) mod key;
pub mod keys;
pub(crate) mod signed;
#[cfg(test)]
mod tests;
pub(crate) mod token;
mod verifier;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use http::HeaderMap;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config::Auth;
use crate::error::{Code, Refusal};
use keys::{Jwks, KeysHealth};
use token::Parts;
use verifier::{VerifiedToken, Verifier, no_jwks_health, says_the_same};

pub use issuer::Subject;
pub use token::{MintClaims, mint};

/// How far clocks may differ when `exp`, `nbf` and `iat` are checked.
const LEEWAY: Duration = Duration::from_secs(30);

type Digest = [u8; 32];

/// A verified caller. Made only in this room: a handler that names it cannot run without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    user_id: Uuid,
    subject: Option<Arc<Subject>>,
    email: Option<String>,
    is_anonymous: bool,
    plan_claim: Option<String>,
    session_id: Option<Uuid>,
    expires_at: Timestamp,
    device: Device,
}

/// What is known of the device that a request comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Nothing proves what it is; or nobody looked.
    #[default]
    Unattested,
    /// It is a real one, with the real app on it.
    Attested,
    /// It sent a proof, and the keys to check it by cannot be had.
    Unknown,
}

impl Principal {
    /// The same caller, on a device of which this is known.
    #[must_use]
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// The device that the request comes from.
    #[must_use]
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The user's id: `sub` of the project's tokens, a name-based UUID for other issuers'.
    #[must_use]
    pub const fn user_id(&self) -> Uuid {
        self.user_id
    }

    /// Whom the token names, in its issuer's words; `None` for users of the project.
    #[must_use]
    pub fn subject(&self) -> Option<&Arc<Subject>> {
        self.subject.as_ref()
    }

    /// The user's e-mail address, if the token has one.
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// Whether the user never signed in with anything. Only so where `[auth] anonymous_plan` is set.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.is_anonymous
    }

    /// The plan that the token names at `[auth] plan_claim`; it is not checked here that there is such a plan.
    #[must_use]
    pub fn plan_claim(&self) -> Option<&str> {
        self.plan_claim.as_deref()
    }

    /// The session that the token belongs to.
    #[must_use]
    pub const fn session_id(&self) -> Option<Uuid> {
        self.session_id
    }

    /// When the token expires (`exp`, without leeway).
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Verifies callers. Clones share keys and memory.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<AuthState>,
}

struct AuthState {
    current: ArcSwap<Verifier>,
    changing: Mutex<()>,
    tracker: TaskTracker,
    clock: Clock,
}

impl Authenticator {
    /// Fetches nothing yet; fetches will run on the tracker.
    #[must_use]
    pub fn new(auth: &Auth, tracker: TaskTracker, clock: Clock) -> Self {
        let jwks = |url| Jwks::new(url, tracker.clone(), clock.clone());
        let current = ArcSwap::from_pointee(Verifier::new(auth, jwks));
        Self {
            shared: Arc::new(AuthState {
                current,
                changing: Mutex::new(()),
                tracker,
                clock,
            }),
        }
    }

    /// Who sent these headers to this path. `auth` is the settings of the moment: when they differ from the last ones, everything
    /// remembered under the old ones is forgotten.
    ///
    /// # Errors
    /// `missing_token`, `invalid_token`, `token_expired`, `anonymous_not_allowed`; `auth_unavailable` when the keys
    /// could not be fetched.
    pub async fn verify(
        &self,
        (headers, path): (&HeaderMap, &str),
        auth: &Auth,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let token = bearer::token(headers, path)?;
        let verifier = self.verifier(auth);
        let name = digest_bytes(&digest::digest(&digest::SHA256, token.as_bytes()));
        if let Some(principal) = verifier.recall(&name, now) {
            return Ok(principal);
        }
        let parts = Parts::split(token).map_err(invalid)?;
        let claims = parts
            .claims()
            .ok_or_else(|| invalid("The token's claims are not a JSON object."))?;
        // Unverified, it decides only whose keys the token is tried by. Whose it is then, the keys have said.
        let issuer = verifier.issuer_of(&claims);
        let proof = verifier.prove(&parts, issuer, now).await?;
        let grant = match issuer {
            Some(place) => verifier.other(place)?.judge(&claims, auth, now)?,
            None => claims::judge(&claims, auth, now)?,
        };
        let principal = grant.principal.clone();
        verifier
            .verified
            .insert(name, Arc::new(VerifiedToken { grant, proof }));
        Ok(principal)
    }

    /// Starts the first fetch of the keys in the background. Needs a tokio runtime.
    pub fn warm_up(&self) {
        let now = self.shared.clock.now();
        let verifier = self.shared.current.load();
        verifier.key_sets().for_each(|jwks| jwks.tick(now));
    }

    /// Takes new settings over at once, rather than at the next request, and fetches their keys.
    pub fn reload(&self, auth: &Auth) {
        drop(self.verifier(auth));
        self.warm_up();
    }

    /// Keeps the keys fresh without any request, so that an idle server stays ready and one that started without keys
    /// becomes so. Never ends: its owner drops it at shutdown.
    pub async fn keep_fresh(&self) {
        loop {
            self.warm_up();
            tokio::time::sleep(keys::TICK).await;
        }
    }

    /// The state of other issuers' keys, by their names. It fetches nothing.
    #[must_use]
    pub fn issuers_health(&self, now: Timestamp) -> BTreeMap<String, KeysHealth> {
        let verifier = self.shared.current.load();
        let others = verifier.others.iter();
        others
            .map(|it| (it.settings.name.clone(), it.jwks.health(now)))
            .collect()
    }

    /// The state of the project's keys for readiness. It fetches nothing.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> KeysHealth {
        let verifier = self.shared.current.load();
        let mut health = match &verifier.jwks {
            Some(jwks) => jwks.health(now),
            None => no_jwks_health(),
        };
        if !verifier.secrets.is_empty() {
            health.algorithms.insert(0, "HS256");
        }
        let is_of_others = verifier.jwks.is_none() && !verifier.others.is_empty();
        if is_of_others && verifier.secrets.is_empty() {
            health.ok = verifier.others.iter().any(|it| it.jwks.health(now).ok);
            health.note = Some("no SUPABASE_URL is set: only tokens of other issuers are verified");
            return health;
        }
        if health.ok && health.algorithms.is_empty() {
            health.ok = false;
            health.error = Some(
                "there is no key to verify any token by: the set is empty and no JWT_SECRET is set"
                    .into(),
            );
        }
        health
    }

    /// How long ago the keys that are held were fetched, if there are any.
    #[must_use]
    pub fn keys_age(&self, now: Timestamp) -> Option<Duration> {
        self.shared.current.load().jwks.as_ref()?.age(now)
    }

    /// The verifier for these settings: the current one, or a new one that keeps the keys if their URL is the same.
    fn verifier(&self, auth: &Auth) -> Arc<Verifier> {
        let current = self.shared.current.load_full();
        if says_the_same(&current.settings, auth) {
            return current;
        }
        let _changing = self
            .shared
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.current.load_full();
        if says_the_same(&current.settings, auth) {
            return current;
        }
        let kept = |url: &str| current.key_sets().find(|jwks| jwks.url() == url).cloned();
        let jwks = |url: String| {
            kept(&url).unwrap_or_else(|| {
                Jwks::new(url, self.shared.tracker.clone(), self.shared.clock.clone())
            })
        };
        let next = Arc::new(Verifier::new(auth, jwks));
        self.shared.current.store(Arc::clone(&next));
        next
    }
}

fn digest_bytes(digest: &digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Code::InvalidToken, message)
}
