//! An upstream's answer: its head, its body within bounds, and what of an error may be told to a caller.
//!
//! Invariant: nothing of an upstream's error passes but a status of three, a code and a parameter that name nobody, and a
//! stripped message. Its headers, cookies and body never do.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::Received;
use super::health::Failure;
use super::strip::{is_harmless_word, strip};
use crate::clock::Timestamp;
use crate::config::UpstreamConfig;
use crate::error::{Code, Refusal};

/// The most that is read of an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long reading an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait that is passed on.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Error codes and types that say that the operator's account is at fault, where their prefix does not say so.
const ACCOUNT_CODES: [&str; 12] = [
    "access_terminated",
    "account_deactivated",
    "authentication_error",
    "credit_balance_exhausted",
    "incorrect_api_key",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_organization",
    "mismatched_organization",
    "mismatched_project",
    "permission_error",
    "unsupported_country_region_territory",
];

/// The head of an upstream's answer, and its body to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers. None of them may pass to a caller.
    pub headers: HeaderMap,
    /// The body, not read yet.
    pub body: Received,
}

/// How an answer other than 200 ends a request.
#[derive(Debug)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// The upstream answered 4xx: voided, but it was load. Otherwise it was not.
    pub was_4xx: bool,
    /// A success that is not a completion (202, 204, …): something may have run, so the row is not to be voided.
    pub may_have_run: bool,
    /// What the upstream's health is told; none when it answered as it should.
    pub failure: Option<Failure>,
}

impl Answer {
    /// Whether the body is what it seems: identity was asked for, and anything else would hide its usage.
    #[must_use]
    pub fn encoding_ok(&self) -> bool {
        self.headers.get_all(header::CONTENT_ENCODING).iter().all(|value| value == "identity")
    }

    /// Whether the body says that it is a stream of events.
    #[must_use]
    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
    }

    /// Reads an answer other than 200 as what to tell the caller and how to end the row (the contract's table of
    /// refusals). Takes at most a few seconds and 64 KiB, and closes the connection on more.
    pub async fn refusal(self, from: &UpstreamConfig, now: Timestamp) -> Refused {
        let encoding_ok = self.encoding_ok();
        let Self { status, headers, body } = self;
        let deadline = Instant::now().checked_add(ERROR_TIMEOUT).unwrap_or_else(Instant::now);
        let bytes = read(body, ERROR_BYTES_MAX, ERROR_TIMEOUT, deadline).await.ok();
        let bytes = bytes.filter(|_| encoding_ok).unwrap_or_default();
        let error = UpstreamError::parse(&bytes);
        let (refusal, failure) = classify(status, error.as_ref(), retry_after(&headers, now), from);
        if let Some(failure) = failure {
            // The body may quote a prompt or the operator's key: it is never logged.
            tracing::warn!(upstream = %from.name, %status, failure = failure.as_str(), "the upstream refused");
        }
        if failure == Some(Failure::Budget) {
            tracing::error!(upstream = %from.name, "the budget at the upstream is used up: raise it there");
        }
        Refused { refusal, was_4xx: status.is_client_error(), may_have_run: status.is_success(), failure }
    }
}

fn classify(
    status: StatusCode,
    error: Option<&UpstreamError<'_>>,
    retry_after: Option<Duration>,
    from: &UpstreamConfig,
) -> (Refusal, Option<Failure>) {
    let account = error.is_some_and(UpstreamError::is_about_the_account);
    let failed = |failure| (upstream_error(), Some(failure));
    match status.as_u16() {
        401 | 403 => failed(Failure::Unauthorized),
        402 => failed(Failure::Budget),
        400 | 404 | 422 | 429 if account => failed(Failure::Budget),
        429 | 503 => (busy(retry_after), Some(Failure::Busy)),
        400 | 422 => (passed_on(status, error, from), None),
        404 if error.is_some_and(|error| !error.is_about_the_path()) => (passed_on(status, error, from), None),
        _ => failed(Failure::Error),
    }
}

fn upstream_error() -> Refusal {
    Refusal::new(Code::UpstreamError, "The model's provider failed. This is not about your request.")
}

fn busy(retry_after: Option<Duration>) -> Refusal {
    let refusal = Refusal::new(Code::UpstreamUnavailable, "The model's provider is busy. Try again later.");
    match retry_after {
        Some(wait) => refusal.retry_after(wait),
        None => refusal,
    }
}

/// A refusal of the user's own request, in the upstream's words as far as they are about it.
fn passed_on(status: StatusCode, error: Option<&UpstreamError<'_>>, from: &UpstreamConfig) -> Refusal {
    let said = error.map(|error| strip(&error.message, from)).filter(|message| !message.is_empty());
    let message = said.unwrap_or_else(|| "The model's provider refused this request as invalid.".to_owned());
    let ours = if status == StatusCode::NOT_FOUND { Code::NotFound } else { Code::InvalidRequest };
    let harmless = |word: &&str| is_harmless_word(word, from);
    let code = error.and_then(|error| error.code.as_deref()).filter(harmless).filter(|code| !is_ours(code));
    let code = code.unwrap_or(ours.as_str()).to_owned();
    let mut refusal = Refusal::new(Code::InvalidRequest, message);
    refusal.param = error.and_then(|error| error.param.as_deref()).filter(harmless).map(str::to_owned);
    refusal.passed_on = Some((status, code));
    refusal
}

