//! An upstream's answer: its head, and its body within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::UpstreamBody;
use crate::error::{Code, Refusal};

/// The head of an upstream's answer, and its body to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers. None of them may pass to a caller.
    pub headers: HeaderMap,
    /// The body, not read yet.
    pub body: UpstreamBody,
}

impl Answer {
    /// Whether the body is what it seems: identity was asked for, and anything else would hide its usage.
    #[must_use]
    pub fn encoding_ok(&self) -> bool {
        self.headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .all(|value| value == "identity")
    }

    /// Whether the body says that it is a stream of events.
    #[must_use]
    pub fn is_event_stream(&self) -> bool {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        kind.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case("text/event-stream")
    }

    /// Whether the body is meant for people to read.
    pub(super) fn is_plain_text(&self) -> bool {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        kind.trim_start()
            .to_ascii_lowercase()
            .starts_with("text/plain")
    }
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
            Self::TooLarge => Refusal::new(
                Code::UpstreamError,
                "The answer of the model's provider is too long.",
            ),
            Self::TimedOut => Refusal::new(
                Code::UpstreamTimeout,
                "The model's provider did not finish in time.",
            ),
            Self::Broken => Refusal::new(
                Code::UpstreamError,
                "The model's provider broke off in mid-answer.",
            ),
        }
    }
}

/// Reads a whole body: at most `bytes_max` bytes, no silence longer than `idle_timeout`, done by `deadline`.
///
/// # Errors
/// Which of the bounds it broke, or that the connection did.
pub async fn read<B>(
    body: B,
    bytes_max: usize,
    idle_timeout: Duration,
    deadline: Instant,
) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    let mut whole = BytesMut::new();
    loop {
        let next = timeout_at(deadline, timeout(idle_timeout, body.frame())).await;
        let Ok(Ok(frame)) = next else {
            return Err(ReadError::TimedOut);
        };
        let Some(frame) = frame else {
            return Ok(whole.freeze());
        };
        let frame = frame.map_err(|_| ReadError::Broken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
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
        assert_eq!(
            read(body(), 3, second, deadline).await,
            Err(ReadError::TooLarge)
        );
        let start = Instant::now();
        assert_eq!(
            read(Silent, 9, second * 3, deadline).await,
            Err(ReadError::TimedOut)
        );
        assert_eq!(start.elapsed(), second * 3, "silence");
        assert_eq!(
            read(Silent, 9, second * 30, deadline).await,
            Err(ReadError::TimedOut)
        );
        assert_eq!(start.elapsed(), second * 10, "the deadline");
    }
}
