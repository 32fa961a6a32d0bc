//! Turns verified claims into a [`Grant`].
//!
//! It knows what Supabase puts into an access token and which claims are required. Pure: no keys, and `now` is an
//! argument. Invariant: only claims whose signature was verified come in, each is read by its exact type, and nothing
//! under `user_metadata` decides anything, because users write that themselves.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Device, LEEWAY, Principal, invalid};
use crate::clock::Timestamp;
use crate::config::urls::is_same_on_this_machine;
use crate::config::{Auth, is_users_own};
use crate::error::{Code, Refusal};

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// `aud` and `role` of every signed-in user.
const AUTHENTICATED: &str = "authenticated";
/// The longest e-mail address (RFC 5321 §4.5.3.1: 64 + 1 + 255).
pub(super) const EMAIL_BYTES_MAX: usize = 320;
/// The longest name of a plan.
const PLAN_BYTES_MAX: usize = 64;
/// The version of a UUID that is made from a name (RFC 9562 §5.5): users of other issuers have such ids.
const OTHERS_VERSION: usize = 5;

/// What claims that hold amount to: who it is, and from when to when.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// The caller.
    pub(super) principal: Principal,
    /// The later of `nbf` and `iat`.
    pub(super) not_before: Timestamp,
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

    /// Itself, if it holds now and callers of its kind are let in. To be asked last: only then is age the one thing wrong.
    pub(super) fn in_force(self, auth: &Auth, now: Timestamp) -> Result<Self, Refusal> {
        if self.not_before > now.plus(LEEWAY) {
            return Err(invalid(
                "The token is from the future: its nbf or iat lies ahead.",
            ));
        }
        if self.is_expired_at(now) {
            return Err(Refusal::new(
                Code::TokenExpired,
                "The token has expired: refresh the session and try again.",
            ));
        }
        if self.principal.is_anonymous && auth.anonymous_plan.is_none() {
            return Err(Refusal::new(
                Code::AnonymousNotAllowed,
                "Anonymous users have no plan here: sign in first.",
            ));
        }
        Ok(self)
    }
}

/// Judges claims whose signature was verified.
///
/// # Errors
/// `invalid_token`, naming the claim; `token_expired` only if every other claim is right; `anonymous_not_allowed`
/// where anonymous users have no plan.
pub(super) fn judge(claims: &Claims, auth: &Auth, now: Timestamp) -> Result<Grant, Refusal> {
    refuse_api_keys(claims)?;
    if !names(claims.get("aud"), |one| one == AUTHENTICATED) {
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
    let grant = Grant {
        principal: principal(claims, auth)?,
        not_before: not_before(claims)?,
    };
    grant.in_force(auth, now)
}

/// The later of `nbf` and `iat`.
pub(super) fn not_before(claims: &Claims) -> Result<Timestamp, Refusal> {
    let later = time(claims, "nbf")?.max(time(claims, "iat")?);
    Ok(later.unwrap_or(Timestamp::EPOCH))
}

fn principal(claims: &Claims, auth: &Auth) -> Result<Principal, Refusal> {
    let user_id = user_id(claims)?;
    // Where other issuers have users, those ids are theirs: no token of the project may name one of them.
    if !auth.issuers.is_empty() && user_id.get_version_num() == OTHERS_VERSION {
        return Err(invalid(
            "The token's sub is a name-based UUID, which only users of other issuers have here.",
        ));
    }
    Ok(Principal {
        user_id,
        subject: None,
        email: text_at(claims, &["email"], EMAIL_BYTES_MAX),
        is_anonymous: is_anonymous(claims)?,
        plan_claim: plan_claim(claims, &auth.plan_claim),
        session_id: claims
            .get("session_id")
            .and_then(Value::as_str)
            .and_then(|id| Uuid::try_parse(id).ok()),
        expires_at: expires_at(claims)?,
        device: Device::default(),
    })
}

/// `exp`, which must be there.
pub(super) fn expires_at(claims: &Claims) -> Result<Timestamp, Refusal> {
    time(claims, "exp")?.ok_or_else(|| invalid("The token has no exp."))
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

/// `aud` is a string, or an array of strings, with one in it that is ours (RFC 7519 §4.1.3).
pub(super) fn names(audience: Option<&Value>, is_ours: impl Fn(&str) -> bool) -> bool {
    match audience {
        Some(Value::String(one)) => is_ours(one),
        Some(Value::Array(many)) => {
            many.iter().all(Value::is_string) && many.iter().filter_map(Value::as_str).any(is_ours)
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

pub(super) fn is_anonymous(claims: &Claims) -> Result<bool, Refusal> {
    match claims.get("is_anonymous") {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(invalid(
            "The token's is_anonymous is neither true nor false.",
        )),
    }
}

/// The plan named at `path`. Settings refuse a path into what users write at start; it is refused here as well.
pub(super) fn plan_claim(claims: &Claims, path: &[String]) -> Option<String> {
    if path.first().is_none_or(|first| is_users_own(first)) {
        return None;
    }
    text_at(claims, path, PLAN_BYTES_MAX)
}

/// The text at a path, if there is one that is no longer than `bytes_max`.
pub(super) fn text_at(
    claims: &Claims,
    path: &[impl AsRef<str>],
    bytes_max: usize,
) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let found = rest
        .iter()
        .try_fold(claims.get(first.as_ref())?, |value, name| {
            value.get(name.as_ref())
        })?;
    short(found.as_str()?, bytes_max)
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
