//! An upstream's answer: its head, its body within bounds, and what of an error may be told to a caller.
//!
//! Invariant: nothing of an upstream's error passes but a status of three, a code and a parameter that name nobody, and a
//! stripped message. Its headers, cookies and body never do.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::Received;
use super::error_body::{ErrorBody, Filtered, seconds};
use super::health::Failure;
use super::strip::{is_harmless_word, strip};
use crate::clock::Timestamp;
use crate::config::{CapName, Manner, UpstreamConfig};
use crate::error::{Code, Refusal};

/// The most that is read of an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long reading an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait that is passed on.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

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

/// How an answer that is no completion ends a request.
#[derive(Debug)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// How much of the work was done.
    pub work: Work,
    /// What the upstream's health is told; none when it answered as it should.
    pub failure: Option<Failure>,
    /// What the operator should write, if its settings are at fault.
    pub advice: Option<Advice>,
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

impl Refused {
    /// It failed in place of an answer, and says no more.
    #[must_use]
    pub fn failed() -> Self {
        Self { refusal: upstream_error(), work: Work::Failed, failure: Some(Failure::Error), advice: None }
    }
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

    /// Whether the body is meant for people to read.
    fn is_plain_text(&self) -> bool {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        kind.trim_start().to_ascii_lowercase().starts_with("text/plain")
    }

    /// Reads an answer other than 200 as what to tell the caller and how to end the row (the contract's table of
    /// refusals). Takes at most a few seconds and 64 KiB, and closes the connection on more.
    pub async fn refusal(self, from: &UpstreamConfig, now: Timestamp) -> Refused {
        let (encoding_ok, is_text) = (self.encoding_ok(), self.is_plain_text());
        let Self { status, headers, body } = self;
        let deadline = Instant::now().checked_add(ERROR_TIMEOUT).unwrap_or_else(Instant::now);
        let bytes = read(body, ERROR_BYTES_MAX, ERROR_TIMEOUT, deadline).await.ok();
        let bytes = bytes.filter(|_| encoding_ok).unwrap_or_default();
        let error = ErrorBody::parse(&bytes, is_text).unwrap_or_default();
        let refused = classify(status, &error, retry_after(&headers, now), from);
        tell(&refused, status, from);
        refused
    }
}

/// The error that a body with status 200 is in truth, if it is one: nothing was generated.
pub fn error_in(body: &[u8], from: &UpstreamConfig) -> Option<Refused> {
    if body.len() > ERROR_BYTES_MAX {
        return None;
    }
    let error = ErrorBody::in_success(body)?;
    let status = error.status.and_then(|status| StatusCode::from_u16(status).ok());
    let mut refused = if let Some(status) = status {
        classify(status, &error, None, from)
    } else {
        let failure = error.account_fault(false).unwrap_or(Failure::Error);
        Refused { work: work(StatusCode::OK, &error), failure: Some(failure), ..Refused::failed() }
    };
    if matches!(refused.work, Work::Refused | Work::TimedOut | Work::Strange) {
        refused.work = Work::Failed;
    }
    tell(&refused, StatusCode::OK, from);
    Some(refused)
}

/// Says in the log what the operator should know. The body may quote a prompt or the operator's key: it is never logged.
fn tell(refused: &Refused, status: StatusCode, from: &UpstreamConfig) {
    if let Some(failure) = refused.failure {
        tracing::warn!(upstream = %from.name, %status, failure = failure.as_str(), "the upstream refused");
    }
    if refused.failure == Some(Failure::Budget) {
        tracing::error!(upstream = %from.name, "the budget at the upstream is used up: raise it there");
    }
    if let Some(Advice { line, .. }) = refused.advice {
        tracing::warn!(upstream = %from.name, %status, "{line}");
    }
}

fn classify(status: StatusCode, error: &ErrorBody, retry_after: Option<Duration>, from: &UpstreamConfig) -> Refused {
    let work = work(status, error);
    let advice = Advice::find(status, error, from);
    let ended = |refusal, failure| Refused { refusal, work, failure, advice };
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
        Some(Filtered::Output) => Work::Output,
        Some(Filtered::Prompt) => Work::Prompt,
        None if error.is_late() => Work::Unknown,
        None if status.is_success() => Work::Failed,
        None => Work::Refused,
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

fn late() -> Refusal {
    Refusal::new(Code::UpstreamTimeout, "The model's provider did not answer in time.")
}

/// A refusal of the user's own request, in the upstream's words as far as they are about it.
fn passed_on(status: StatusCode, error: &ErrorBody, from: &UpstreamConfig) -> Refusal {
    let said = Some(strip(&error.message, from)).filter(|message| !message.is_empty());
    let message = said.unwrap_or_else(|| "The model's provider refused this request as invalid.".to_owned());
    let ours = if status == StatusCode::NOT_FOUND { Code::NotFound } else { Code::InvalidRequest };
    let harmless = |word: &&str| is_harmless_word(word, from);
    let code = error.code.as_deref().filter(harmless).filter(|code| !is_ours(code) && !is_number(code));
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

/// A member that we add to requests and a server may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The member.
    member: &'static str,
    /// The flag of a row that it refused.
    pub flag: &'static str,
    /// What to write under its `[[upstreams]]`.
    pub line: &'static str,
}

const STREAM_OPTIONS: Advice = Advice {
    member: "stream_options",
    flag: "stream_options_refused",
    line: "the server refuses stream_options: write stream_usage = false under its [[upstreams]]",
};
const OLDER_NAME: Advice = Advice {
    member: "max_tokens",
    flag: "max_tokens_refused",
    line: "the server refuses max_tokens: write cap_name = \"max_completion_tokens\" under its [[upstreams]], or \
           preset = \"openai\" if it is OpenAI behind a gateway",
};
const NEWER_NAME: Advice = Advice {
    member: "max_completion_tokens",
    flag: "max_completion_tokens_refused",
    line: "the server refuses max_completion_tokens: write cap_name = \"max_tokens\" under its [[upstreams]], or \
           preset = \"compatible\" if it is not OpenAI",
};

impl Advice {
    /// What may have to be told of a server to which requests are written so.
    pub fn of(manner: Manner) -> impl Iterator<Item = Self> {
        let Manner { cap_name, stream_usage, .. } = manner;
        let options = stream_usage.then_some(STREAM_OPTIONS);
        let older = (cap_name != CapName::MaxCompletionTokens).then_some(OLDER_NAME);
        let newer = (cap_name != CapName::MaxTokens).then_some(NEWER_NAME);
        [options, older, newer].into_iter().flatten()
    }

    /// What an error says of it.
    fn find(status: StatusCode, error: &ErrorBody, from: &UpstreamConfig) -> Option<Self> {
        Self::of(from.manner).find(|advice| matches!(status.as_u16(), 400 | 422) && error.refuses(advice.member))
    }
}

/// `retry-after-ms`, else `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most an hour. Neither need be
/// whole.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(seconds).and_then(|millis| millis.checked_div(1000));
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
