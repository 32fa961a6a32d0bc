//! The routes of kept answers: the rest of one after an app slept, and the end of it.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::{App, Caller};
use crate::error::Refusal;
use crate::openapi::{KeptAnswerRefusals, SseEvent};
use crate::proxy::replay;

/// The number of the last event that a client has, as `EventSource` sends it.
const LAST_EVENT_HEADER: HeaderName = HeaderName::from_static("last-event-id");

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    /// The number of the last event that the client has; the first is 1. The header `Last-Event-ID` goes before it.
    #[param(value_type = Option<u64>, minimum = 0)]
    after: Option<String>,
}

/// The header of the same meaning.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "it says what `after` reads")]
struct LastEventId {
    /// The number of the last event that the client has.
    #[param(rename = "Last-Event-ID", minimum = 0)]
    last_event_id: Option<u64>,
}

/// An answer that is kept, as it was given.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the answer's bytes pass as they were")]
struct KeptAnswer(Value);

/// The answer to a request that was sent with an `Idempotency-Key`
///
/// A stream gives the events after the last one that the client has, each with its number (`id: N`), then what comes. A whole
/// answer is given as it was. Where it is not there yet, it is waited for.
///
/// # Errors
/// As `proxy::replay::resume`; `invalid_request` for a number that is none.
#[utoipa::path(
    get,
    path = "/api/answers/{id}",
    tag = "account",
    params(("id" = Uuid, Path, description = "The `X-Request-Id` of the answer"), After, LastEventId),
    responses(
        (status = 200, description = "Of a stream, events", content(
            (KeptAnswer = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        KeptAnswerRefusals
    )
)]
pub(crate) async fn answer(
    State(app): State<Arc<App>>,
    Caller { who, place }: Caller,
    id: Result<Path<Uuid>, PathRejection>,
    query: Result<Query<After>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let after = after(&headers, query)?;
    let Path(id) = id.map_err(|_| replay::unknown())?;
    replay::resume(&app, (who.user_id(), id), after, place).await
}

/// Ends such an answer
///
/// What is still running is cut off and charged as if its caller had hung up; nothing of the answer is kept.
///
/// # Errors
/// As `proxy::replay::stop`.
#[utoipa::path(
    delete,
    path = "/api/answers/{id}",
    tag = "account",
    params(("id" = Uuid, Path, description = "The `X-Request-Id` of the answer")),
    responses((status = 204, description = "It has ended"), KeptAnswerRefusals)
)]
pub(crate) async fn stop_answer(
    State(app): State<Arc<App>>,
    Caller { who, place: _place }: Caller,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(id) = id.map_err(|_| replay::unknown())?;
    replay::stop(&app, (who.user_id(), id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The number of the last event that the client has; 0 where it has none.
fn after(headers: &HeaderMap, query: Result<Query<After>, QueryRejection>) -> Result<u64, Refusal> {
    let Query(After { after }) =
        query.map_err(|_| Refusal::invalid("after", "The one parameter is after=N, once."))?;
    let after = number("after", after.as_deref().unwrap_or("0"))?;
    let mut values = headers.get_all(LAST_EVENT_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(after),
        // A client that has no event yet may say so.
        (Some(value), None) if value.is_empty() => Ok(after),
        (Some(value), None) => number("Last-Event-ID", value.to_str().unwrap_or_default()),
        (Some(_), Some(_)) => number("Last-Event-ID", ""),
    }
}

fn number(name: &str, text: &str) -> Result<u64, Refusal> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| {
        Refusal::invalid(
            name,
            format!("{name} is the number of an event, such as 12."),
        )
    })
}
