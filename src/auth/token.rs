//! A JWS in compact form (RFC 7515 §7.1): taken apart, and made for development.
//!
//! It knows the bytes and the header, not what the claims mean. Invariant: a [`Parts`] is unverified. Its header can
//! name a key, but never bring one. Its length was limited by `auth` before.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::key::{Algorithm, KID_BYTES_MAX};
use crate::clock::Timestamp;

/// Header members that a token may not carry. `jwk`, `jku`, `x5u` and `x5c` bring or name a key, and only the operator
/// does that; `crit` and `b64` change what the rest means; `zip` and `enc` are those of encrypted tokens.
const REFUSED_MEMBERS: [&str; 8] = ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"];

/// What a token says it is signed with. The two kinds of key never meet: a shared secret verifies only the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// HS256, by the project's shared secret.
    Secret,
    /// A public key of the project.
    Key(Algorithm),
}

/// A token taken apart, unverified.
pub(super) struct Parts<'a> {
    /// What its header says it is signed with.
    pub(super) scheme: Scheme,
    /// The key its header names.
    pub(super) kid: Option<String>,
    /// What is signed: header and payload as they stand.
    pub(super) message: &'a [u8],
    /// The signature, decoded.
    pub(super) signature: Vec<u8>,
    payload: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// What is wrong with its form or its header, in words for the caller.
    pub(super) fn split(token: &'a str) -> Result<Self, &'static str> {
        let (message, signature) = token.rsplit_once('.').ok_or("The token is not a JWT.")?;
        let (header, payload) = message.split_once('.').ok_or("The token is not a JWT.")?;
        // A fourth part would be a dot in `payload`, which base64url does not have.
        let header =
            object(header).ok_or("The token's header is not base64url of a JSON object.")?;
        let (scheme, kid) = read_header(&header)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| "The token's signature is not base64url.")?;
        Ok(Self {
            scheme,
            kid,
            message: message.as_bytes(),
            signature,
            payload,
        })
    }

    /// The claims. To be read only once the signature is verified.
    pub(super) fn claims(&self) -> Option<Map<String, Value>> {
        object(self.payload)
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Scheme, Option<String>), &'static str> {
    if REFUSED_MEMBERS
        .iter()
        .any(|member| header.contains_key(*member))
    {
        return Err(
            "The token's header names a key or an extension of its own; neither is accepted.",
        );
    }
    let typ_is_known = header.get("typ").is_none_or(|typ| {
        typ.as_str().is_some_and(|typ| {
            typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt")
        })
    });
    if !typ_is_known {
        return Err("The token's typ is not JWT.");
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
        Some(_) => return Err("The token's kid is too long or no string."),
    };
    let scheme = match header.get("alg").and_then(Value::as_str) {
        Some("HS256") => Some(Scheme::Secret),
        Some(name) => Algorithm::parse(name).map(Scheme::Key),
        None => None,
    };
    let scheme = scheme.ok_or("The token's alg is not HS256, ES256, RS256 or EdDSA.")?;
    Ok((scheme, kid))
}

/// Decodes a part. An array would pass for a struct with serde's derive, so only an object is taken.
fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What a development token says.
#[derive(Clone, Debug)]
pub struct MintClaims<'a> {
    /// `sub`
    pub user_id: Uuid,
    /// `app_metadata.plan`
    pub plan: Option<String>,
    /// `email`
    pub email: Option<String>,
    /// `is_anonymous`
    pub is_anonymous: bool,
    /// How long it is good for.
    pub expires_in: Duration,
    /// `iss`; left out when empty.
    pub issuer: &'a str,
}

/// Makes an HS256 token with the claims of Supabase's own, for development. It needs the secret.
///
/// # Errors
/// The secret is empty.
pub fn mint(
    secret: &SecretString,
    claims: MintClaims<'_>,
    now: Timestamp,
) -> Result<String, String> {
    if secret.expose_secret().is_empty() {
        return Err("a token cannot be signed with an empty secret: set JWT_SECRET".to_owned());
    }
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let message = format!(
        "{}.{}",
        encode(&header),
        encode(&supabase_claims(claims, now))
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The claims that Supabase Auth always writes (supabase/auth `AccessTokenClaims`).
fn supabase_claims(claims: MintClaims<'_>, now: Timestamp) -> Value {
    let mut app_metadata = json!({"provider": "email", "providers": ["email"]});
    if let (Some(plan), Some(members)) = (claims.plan, app_metadata.as_object_mut()) {
        members.insert("plan".to_owned(), Value::String(plan));
    }
    let seconds = u64::try_from(now.secs()).unwrap_or_default();
    let mut all = json!({
        "sub": claims.user_id,
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now.secs(),
        "exp": now.plus(claims.expires_in).secs(),
        "email": claims.email.unwrap_or_default(),
        "phone": "",
        "app_metadata": app_metadata,
        "user_metadata": {},
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now.secs()}],
        "session_id": Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0)),
        "is_anonymous": claims.is_anonymous,
    });
    if let Some(members) = all.as_object_mut().filter(|_| !claims.issuer.is_empty()) {
        members.insert("iss".to_owned(), Value::String(claims.issuer.to_owned()));
    }
    all
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
