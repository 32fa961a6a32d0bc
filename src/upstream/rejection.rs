//! An answer that is no completion: what the caller is told, and how the row ends (the contract's table of refusals).
//!
//! Invariant: nothing of an upstream's error passes but a status of three, a code and a parameter that name nobody, and a
//! redacted message. Its headers, cookies and body never do.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::advice::Advice;
use super::answer::{Answer, read};
use super::error_body::{ErrorBody, FilterTarget, seconds};
use super::health::Failure;
use super::redact::{is_harmless_word, redact};
use crate::clock::Timestamp;
use crate::config::UpstreamConfig;
use crate::error::{Code, Refusal};

/// The most that is read of an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long reading an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait that is passed on.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// How an answer that is no completion ends a request.
#[derive(Debug)]
pub struct Rejection {
    /// What the caller is told.
    pub refusal: Refusal,
    /// How much of the work was done.
    pub work: Work,
    /// What the upstream's health is told; none when it answered as it should.
    pub failure: Option<Failure>,
    /// What the operator should write, if its settings are at fault.
    pub advice: Option<Advice>,
    /// It did nothing, for certain, and not because of what was asked: another may be asked the same.
    pub is_elsewhere: bool,
}

/// How much an upstream had done when it refused: the contract's table of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// None: it refused the request (4xx). That was load.
    Refused,
    /// None: it failed (5xx, or an error in place of an answer).
    Failed,
    /// A filter read the prompt.
    Prompt,
    /// A filter stopped what was generated.
    Output,
    /// It worked and did not deliver, or nobody knows.
    Unknown,
    /// It waited in vain for itself or for another (408, 504, 524).
    TimedOut,
    /// A success that is no completion (202, 204, …): something may have run.
    Strange,
}

impl Rejection {
    /// It failed in place of an answer, and says no more.
    #[must_use]
    pub fn failed() -> Self {
        Self {
            refusal: upstream_error(),
            work: Work::Failed,
            failure: Some(Failure::Error),
            advice: None,
            is_elsewhere: true,
        }
    }

    /// Reads an answer other than 200. Takes at most a few seconds and 64 KiB, and closes the connection on more.
    pub async fn read(answer: Answer, from: &UpstreamConfig, now: Timestamp) -> Self {
        let (encoding_ok, is_text) = (answer.encoding_ok(), answer.is_plain_text());
        let Answer {
            status,
            headers,
            body,
        } = answer;
        let deadline = Instant::now()
            .checked_add(ERROR_TIMEOUT)
            .unwrap_or_else(Instant::now);
        let bytes = read(body, ERROR_BYTES_MAX, ERROR_TIMEOUT, deadline)
            .await
            .ok();
        let bytes = bytes.filter(|_| encoding_ok).unwrap_or_default();
        let error = ErrorBody::parse(&bytes, is_text).unwrap_or_default();
        let rejection = classify(status, &error, retry_after(&headers, now), from);
        report(&rejection, status, from);
        rejection
    }

    /// The error that a body with status 200 is in truth, if it is one: nothing was generated.
    #[must_use]
    pub fn in_success(body: &[u8], from: &UpstreamConfig) -> Option<Self> {
        if body.len() > ERROR_BYTES_MAX {
            return None;
        }
        let error = ErrorBody::in_success(body)?;
        let status = error
            .status
            .and_then(|status| StatusCode::from_u16(status).ok());
        let mut rejection = if let Some(status) = status {
            classify(status, &error, None, from)
        } else {
            let failure = error.account_fault(false).unwrap_or(Failure::Error);
            Self {
                work: work(StatusCode::OK, &error),
                failure: Some(failure),
                ..Self::failed()
            }
        };
        if matches!(
            rejection.work,
            Work::Refused | Work::TimedOut | Work::Strange
        ) {
            rejection.work = Work::Failed;
        }
        report(&rejection, StatusCode::OK, from);
        Some(rejection)
    }
}

/// Says in the log what the operator should know. The body may quote a prompt or the operator's key: it is never logged.
fn report(rejection: &Rejection, status: StatusCode, from: &UpstreamConfig) {
    if let Some(failure) = rejection.failure {
        tracing::warn!(upstream = %from.name, %status, failure = failure.as_str(), "the upstream refused");
    }
    if rejection.failure == Some(Failure::Budget) {
        tracing::error!(upstream = %from.name, "the budget at the upstream is used up: raise it there");
    }
    if let Some(Advice { line, .. }) = rejection.advice {
        tracing::warn!(upstream = %from.name, %status, "{line}");
    }
}

