//! Reads paths, queries and bodies on the operator's listener, and refuses those that are wrong.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};
use uuid::Uuid;

use super::AdminState;
use crate::error::{Code, Refusal};
use crate::openapi::refusals;
use crate::operator::queries::{Cursor, Slice};
use crate::proxy::check_media_type;

/// The longest body.
const SENT_BYTES_MAX: usize = 64 * 1024;
/// The longest error message about a body or a query.
const TOLD_CHARS_MAX: usize = 200;

/// A body of JSON.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<AdminState> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        check_media_type(&head.headers)?;
        let reading = Limited::new(body, SENT_BYTES_MAX).collect();
        let slow = || Refusal::new(Code::InvalidRequest, "The body took too long to arrive.");
        let read = tokio::time::timeout(state.app.config().server.body_timeout, reading)
            .await
            .map_err(|_| slow())?;
        let body = read.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Refusal::new(
                    Code::BodyTooLarge,
                    format!("The body is larger than {SENT_BYTES_MAX} bytes."),
                );
            }
            Refusal::new(Code::InvalidRequest, "The body did not arrive whole.")
        })?;
        parse(&body.to_bytes()).map(Self)
    }
}

/// An object and nothing else. The error does not repeat the input: it may be a token.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let no_object = |_| Refusal::new(Code::InvalidRequest, "The body must be a JSON object.");
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(no_object)?;
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let (path, told) = (error.path().to_string(), error.inner().to_string());
        let message = if told.starts_with("missing field") || told.starts_with("unknown field") {
            format!(
                "The body is not as it should be: {}.",
                told.chars().take(TOLD_CHARS_MAX).collect::<String>()
            )
        } else {
            "This field is not of the type or in the range that it must have.".to_owned()
        };
        let refusal = Refusal::new(Code::InvalidRequest, message);
        if path == "." {
            refusal
        } else {
            refusal.at(path)
        }
    })
}

/// A query whose parameters are known.
pub(super) struct StrictQuery<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<AdminState> for StrictQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, _: &AdminState) -> Result<Self, Refusal> {
        Query::try_from_uri(&head.uri)
            .map(|Query(query)| Self(query))
            .map_err(|error| {
                let told: String = error.body_text().chars().take(TOLD_CHARS_MAX).collect();
                Refusal::new(
                    Code::InvalidRequest,
                    format!("The query is not as it should be: {told}."),
                )
            })
    }
}

/// Which rows of a list are wanted.
pub(super) fn slice(limit: Option<u32>, cursor: Option<&str>) -> Result<Slice, Refusal> {
    if limit.is_some_and(|limit| !(1..=Slice::MAX).contains(&limit)) {
        return Err(Refusal::invalid(
            "limit",
            format!("limit is from 1 to {}.", Slice::MAX),
        ));
    }
    // No key has one, and Postgres takes none.
    let cursor = cursor.map(|text| Cursor::parse(text).filter(|_| !text.contains('\0')));
    let wrong = || {
        Refusal::invalid(
            "cursor",
            "Not a cursor of this list: take `next` of the page before.",
        )
    };
    let after = cursor.map(|cursor| cursor.ok_or_else(wrong)).transpose()?;
    Ok(Slice::new(limit, after))
}

/// The user in the path.
pub(super) struct UserId(pub(super) Uuid);

impl FromRequestParts<AdminState> for UserId {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, state: &AdminState) -> Result<Self, Refusal> {
        let id = Path::<Uuid>::from_request_parts(head, state).await;
        id.map(|Path(id)| Self(id))
            .map_err(|_| Refusal::invalid("id", "The user's id must be a UUID."))
    }
}

const LOOK: [Code; 6] = [
    Code::MissingToken,
    Code::InvalidToken,
    Code::CrossOrigin,
    Code::RateLimited,
    Code::StoreUnavailable,
    Code::Overloaded,
];
const SENT: [Code; 2] = [Code::BodyTooLarge, Code::UnsupportedMediaType];

/// The refusals of a route that may be looked at.
pub(super) struct AdminRefusals;

impl IntoResponses for AdminRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&LOOK)
    }
}

/// The refusals of a route that changes something.
pub(super) struct ChangeRefusals;

impl IntoResponses for ChangeRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[&LOOK[..], &SENT, &[Code::InsufficientScope]].concat())
    }
}

/// The refusals of signing in.
pub(super) struct SignInRefusals;

impl IntoResponses for SignInRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let wrong = [
            Code::InvalidToken,
            Code::CrossOrigin,
            Code::RateLimited,
            Code::StoreUnavailable,
            Code::Overloaded,
        ];
        refusals(&[&wrong[..], &SENT].concat())
    }
}

/// The refusals of the dashboard's files.
pub(super) struct PageRefusals;

impl IntoResponses for PageRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[Code::NotFound])
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        number: u8,
    }

    #[test]
    fn what_was_sent_is_never_told_back() {
        assert_eq!(parse::<Wanted>(br#"{"number": 7}"#).unwrap().number, 7);
        for (body, param) in [
            (&b"[7]"[..], None),
            (b"", None),
            (b"\"canary\"", None),
            (br#"{"number": "canary"}"#, Some("number")),
            (br#"{"number": 256}"#, Some("number")),
            (b"{}", None),
        ] {
            let refusal = parse::<Wanted>(body).unwrap_err();
            assert_eq!(refusal.param.as_deref(), param, "{}", refusal.message);
            assert!(!refusal.message.contains("canary"), "{}", refusal.message);
        }
    }
}