/// A code that means something else when it comes from us: `token_expired` would make an app refresh its token.
fn is_ours(code: &str) -> bool {
    Code::ALL.iter().any(|ours| ours.as_str() == code)
}

/// OpenAI's `{"error": {"message", "type", "code", "param"}}`; other types than strings are as good as absent.
struct UpstreamError<'a> {
    message: Cow<'a, str>,
    kind: Option<Cow<'a, str>>,
    code: Option<Cow<'a, str>>,
    param: Option<Cow<'a, str>>,
}

impl<'a> UpstreamError<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outer<'b> {
            #[serde(borrow)]
            error: Inner<'b>,
        }
        #[derive(Deserialize)]
        struct Inner<'b> {
            #[serde(borrow)]
            message: Cow<'b, str>,
            #[serde(borrow, rename = "type")]
            kind: Option<&'b RawValue>,
            #[serde(borrow)]
            code: Option<&'b RawValue>,
            #[serde(borrow)]
            param: Option<&'b RawValue>,
        }
        let Outer { error } = serde_json::from_slice(body).ok()?;
        let text = |raw: Option<&'a RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Some(Self {
            message: error.message,
            kind: text(error.kind).map(Cow::Owned),
            code: text(error.code).map(Cow::Owned),
            param: text(error.param).map(Cow::Owned),
        })
    }

    /// The operator's key, organisation or budget is at fault, whatever the status.
    fn is_about_the_account(&self) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|word| {
            let is_account = ["billing_", "organization_", "project_"].iter().any(|start| word.starts_with(start));
            is_account || ACCOUNT_CODES.contains(&word.as_ref())
        })
    }

    /// The operator's base URL is at fault: OpenAI says `Invalid URL (POST /v1/x)`.
    fn is_about_the_path(&self) -> bool {
        self.message.starts_with("Invalid URL") || self.message.eq_ignore_ascii_case("not found")
    }
}

/// `retry-after-ms`, else `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most an hour.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let whole = |text: &str| text.split('.').next().and_then(|digits| digits.parse::<u64>().ok());
    let wait = match (text("retry-after-ms").and_then(whole), text("retry-after")) {
        (Some(ms), _) => Duration::from_millis(ms),
        (None, Some(text)) => match whole(text) {
            Some(seconds) => Duration::from_secs(seconds),
            None => until(text, now)?,
        },
        (None, None) => return None,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn until(date: &str, now: Timestamp) -> Option<Duration> {
    let moment = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(Timestamp::from_millis(moment.timestamp().as_millisecond()).since(now))
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Longer than it may be.
    TooLarge,
    /// Silent for too long, or not at its end by the deadline.
    TimedOut,
    /// The connection broke.
    Broken,
}

impl ReadError {
    /// What the caller is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::TooLarge => Refusal::new(Code::UpstreamError, "The answer of the model's provider is too long."),
            Self::TimedOut => Refusal::new(Code::UpstreamTimeout, "The model's provider did not finish in time."),
            Self::Broken => Refusal::new(Code::UpstreamError, "The model's provider broke off in mid-answer."),
        }
    }
}

/// Reads a whole body: at most `bytes_max` bytes, no silence longer than `idle_timeout`, done by `deadline`.
///
/// # Errors
/// Which of the bounds it broke, or that the connection did.
pub async fn read<B>(body: B, bytes_max: usize, idle_timeout: Duration, deadline: Instant) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    let mut whole = BytesMut::new();
    loop {
        let next = timeout_at(deadline, timeout(idle_timeout, body.frame())).await;
        let Ok(Ok(frame)) = next else { return Err(ReadError::TimedOut) };
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        let frame = frame.map_err(|_| ReadError::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len().saturating_add(data.len()) > bytes_max {
            return Err(ReadError::TooLarge);
        }
        // Nearly every answer comes at once, and need not be copied.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_within_its_bounds() {
        struct Silent;
        impl Body for Silent {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
                std::task::Poll::Pending
            }
        }
        let second = Duration::from_secs(1);
        let deadline = Instant::now() + second * 10;
        let body = || Full::new(Bytes::from_static(b"four"));
        assert_eq!(read(body(), 4, second, deadline).await.unwrap(), "four");
        assert_eq!(read(body(), 3, second, deadline).await, Err(ReadError::TooLarge));
        let start = Instant::now();
        assert_eq!(read(Silent, 9, second * 3, deadline).await, Err(ReadError::TimedOut));
        assert_eq!(start.elapsed(), second * 3, "silence");
        assert_eq!(read(Silent, 9, second * 30, deadline).await, Err(ReadError::TimedOut));
        assert_eq!(start.elapsed(), second * 10, "the deadline");
    }
}