fn classify(
    status: StatusCode,
    error: &ErrorBody,
    retry_after: Option<Duration>,
    from: &UpstreamConfig,
) -> Rejection {
    let work = work(status, error);
    let advice = Advice::find(status, error, from);
    let is_elsewhere = is_elsewhere(status, error, work);
    let ended = |refusal, failure| Rejection {
        refusal,
        work,
        failure,
        advice,
        is_elsewhere,
    };
    let failed = |failure| ended(upstream_error(), Some(failure));
    let said = |status| ended(passed_on(status, error, from), None);
    let account = error.account_fault(status == StatusCode::FORBIDDEN);
    let is_filter = matches!(work, Work::Prompt | Work::Output);
    match (status.as_u16(), account) {
        (401, _) => failed(Failure::Unauthorized),
        (402, _) => failed(Failure::Budget),
        (403 | 451, _) if is_filter => said(StatusCode::BAD_REQUEST),
        (400 | 403 | 404 | 422 | 429, Some(failure)) => failed(failure),
        // No word of the key: it may be about one model, or about what one caller sent.
        (403, None) => failed(Failure::Forbidden),
        (429 | 503 | 529, _) => {
            let wait = retry_after.or(error.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)));
            ended(busy(wait), Some(Failure::Busy))
        }
        (400 | 422, _) => said(status),
        // Our own 413 is about the bytes that we take.
        (413, _) => said(StatusCode::BAD_REQUEST),
        (404, _) if !error.message.is_empty() && !error.is_about_the_path() => said(status),
        (408 | 504 | 524, _) => ended(late(), Some(Failure::Error)),
        _ => failed(Failure::Error),
    }
}

/// Whether another upstream may be asked the same: this one did nothing, and what it refused is not the request itself but
/// the operator's key, a model that it has not, or anything for now.
fn is_elsewhere(status: StatusCode, error: &ErrorBody, work: Work) -> bool {
    if !matches!(work, Work::Refused | Work::Failed) {
        return false;
    }
    match status.as_u16() {
        401 | 402 | 404 | 405 | 410 | 429 => true,
        400 | 403 | 422 => {
            error
                .account_fault(status == StatusCode::FORBIDDEN)
                .is_some()
                || error.is_about_the_model()
        }
        400..500 => false,
        _ => true,
    }
}

/// How much was done, by the status and what is said beside it.
fn work(status: StatusCode, error: &ErrorBody) -> Work {
    match status.as_u16() {
        408 | 504 | 524 => return Work::TimedOut,
        // The server above gave up on one that worked (424 at some hosts of models, 499 at proxies).
        424 | 499 => return Work::Unknown,
        200 | 400 | 403 | 404 | 413 | 422 | 451 => {}
        400..500 => return Work::Refused,
        200..300 => return Work::Strange,
        _ => return Work::Failed,
    }
    match error.filtered() {
        Some(FilterTarget::Output) => Work::Output,
        Some(FilterTarget::Prompt) => Work::Prompt,
        None if error.is_late() => Work::Unknown,
        None if status.is_success() => Work::Failed,
        None => Work::Refused,
    }
}

fn upstream_error() -> Refusal {
    Refusal::new(
        Code::UpstreamError,
        "The model's provider failed. This is not about your request.",
    )
}

fn busy(retry_after: Option<Duration>) -> Refusal {
    let refusal = Refusal::new(
        Code::UpstreamUnavailable,
        "The model's provider is busy. Try again later.",
    );
    match retry_after {
        Some(wait) => refusal.retry_after(wait),
        None => refusal,
    }
}

fn late() -> Refusal {
    Refusal::new(
        Code::UpstreamTimeout,
        "The model's provider did not answer in time.",
    )
}

/// A refusal of the user's own request, in the upstream's words as far as they are about it.
fn passed_on(status: StatusCode, error: &ErrorBody, from: &UpstreamConfig) -> Refusal {
    let said = Some(redact(&error.message, from)).filter(|message| !message.is_empty());
    let message =
        said.unwrap_or_else(|| "The model's provider refused this request as invalid.".to_owned());
    let ours = if status == StatusCode::NOT_FOUND {
        Code::NotFound
    } else {
        Code::InvalidRequest
    };
    let harmless = |word: &&str| is_harmless_word(word, from);
    let code = error
        .code
        .as_deref()
        .filter(harmless)
        .filter(|code| !is_ours(code) && !is_number(code));
    let code = code.unwrap_or(ours.as_str()).to_owned();
    let mut refusal = Refusal::new(Code::InvalidRequest, message);
    refusal.param = error.param.as_deref().filter(harmless).map(str::to_owned);
    refusal.passed_on = Some((status, code));
    refusal
}

/// A status in the place of a code says nothing that the status of the answer does not say.
fn is_number(code: &str) -> bool {
    code.bytes().all(|byte| byte.is_ascii_digit())
}

/// A code that means something else when it comes from us: `token_expired` would make an app refresh its token.
fn is_ours(code: &str) -> bool {
    Code::ALL.iter().any(|ours| ours.as_str() == code)
}

/// `retry-after-ms`, else `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most an hour. Neither need be
/// whole.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let millis = text("retry-after-ms")
        .and_then(seconds)
        .and_then(|millis| millis.checked_div(1000));
    let wait = millis.or_else(|| {
        let text = text("retry-after")?;
        seconds(text.strip_suffix('s').unwrap_or(text)).or_else(|| until(text, now))
    });
    wait.map(|wait| wait.min(RETRY_AFTER_MAX))
}

fn until(date: &str, now: Timestamp) -> Option<Duration> {
    let moment = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(Timestamp::from_millis(moment.timestamp().as_millisecond()).since(now))
}
