//! Firebase App Check: a JWT of Google's that says which app asks, on iOS, Android and the web.
//!
//! Source: Firebase, "Verify App Check tokens from a custom backend": RS256, `iss` with the project's number, `aud` with
//! `projects/<number>`, `sub` is the app's id.

use http::{HeaderName, HeaderValue};

use crate::auth::Device;
use crate::auth::keys::Jwks;
use crate::auth::signed::{SignatureFault, SignedClaims};
use crate::clock::Timestamp;
use crate::config::AppCheck;

/// Carries the token.
pub(super) const APP_CHECK_HEADER: HeaderName = HeaderName::from_static("x-firebase-appcheck");
/// The issuer of every project's tokens, up to its number.
const ISSUER: &str = "https://firebaseappcheck.googleapis.com/";

/// What a token proves.
pub(super) async fn device_of(
    token: &HeaderValue,
    app_check: &AppCheck,
    jwks: &Jwks,
    now: Timestamp,
) -> Device {
    let Ok(token) = token.to_str() else {
        return Device::Unattested;
    };
    let claims = match SignedClaims::of(jwks, token, now).await {
        Ok(claims) => claims,
        Err(SignatureFault::Wrong) => return Device::Unattested,
        Err(SignatureFault::Unavailable) => return Device::Unknown,
    };
    let number = &app_check.project_number;
    let issuer = claims.text("iss").and_then(|iss| iss.strip_prefix(ISSUER));
    let is_ours = |app: &str| app_check.app_ids.iter().any(|ours| ours == app);
    let is_right = issuer == Some(number)
        && claims.is_for(&format!("projects/{number}"))
        && claims.text("sub").is_some_and(is_ours)
        && claims.holds_at(now);
    if is_right {
        Device::Attested
    } else {
        Device::Unattested
    }
}
