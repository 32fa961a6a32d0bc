//! Access tokens as Supabase Auth writes them, and as an attacker would.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::{Builder, Uuid};

use super::keys::{Key, base64url};

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

/// A user's id; the same name has the same id in every test.
pub(crate) fn user_id(name: &str) -> Uuid {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    Builder::from_random_bytes(bytes).into_uuid()
}

/// The claims of a signed-in user, all that stock Auth emits, good for an hour from `now` (seconds).
pub(crate) fn claims(name: &str, issuer: &str, now: i64) -> Value {
    json!({
        "iss": issuer,
        "sub": user_id(name).to_string(),
        "aud": "authenticated",
        "exp": now + 3600,
        "iat": now,
        "email": format!("{name}@example.test"),
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "session_id": user_id(&format!("session of {name}")).to_string(),
        "is_anonymous": false,
    })
}

/// Claims with some changed, and those that are `null` here left out. (For a claim that *is* null, see [`sign_text`].)
pub(crate) fn with(mut claims: Value, changes: &Value) -> Value {
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// A token with the key's ordinary header.
pub(crate) fn sign(key: &Key, claims: &Value) -> String {
    sign_text(key, &key.header().to_string(), &claims.to_string())
}

/// A token of any header and any claims, correctly signed.
pub(crate) fn sign_text(key: &Key, header: &str, claims: &str) -> String {
    let message = message(header, claims);
    let signature = key.sign(message.as_bytes());
    assemble(&message, &signature)
}

/// What is signed: the header and the claims.
pub(crate) fn message(header: &str, claims: &str) -> String {
    format!(
        "{}.{}",
        base64url(header.as_bytes()),
        base64url(claims.as_bytes())
    )
}

/// A token of a message and any signature.
pub(crate) fn assemble(message: &str, signature: &[u8]) -> String {
    format!("{message}.{}", base64url(signature))
}
