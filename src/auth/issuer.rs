//! Tokens of an issuer beside the project: its keys, its claims, and whom they name.
//!
//! It does not look at signatures: `Verifier` does, with this issuer's keys. Invariant: a user of one issuer is never a user of
//! another one or of the project, whatever the issuers call them.

use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::Value;
use uuid::{Builder, Uuid};

use super::claims::{self, Claims, Grant};
use super::keys::Jwks;
use super::{Device, Principal, invalid};
use crate::clock::Timestamp;
use crate::config::{Auth, IssuerConfig, IssuerPreset};
use crate::error::Refusal;

/// The longest name of a user (`OpenID` Connect Core §2: 255).
const SUBJECT_BYTES_MAX: usize = 255;

/// Whom a token names, in its issuer's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `iss`.
    pub issuer: String,
    /// What the issuer calls the user: `sub`, or the claim that the settings name.
    pub id: String,
}

impl Subject {
    /// The id of the user here: a UUID of the name in the namespace of the issuer (RFC 9562 §5.5), also where the issuer calls
    /// the user by a UUID.
    fn user_id(&self) -> Uuid {
        let namespace = name_based(Uuid::NAMESPACE_URL, &self.issuer);
        name_based(namespace, &self.id)
    }
}

/// RFC 9562 §5.5: version 5.
fn name_based(namespace: Uuid, name: &str) -> Uuid {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(namespace.as_bytes());
    hash.update(name.as_bytes());
    let mut bytes = [0; 16];
    let digest = hash.finish();
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    Builder::from_sha1_bytes(bytes).into_uuid()
}

/// One issuer, and its keys.
pub(super) struct Issuer {
    pub(super) settings: IssuerConfig,
    pub(super) jwks: Jwks,
}

impl Issuer {
    /// Judges claims that a key of this issuer has signed, and whose `iss` is its own.
    ///
    /// # Errors
    /// As [`claims::judge`].
    pub(super) fn judge(
        &self,
        claims: &Claims,
        auth: &Auth,
        now: Timestamp,
    ) -> Result<Grant, Refusal> {
        let settings = &self.settings;
        if !self.is_for_us(claims) {
            return Err(invalid(
                "The token is for another app: its aud is not one of this server's.",
            ));
        }
        let id = claims::text_at(claims, &settings.user_claim, SUBJECT_BYTES_MAX)
            .ok_or_else(|| invalid("The token does not name a user."))?;
        let subject = Subject {
            issuer: settings.issuer.clone(),
            id,
        };
        let plan_claim = settings.plan_claim.as_deref();
        let grant = Grant {
            principal: Principal {
                user_id: subject.user_id(),
                email: claims::text_at(claims, &settings.email_claim, claims::EMAIL_BYTES_MAX),
                is_anonymous: claims::is_anonymous(claims)? || is_anonymous_at_firebase(claims),
                plan_claim: plan_claim.and_then(|path| claims::plan_claim(claims, path)),
                session_id: None,
                expires_at: claims::expires_at(claims)?,
                subject: Some(Arc::new(subject)),
                device: Device::default(),
            },
            not_before: claims::not_before(claims)?,
        };
        grant.in_force(auth, now)
    }

    fn is_for_us(&self, claims: &Claims) -> bool {
        let IssuerConfig {
            audiences, preset, ..
        } = &self.settings;
        let audience = match (claims.get("aud"), preset) {
            (None, Some(IssuerPreset::Cognito)) => claims.get("client_id"),
            (audience, _) => audience,
        };
        let is_ours = |one: &str| audiences.iter().any(|ours| ours == one);
        audiences.is_empty() || claims::names(audience, is_ours)
    }
}

/// Firebase's anonymous users have a claim of their own.
fn is_anonymous_at_firebase(claims: &Claims) -> bool {
    let firebase = claims.get("firebase").and_then(Value::as_object);
    let provider = firebase.and_then(|it| it.get("sign_in_provider"));
    provider.is_some_and(|provider| provider == "anonymous")
}
