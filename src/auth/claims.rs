//! Turns verified claims into a [`Grant`].
//!
//! It knows what Supabase puts into an access token and which claims are required. Pure: no keys, and `now` is an
//! argument. Invariant: only claims whose signature was verified come in, each is read by its exact type, and nothing
//! under `user_metadata` decides anything, because users write that themselves.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{LEEWAY, Principal};
use crate::clock::Timestamp;
use crate::config::Auth;
use crate::config::urls::is_same_on_this_machine;
use crate::error::{Code, Refusal};

type Claims = Map<String, Value>;

/// `aud` and `role` of every signed-in user.
const AUTHENTICATED: &str = "authenticated";
/// The longest e-mail address (RFC 5321 §4.5.3.1: 64 + 1 + 255).
const EMAIL_BYTES_MAX: usize = 320;
/// The longest name of a plan.
const PLAN_BYTES_MAX: usize = 64;

/// What claims that hold amount to: who it is, and from when to when.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// The caller.
    pub(super) principal: Principal,
    /// The later of `nbf` and `iat`.
    not_before: Timestamp,
}

impl Grant {
    /// Whether the claims hold at `now`, give or take [`LEEWAY`].
    pub(super) fn holds_at(&self, now: Timestamp) -> bool {
        !self.is_expired_at(now) && self.not_before <= now.plus(LEEWAY)
    }

    /// RFC 7519 §4.1.4: on or after `exp` it is not accepted.
    fn is_expired_at(&self, now: Timestamp) -> bool {
        now >= self.principal.expires_at.plus(LEEWAY)
    }
}

/// Judges claims whose signature was verified.
///
/// # Errors
/// `invalid_token`, naming the claim; `token_expired` only if every other claim is right; `anonymous_not_allowed`
/// where anonymous users have no plan.
pub(super) fn judge(claims: &Claims, auth: &Auth, now: Timestamp) -> Result<Grant, Refusal> {
    refuse_api_keys(claims)?;
    if !names_us(claims.get("aud")) {
        return Err(invalid("The token's aud is not \"authenticated\"."));
    }
    if claims.get("role").and_then(Value::as_str) != Some(AUTHENTICATED) {
        return Err(invalid("The token's role is not \"authenticated\"."));
    }
    let is_ours = |issuer: &str| is_same_on_this_machine(issuer, &auth.issuer);
    if !auth.issuer.is_empty()
        && !claims
            .get("iss")
            .and_then(Value::as_str)
            .is_some_and(is_ours)
    {
        return Err(invalid(
            "The token is not from this project: its iss is another or missing.",
        ));
    }
    let not_before = time(claims, "nbf")?
        .max(time(claims, "iat")?)
        .unwrap_or(Timestamp::EPOCH);
    let grant = Grant {
        principal: principal(claims, auth)?,
        not_before,
    };
    if not_before > now.plus(LEEWAY) {
        return Err(invalid(
            "The token is from the future: its nbf or iat lies ahead.",
        ));
    }
    if grant.is_expired_at(now) {
        return Err(Refusal::new(
            Code::TokenExpired,
            "The token has expired: refresh the session and try again.",
        ));
    }
    if grant.principal.is_anonymous && auth.anonymous_plan.is_none() {
        return Err(Refusal::new(
            Code::AnonymousNotAllowed,
            "Anonymous users have no plan here: sign in first.",
        ));
    }
    Ok(grant)
}

fn principal(claims: &Claims, auth: &Auth) -> Result<Principal, Refusal> {
    let expires_at = time(claims, "exp")?.ok_or_else(|| invalid("The token has no exp."))?;
    Ok(Principal {
        user_id: user_id(claims)?,
        email: claims
            .get("email")
            .and_then(Value::as_str)
            .and_then(|email| short(email, EMAIL_BYTES_MAX)),
        is_anonymous: is_anonymous(claims)?,
        plan_claim: plan_claim(claims, &auth.plan_claim),
        session_id: claims
            .get("session_id")
            .and_then(Value::as_str)
            .and_then(|id| Uuid::try_parse(id).ok()),
        expires_at,
    })
}

/// A project's legacy API keys are JWTs of its own secret: `iss: supabase`, a role, no `sub`.
fn refuse_api_keys(claims: &Claims) -> Result<(), Refusal> {
    let role = claims.get("role").and_then(Value::as_str);
    let issuer = claims.get("iss").and_then(Value::as_str);
    if issuer == Some("supabase") || matches!(role, Some("anon" | "service_role")) {
        return Err(invalid(super::bearer::API_KEY_MESSAGE));
    }
    Ok(())
}

/// `aud` is a string, or an array of strings, with `authenticated` in it (RFC 7519 §4.1.3).
fn names_us(audience: Option<&Value>) -> bool {
    match audience {
        Some(Value::String(one)) => one == AUTHENTICATED,
        Some(Value::Array(many)) => {
            many.iter().all(Value::is_string) && many.iter().any(|one| one == AUTHENTICATED)
        }
        _ => false,
    }
}

/// Any spelling of a UUID is the same user; the nil UUID is not a user.
fn user_id(claims: &Claims) -> Result<Uuid, Refusal> {
    claims
        .get("sub")
        .and_then(Value::as_str)
        .and_then(|sub| Uuid::try_parse(sub).ok())
        .filter(|id| !id.is_nil())
        .ok_or_else(|| invalid("The token's sub is not the id of a user."))
}

fn is_anonymous(claims: &Claims) -> Result<bool, Refusal> {
    match claims.get("is_anonymous") {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(invalid(
            "The token's is_anonymous is neither true nor false.",
        )),
    }
}

/// The plan named at `path`. Settings refuse a path into `user_metadata` at start; it is refused here as well.
fn plan_claim(claims: &Claims, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    if first == "user_metadata" {
        return None;
    }
    let found = rest
        .iter()
        .try_fold(claims.get(first)?, |value, name| value.get(name))?;
    short(found.as_str()?, PLAN_BYTES_MAX)
}

/// The text if there is any and it is no longer than `bytes_max`.
fn short(text: &str, bytes_max: usize) -> Option<String> {
    (!text.is_empty() && text.len() <= bytes_max).then(|| text.to_owned())
}

/// A `NumericDate` (RFC 7519 §2) of whole seconds between 1970 and 9999.
fn time(claims: &Claims, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_i64().or_else(|| whole(value.as_f64()?));
    match seconds {
        Some(seconds) if (0..=Timestamp::MAX.secs()).contains(&seconds) => {
            Ok(Some(Timestamp::from_secs(seconds)))
        }
        _ => Err(invalid(&format!(
            "The token's {name} is not a time in whole seconds."
        ))),
    }
}

/// A float that is a whole number and small enough to be one exactly.
fn whole(number: f64) -> Option<i64> {
    let is_whole = number.is_finite() && number.fract() == 0.0 && number.abs() < 1e15;
    is_whole
        .then(|| format!("{number:.0}").parse().ok())
        .flatten()
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Code::InvalidToken, message)
}
