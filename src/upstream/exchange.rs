//! A request on its way to an upstream, and why there may be no answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use super::answer::Answer;
use super::health::Failure;
use crate::error::{Code, Refusal};

/// A request on its way: resolves to the head of the answer.
///
/// It can be moved to another task half-way, so that an answer is read on when its caller has left. Dropping it closes
/// the connection.
#[must_use = "nothing is sent until it is polled"]
pub struct Exchange {
    answer: Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>>,
    sent: Arc<AtomicBool>,
}

impl Exchange {
    pub(super) fn new(
        answer: impl Future<Output = Result<Answer, SendError>> + Send + 'static,
        sent: Arc<AtomicBool>,
    ) -> Self {
        Self {
            answer: Box::pin(answer),
            sent,
        }
    }

    /// Whether the upstream may have the request. While false, it certainly has not.
    #[must_use]
    pub fn sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// [`Exchange::sent`], for one who gives the exchange away.
    #[must_use]
    pub fn sent_flag(&self) -> Arc<AtomicBool> {
        self.sent.clone()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Exchange")
            .field("sent", &self.sent())
            .finish_non_exhaustive()
    }
}

impl Future for Exchange {
    type Output = Result<Answer, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context)
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It could not be reached, and nothing was sent: no name, no connection, no TLS, or none in time.
    Connect,
    /// Sent, and no head of an answer in time. It may be running.
    TimedOut,
    /// Sent, and the connection broke before the head of an answer. It may be running.
    Broken,
}

impl SendError {
    /// What the caller is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Connect => Refusal::new(
                Code::UpstreamUnavailable,
                "The model's provider cannot be reached.",
            ),
            Self::TimedOut => Refusal::new(
                Code::UpstreamTimeout,
                "The model's provider did not answer in time.",
            ),
            Self::Broken => Refusal::new(
                Code::UpstreamError,
                "The model's provider broke off before it answered.",
            ),
        }
    }

    /// What its health is told.
    #[must_use]
    pub const fn failure(self) -> Failure {
        match self {
            Self::Connect => Failure::Connect,
            Self::TimedOut => Failure::TimedOut,
            Self::Broken => Failure::Broken,
        }
    }
}
