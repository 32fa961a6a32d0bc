//! What a user says, put to a moderation model before it is answered: for plans that say so.
//!
//! Once a request, between its hold and its dispatch: who has reached a limit asks for nothing, and a hold that is made
//! again for a shorter answer is not checked again. What is flagged, and what cannot be checked, is not sent, and its hold is
//! voided.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::app::App;
use crate::config::{Config, UpstreamConfig};
use crate::endpoint::moderations::SPEC;
use crate::endpoint::moderations::verdict::ModerationVerdict;
use crate::endpoint::{Endpoint, JSON, UserInput};
use crate::error::{Code, Refusal};
use crate::ledger::{Flag, Reservation, Settlement};
use crate::observe::metrics::ModerationOutcome;
use crate::plan::Plan;
use crate::upstream::{Outgoing, answer};

/// How long a verdict is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest verdict.
const VERDICT_BYTES_MAX: usize = 256 * 1024;
/// How many pictures are checked for a request.
const IMAGES_MAX: usize = 16;

/// Has what the user said checked, if the plan says so.
///
/// # Errors
/// `content_flagged`; `upstream_unavailable`: nobody can say whether it is to be flagged; `unsupported_field`: it cannot be
/// read. The hold is voided then.
pub(super) async fn check(
    (app, config): (&App, &Config),
    plan: &Plan,
    order: &dyn Endpoint,
    reservation: Reservation,
) -> Result<Reservation, Refusal> {
    if !plan.moderates_input {
        return Ok(reservation);
    }
    let input = order.user_input()?;
    check_images(&input)?;
    let verdict = verdict((app, config), &input).await;
    let outcome = match &verdict {
        Ok(None) => return Ok(reservation),
        Ok(Some(ModerationVerdict::Passed)) => ModerationOutcome::Passed,
        Ok(Some(ModerationVerdict::Flagged(_))) => ModerationOutcome::Flagged,
        Err(_) => ModerationOutcome::Failed,
    };
    app.metrics.moderation(outcome);
    match verdict? {
        Some(ModerationVerdict::Flagged(categories)) => {
            reservation.end(Settlement::void().flag(Flag::ContentFlagged));
            let categories: Vec<_> = categories.into_iter().collect();
            Err(flagged(&categories))
        }
        Some(ModerationVerdict::Passed) | None => Ok(reservation),
    }
}

fn check_images(input: &UserInput<'_>) -> Result<(), Refusal> {
    if input.images.len() <= IMAGES_MAX {
        return Ok(());
    }
    let message = format!("At most {IMAGES_MAX} images can be sent at a time in this plan.");
    Err(Refusal::new(Code::InvalidRequest, message))
}

/// What is said of all that the user said; none where that is nothing.
async fn verdict(
    (app, config): (&App, &Config),
    input: &UserInput<'_>,
) -> Result<Option<ModerationVerdict>, Refusal> {
    let moderator = config.moderator.as_ref().ok_or_else(unavailable)?;
    let questions = input.questions(&moderator.model).into_iter();
    let now = Instant::now();
    let deadline = now.checked_add(PATIENCE).unwrap_or(now);
    let begin =
        |question| -> Asked<'_> { Box::pin(ask((app, &moderator.upstream), question, deadline)) };
    let asked = questions.map(begin).collect();
    let mut verdict = None;
    for said in all(asked).await {
        let Some(said) = said else {
            tracing::warn!(upstream = %moderator.upstream.name, "the moderation model cannot be asked: requests of plans with moderation are refused");
            return Err(unavailable());
        };
        verdict = Some(match verdict {
            None => said,
            Some(verdict) => said.and(verdict),
        });
    }
    Ok(verdict)
}

/// A question on its way.
type Asked<'a> = Pin<Box<dyn Future<Output = Option<ModerationVerdict>> + Send + 'a>>;

/// One question. No answer is none, and so is one that says nothing.
async fn ask(
    (app, to): (&App, &UpstreamConfig),
    question: Bytes,
    deadline: Instant,
) -> Option<ModerationVerdict> {
    let outgoing = Outgoing {
        path: SPEC.upstream_path,
        body: question,
        content_type: HeaderValue::from_static(JSON.media_type),
        stream: false,
        anthropic_beta: None,
    };
    let exchange = app.upstreams().send(to, outgoing, Uuid::now_v7());
    let answer = timeout_at(deadline, exchange).await.ok()?.ok()?;
    if answer.status != StatusCode::OK || !answer.encoding_ok() {
        return None;
    }
    let body = answer::read(answer.body, VERDICT_BYTES_MAX, PATIENCE, deadline).await;
    ModerationVerdict::read(&body.ok()?)
}

/// Waits for all of them at once.
async fn all(asked: Vec<Asked<'_>>) -> Vec<Option<ModerationVerdict>> {
    let mut open: Vec<_> = asked.into_iter().map(|asked| (asked, None)).collect();
    poll_fn(move |context| {
        let mut is_done = true;
        for (asked, said) in &mut open {
            if said.is_none() {
                match asked.as_mut().poll(context) {
                    Poll::Ready(verdict) => *said = Some(verdict),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            Poll::Ready(open.drain(..).filter_map(|(_, said)| said).collect())
        } else {
            Poll::Pending
        }
    })
    .await
}

fn flagged(categories: &[String]) -> Refusal {
    let named = if categories.is_empty() {
        String::new()
    } else {
        format!(" ({})", categories.join(", "))
    };
    let message = format!("This cannot be answered: what was said is against the rules{named}.");
    Refusal::new(Code::ContentFlagged, message).with("categories", json!(categories))
}

fn unavailable() -> Refusal {
    Refusal::new(
        Code::UpstreamUnavailable,
        "What was said cannot be checked right now, so nothing was sent. Try again in a moment.",
    )
}
