//! What tokens are tried by under one version of the settings: the project's secrets and keys, and each other issuer's keys.
//!
//! It proves signatures and remembers what it proved; what claims mean is not its business. Invariant: a remembered token
//! counts only while the keys that signed it are still held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::claims::{Claims, Grant};
use super::issuer::Issuer;
use super::key;
use super::keys::{self, Jwks, KeysHealth};
use super::token::{Parts, Scheme};
use super::{Digest, Principal, invalid};
use crate::clock::Timestamp;
use crate::config::Auth;
use crate::error::{Code, Refusal};

/// How many verified tokens are remembered.
const REMEMBERED_MAX: usize = 16 * 1024;

/// The keys and secrets of one version of the settings, and a cache of verified tokens.
pub(super) struct Verifier {
    pub(super) settings: Auth,
    /// The current secret, then the previous one.
    pub(super) secrets: Vec<hmac::Key>,
    /// It has been logged that a token of the previous secret was seen.
    told_of_previous: AtomicBool,
    /// The project's keys.
    pub(super) jwks: Option<Jwks>,
    pub(super) others: Vec<Issuer>,
    pub(super) verified: Cache<Digest, Arc<VerifiedToken>>,
}

/// A token that was verified.
pub(super) struct VerifiedToken {
    pub(super) grant: Grant,
    pub(super) proof: Proof,
}

/// What a token was verified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Secret,
    /// A key of this generation of the set of another issuer (by its place), or of the project.
    Key(Option<usize>, u64),
}

impl Verifier {
    /// `jwks` gives the keys at a URL.
    pub(super) fn new(auth: &Auth, jwks: impl Fn(String) -> Jwks) -> Self {
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
            jwks: jwks_url(auth).map(&jwks),
            others: auth
                .issuers
                .iter()
                .map(|settings| Issuer {
                    settings: settings.clone(),
                    jwks: jwks(settings.jwks_url.clone()),
                })
                .collect(),
            verified: Cache::new(REMEMBERED_MAX),
        }
    }

    /// A token verified before, if its claims hold now and the keys that verified it are still the project's.
    pub(super) fn recall(&self, name: &Digest, now: Timestamp) -> Option<Principal> {
        let verified = self.verified.get(name)?;
        let still_proven = match verified.proof {
            Proof::Secret => true,
            Proof::Key(issuer, generation) => self
                .keys_of(issuer)?
                .usable(now)
                .is_some_and(|set| set.generation() == generation),
        };
        if still_proven && verified.grant.holds_at(now) {
            return Some(verified.grant.principal.clone());
        }
        self.verified.remove(name);
        None
    }

    /// Whose rules a token says that it keeps: the place of another issuer, or the project.
    pub(super) fn issuer_of(&self, claims: &Claims) -> Option<usize> {
        let said = claims.get("iss")?.as_str()?;
        self.others.iter().position(|it| it.settings.issuer == said)
    }

    pub(super) fn other(&self, place: usize) -> Result<&Issuer, Refusal> {
        let unknown = || invalid("The token's issuer is not known here.");
        self.others.get(place).ok_or_else(unknown)
    }

    /// The keys of another issuer, or of the project.
    fn keys_of(&self, issuer: Option<usize>) -> Option<&Jwks> {
        match issuer {
            Some(place) => self.others.get(place).map(|it| &it.jwks),
            None => self.jwks.as_ref(),
        }
    }

    /// Every set of keys.
    pub(super) fn key_sets(&self) -> impl Iterator<Item = &Jwks> {
        self.jwks
            .iter()
            .chain(self.others.iter().map(|it| &it.jwks))
    }

    pub(super) async fn prove(
        &self,
        parts: &Parts<'_>,
        issuer: Option<usize>,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        match (parts.scheme, issuer) {
            (Scheme::Secret, None) => self.prove_by_secret(parts),
            (Scheme::Secret, Some(_)) => Err(invalid(
                "The token is signed with HS256, which only the project's tokens may be.",
            )),
            (Scheme::Key(algorithm), _) => self.prove_by_key(parts, issuer, algorithm, now).await,
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
        issuer: Option<usize>,
        algorithm: key::Algorithm,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        let jwks = self.keys_of(issuer).ok_or_else(|| {
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
                "The token's signature is not its issuer's, or its key is unknown.",
            ));
        }
        Ok(Proof::Key(issuer, set.generation()))
    }
}

fn jwks_url(auth: &Auth) -> Option<String> {
    let url = auth.supabase_url.as_deref()?.trim_end_matches('/');
    Some(format!("{url}/auth/v1/.well-known/jwks.json"))
}

pub(super) fn no_jwks_health() -> KeysHealth {
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
pub(super) fn says_the_same(one: &Auth, other: &Auth) -> bool {
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
        && one.issuers == other.issuers
}
