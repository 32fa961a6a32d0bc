//! Turns a bearer token into a [`Principal`].
//!
//! It knows what a Supabase access token is and who it names; it does not know plans, limits or requests. Invariants:
//! - A [`Principal`] exists only for a token whose signature and claims were verified here.
//! - The algorithm belongs to the key, so the shared secret verifies HS256 and nothing else.
//! - Whatever a stranger sends costs at most a digest, one pass over 8 KiB and a few signature checks. It never causes
//!   more fetches of keys than `keys` allows.

mod bearer;
mod claims;
pub(crate) mod key;
pub mod keys;
#[cfg(test)]
mod tests;
mod token;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::{digest, hmac};
use http::HeaderMap;
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config::Auth;
use crate::error::{Code, Refusal};
use claims::Grant;
use keys::{Jwks, KeysHealth};
use token::{Parts, Scheme};

pub use token::{MintClaims, mint};

/// How far clocks may differ when `exp`, `nbf` and `iat` are checked.
const LEEWAY: Duration = Duration::from_secs(30);
/// How many verified tokens are remembered.
const REMEMBERED_MAX: usize = 16 * 1024;

type Digest = [u8; 32];

/// A verified caller. Made only in this room: a handler that names it cannot run without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    user_id: Uuid,
    email: Option<String>,
    is_anonymous: bool,
    plan_claim: Option<String>,
    session_id: Option<Uuid>,
    expires_at: Timestamp,
}

impl Principal {
    /// The user's id (`sub`).
    #[must_use]
    pub const fn user_id(&self) -> Uuid {
        self.user_id
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
        let jwks = jwks_url(auth).map(|url| Jwks::new(url, tracker.clone(), clock.clone()));
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
        let proof = verifier.prove(&parts, now).await?;
        let claims = parts
            .claims()
            .ok_or_else(|| invalid("The token's claims are not a JSON object."))?;
        let grant = claims::judge(&claims, auth, now)?;
        let principal = grant.principal.clone();
        verifier
            .verified
            .insert(name, Arc::new(VerifiedToken { grant, proof }));
        Ok(principal)
    }

    /// Starts the first fetch of the keys in the background. Needs a tokio runtime.
    pub fn warm_up(&self) {
        if let Some(jwks) = &self.shared.current.load().jwks {
            jwks.tick(self.shared.clock.now());
        }
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

    /// The keys' state for readiness. It fetches nothing.
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
        let kept = |url: &String| current.jwks.clone().filter(|jwks| jwks.url() == url);
        let jwks = jwks_url(auth).map(|url| {
            kept(&url).unwrap_or_else(|| {
                Jwks::new(url, self.shared.tracker.clone(), self.shared.clock.clone())
            })
        });
        let next = Arc::new(Verifier::new(auth, jwks));
        self.shared.current.store(Arc::clone(&next));
        next
    }
}

/// The keys and secrets of one version of the settings, and a cache of verified tokens.
struct Verifier {
    settings: Auth,
    /// The current secret, then the previous one.
    secrets: Vec<hmac::Key>,
    /// It has been logged that a token of the previous secret was seen.
    told_of_previous: AtomicBool,
    jwks: Option<Jwks>,
    verified: Cache<Digest, Arc<VerifiedToken>>,
}

/// A token that was verified.
struct VerifiedToken {
    grant: Grant,
    proof: Proof,
}

/// What a token was verified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Secret,
    /// A key of this generation of the set.
    Key(u64),
}

impl Verifier {
    fn new(auth: &Auth, jwks: Option<Jwks>) -> Self {
        // Supabase takes the secret's text as it is; it is not base64 of anything. An empty one would verify anybody's.
        let secrets = [&auth.jwt_secret, &auth.jwt_secret_previous]
            .into_iter()
            .flatten()
            .map(ExposeSecret::expose_secret);
        let secrets = secrets.filter(|secret| !secret.is_empty());
        Self {
            settings: auth.clone(),
            secrets: secrets
                .map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
                .collect(),
            told_of_previous: AtomicBool::new(false),
            jwks,
            verified: Cache::new(REMEMBERED_MAX),
        }
    }

    /// A token verified before, if its claims hold now and the keys that verified it are still the project's.
    fn recall(&self, name: &Digest, now: Timestamp) -> Option<Principal> {
        let verified = self.verified.get(name)?;
        let still_proven = match verified.proof {
            Proof::Secret => true,
            Proof::Key(generation) => self
                .jwks
                .as_ref()?
                .usable(now)
                .is_some_and(|set| set.generation() == generation),
        };
        if still_proven && verified.grant.holds_at(now) {
            return Some(verified.grant.principal.clone());
        }
        self.verified.remove(name);
        None
    }

    async fn prove(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Proof, Refusal> {
        match parts.scheme {
            Scheme::Secret => self.prove_by_secret(parts),
            Scheme::Key(algorithm) => self.prove_by_key(parts, algorithm, now).await,
        }
    }

    fn prove_by_secret(&self, parts: &Parts<'_>) -> Result<Proof, Refusal> {
        if self.secrets.is_empty() {
            return Err(invalid(
                "The token is signed with HS256, and this server has no JWT_SECRET.",
            ));
        }
        let signs =
            |secret: &hmac::Key| hmac::verify(secret, parts.message, &parts.signature).is_ok();
        let place = self.secrets.iter().position(signs);
        let place = place.ok_or_else(|| invalid("The token's signature is not this project's."))?;
        if place > 0 && !self.told_of_previous.swap(true, Ordering::Relaxed) {
            tracing::info!("tokens of the previous JWT secret are still in use");
        }
        Ok(Proof::Secret)
    }

    async fn prove_by_key(
        &self,
        parts: &Parts<'_>,
        algorithm: key::Algorithm,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        let jwks = self.jwks.as_ref().ok_or_else(|| {
            invalid("The token is signed with a public key, and this server has no SUPABASE_URL.")
        })?;
        let kid = parts.kid.as_deref();
        let set = jwks
            .set_for(kid, algorithm, now)
            .await
            .map_err(|keys::Unavailable| {
                Refusal::new(
                    Code::AuthUnavailable,
                    "The keys that verify tokens cannot be fetched at the moment.",
                )
            })?;
        if !set.verifies(kid, algorithm, (parts.message, &parts.signature)) {
            return Err(invalid(
                "The token's signature is not this project's, or its key is unknown.",
            ));
        }
        Ok(Proof::Key(set.generation()))
    }
}

fn jwks_url(auth: &Auth) -> Option<String> {
    let url = auth.supabase_url.as_deref()?.trim_end_matches('/');
    Some(format!("{url}/auth/v1/.well-known/jwks.json"))
}

fn no_jwks_health() -> KeysHealth {
    KeysHealth {
        ok: true,
        keys: 0,
        algorithms: Vec::new(),
        fetched_at: None,
        error: None,
        note: Some("no SUPABASE_URL is set: only HS256 tokens are verified"),
    }
}

/// Whether two settings agree in everything that decides whether a token is valid.
fn says_the_same(one: &Auth, other: &Auth) -> bool {
    let same_secret = |one: &Option<SecretString>, other: &Option<SecretString>| match (one, other)
    {
        (Some(one), Some(other)) => one.expose_secret() == other.expose_secret(),
        (None, None) => true,
        _ => false,
    };
    one.supabase_url == other.supabase_url
        && same_secret(&one.jwt_secret, &other.jwt_secret)
        && same_secret(&one.jwt_secret_previous, &other.jwt_secret_previous)
        && one.issuer == other.issuer
        && one.plan_claim == other.plan_claim
        && one.anonymous_plan == other.anonymous_plan
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
