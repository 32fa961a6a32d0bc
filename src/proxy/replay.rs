//! Requests that may be sent again: the first with its key runs, and all others get its answer.
//!
//! Looked for in memory before any limit is, so that a user who has reached one still gets what was paid for. What this
//! process does not keep, the ledger refuses.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use super::idempotency;
use crate::answers::{Claim, Follower, HeadOutcome, Lookup, Run};
use crate::app::{App, Place, RequestId};
use crate::error::{Code, Refusal};
use crate::ledger::read::report::Reports;
use crate::ledger::{EndState, IdempotencyKey, Repetition};
use crate::price::MicroUsd;

/// Says that an answer is the one that was given before.
pub(crate) const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotent-replayed");
/// `1` asks for the number of each event.
const RESUME_HEADER: HeaderName = HeaderName::from_static("x-tollgate-resume");

/// The turn of a request that is the first with its key.
#[derive(Debug)]
pub(super) struct FirstRun {
    pub(super) run: Run,
    pub(super) caller: Follower,
}

/// What becomes of a request.
pub(super) enum Claimed {
    /// It is the first with its key, or has none.
    Runs(Option<FirstRun>, Place),
    /// It gets the answer of the one with this id.
    Again(Uuid, Response),
}

/// Whether it is the first with its key. If not, waits until the first is answered, and gives that answer.
///
/// # Errors
/// `idempotency_key_reused`: the key stands for another request.
pub(super) async fn claim(
    app: &App,
    (user_id, id): (Uuid, Uuid),
    key: Option<&IdempotencyKey>,
    headers: &HeaderMap,
    place: Place,
) -> Result<Claimed, Refusal> {
    let Some(key) = key else {
        return Ok(Claimed::Runs(None, place));
    };
    let numbered = |follower: Follower| {
        if headers.get(RESUME_HEADER).is_some_and(|value| value == "1") {
            follower.numbered_after(0)
        } else {
            follower
        }
    };
    loop {
        match app.answers.claim(user_id, (&key.key, &key.digest), id) {
            Claim::Other => return Err(idempotency::reused()),
            Claim::First(run, caller) => {
                let caller = numbered(caller);
                return Ok(Claimed::Runs(Some(FirstRun { run, caller }), place));
            }
            Claim::Again(follower) => {
                if let HeadOutcome::Answer(status, headers) = follower.head().await {
                    let first = follower.id();
                    app.answers.note_replay();
                    let mut place = place;
                    // The body that was sent is of no more use.
                    place.body_is(0);
                    let mut response = answer(numbered(follower), (status, headers), place);
                    response
                        .headers_mut()
                        .insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
                    return Ok(Claimed::Again(first, response));
                }
                // It was never sent, or its answer is gone: the key is nobody's here.
            }
        }
    }
}

/// The answer to the caller of the first request; how it ended, where it was stopped or broke off before anybody heard of it.
pub(super) async fn first(app: &Arc<App>, caller: Follower) -> Response {
    if let HeadOutcome::Answer(status, headers) = caller.head().await {
        return answer(caller, (status, headers), ());
    }
    let refusal = match keyed_request(app, (caller.user_id(), caller.id())).await {
        Ok(Some(request)) => idempotency::refusal(&request),
        // Nothing is charged, so the key is free again.
        Ok(None) => {
            let end = (EndState::Voided, MicroUsd(0));
            idempotency::gone("This answer was stopped.", caller.id(), Some(end))
        }
        Err(refusal) => refusal,
    };
    refusal.into_response()
}

/// The answer with this id, to its user, from the event after `after` on.
///
/// # Errors
/// `answer_gone`: it is kept no longer, or not in this process; `not_found`: there is no such answer of this user.
pub(crate) async fn resume(
    app: &Arc<App>,
    (user_id, id): (Uuid, Uuid),
    after: u64,
    place: Place,
) -> Result<Response, Refusal> {
    match app.answers.find(user_id, id) {
        Lookup::Here(follower) => {
            let follower = follower.numbered_after(after);
            match follower.head().await {
                HeadOutcome::Answer(status, headers) => {
                    Ok(answer(follower, (status, headers), place))
                }
                HeadOutcome::Unsent => Err(unknown()),
                HeadOutcome::Gone => Err(not_here(app, (user_id, id), true).await),
            }
        }
        Lookup::Gone => Err(not_here(app, (user_id, id), true).await),
        Lookup::Unknown => Err(not_here(app, (user_id, id), false).await),
    }
}

/// Stops an answer, and lets go of it.
///
/// # Errors
/// As [`resume`].
pub(crate) async fn stop(app: &Arc<App>, (user_id, id): (Uuid, Uuid)) -> Result<(), Refusal> {
    match app.answers.find(user_id, id) {
        Lookup::Here(follower) => {
            app.answers.stop(follower).await;
            Ok(())
        }
        Lookup::Gone => Err(not_here(app, (user_id, id), true).await),
        Lookup::Unknown => Err(not_here(app, (user_id, id), false).await),
    }
}

/// Why there is no answer here, by what the ledger knows of its request.
async fn not_here(app: &Arc<App>, (user_id, id): (Uuid, Uuid), was_here: bool) -> Refusal {
    match keyed_request(app, (user_id, id)).await {
        Ok(Some(request)) => {
            let refusal = idempotency::refusal(&request);
            if was_here {
                refusal.with_status(StatusCode::GONE)
            } else {
                refusal
            }
        }
        Ok(None) => unknown(),
        Err(refusal) => refusal,
    }
}

/// What the ledger knows of a request that has a key.
async fn keyed_request(
    app: &Arc<App>,
    (user_id, id): (Uuid, Uuid),
) -> Result<Option<Repetition>, Refusal> {
    let read = move |reports: &Reports| reports.keyed_request(user_id, id);
    app.directory.reader().read(read).await.map_err(|error| {
        tracing::warn!(error, "the usage log cannot be read");
        Refusal::new(
            Code::StoreUnavailable,
            "The usage log cannot be read right now.",
        )
    })
}

pub(crate) fn unknown() -> Refusal {
    Refusal::new(Code::NotFound, "There is no such answer.")
}

/// A kept answer as it was, with the id of the request that began it.
fn answer(
    follower: Follower,
    (status, headers): (StatusCode, HeaderMap),
    guard: impl Send + Unpin + 'static,
) -> Response {
    let id = follower.id();
    let mut response = Response::new(follower.into_body(guard));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let mut text = Uuid::encode_buffer();
    if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        response.headers_mut().insert(RequestId::HEADER, id);
    }
    response
}
