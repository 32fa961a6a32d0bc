//! Finds the one token of a request in the headers that may carry it.
//!
//! `Authorization: Bearer …`; `X-Tollgate-Token`, for clients whose own software takes `Authorization` away; and
//! `x-api-key` where Anthropic's SDKs ask. All that are there must say the same.

use http::{HeaderMap, HeaderName, header};

use super::invalid;
use crate::error::{Code, Refusal};

/// The longest header with a token that is read. Supabase's are 1 to 2 KiB.
pub(super) const BEARER_BYTES_MAX: usize = 8 * 1024;
/// The answer to anon, service-role, publishable and secret keys.
pub(super) const API_KEY_MESSAGE: &str = "This is an API key of the project, not a user's access token: sign in and send the \
                               session's access token.";

/// Carries the bare token, on every path.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-tollgate-token");
/// Carries the bare token on the paths of [`takes_api_key`]; elsewhere it is not looked at.
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The one token of a request (RFC 6750 §2.1). Its length is checked before anything is decoded. Two tokens in one
/// header fail later, because neither a space nor a comma is base64url.
pub(super) fn token<'a>(headers: &'a HeaderMap, path: &str) -> Result<&'a str, Refusal> {
    let authorization = only(headers, &header::AUTHORIZATION)?;
    let api_key = if takes_api_key(path) {
        only(headers, &API_KEY_HEADER)?
    } else {
        None
    };
    let found = [
        authorization.and_then(bearer),
        only(headers, &TOKEN_HEADER)?,
        api_key,
    ];
    let mut tokens = found.into_iter().flatten().filter(|it| !it.is_empty());
    let Some(token) = tokens.next() else {
        return Err(authorization.map_or_else(missing, |_| {
            invalid("The Authorization header is not of the form: Bearer <token>.")
        }));
    };
    if tokens.any(|other| other != token) {
        return Err(invalid(
            "The headers of this request carry different tokens: send one.",
        ));
    }
    if token.starts_with("sb_publishable_") || token.starts_with("sb_secret_") {
        return Err(invalid(API_KEY_MESSAGE));
    }
    Ok(token)
}

/// Whether Anthropic's SDKs send their key to this path.
fn takes_api_key(path: &str) -> bool {
    let under = |known| path.strip_prefix(known).map(|rest| rest.chars().next());
    [under("/v1/messages"), under("/v1/models")]
        .into_iter()
        .flatten()
        .any(|next| matches!(next, None | Some('/')))
}

/// What follows the scheme, if that is `Bearer`.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// The text of a header that may be there once; none if it is empty.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid(&format!("There is more than one {name} header.")));
    }
    if value.len() > BEARER_BYTES_MAX {
        return Err(invalid("The token is longer than 8 KiB."));
    }
    let text = value
        .to_str()
        .map_err(|_| invalid(&format!("The {name} header is not ASCII.")))?;
    Ok(Some(text.trim_matches(' ')).filter(|text| !text.is_empty()))
}

fn missing() -> Refusal {
    let message = "Send the user's access token: Authorization: Bearer <token>.";
    Refusal::new(Code::MissingToken, message)
}
