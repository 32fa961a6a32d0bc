//! A reader of an answer: it gets what is there, and then what comes, at its own pace.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use uuid::Uuid;

use super::answer::{AnswerHead, KeptAnswer};
use super::log::Position;
use crate::meter::body::{KEEP_ALIVE, KEEP_ALIVE_COMMENT, later};

/// The most that one read of a kept answer gives.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Somebody who follows an answer. Dropped, they have left it.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(super) answer: Arc<KeptAnswer>,
    /// The answer is to their own request.
    is_caller: bool,
    at: Position,
    /// Events are numbered, and those up to this one are left out.
    numbered_after: Option<u64>,
}

/// What a follower gets.
#[derive(Debug)]
pub(crate) enum HeadOutcome {
    /// An answer, whose body is [`Follower::into_body`].
    Answer(StatusCode, HeaderMap),
    /// The request was not sent, and its key is as it was: whoever has it may try.
    Unsent,
    /// The answer is kept no longer.
    Gone,
}

impl Follower {
    /// Somebody who asks for an answer that another request began.
    pub(super) fn new(answer: Arc<KeptAnswer>) -> Self {
        Self::of(answer, false)
    }

    /// The caller of the request that is to run.
    pub(super) fn caller_of(answer: Arc<KeptAnswer>) -> Self {
        Self::of(answer, true)
    }

    fn of(answer: Arc<KeptAnswer>, is_caller: bool) -> Self {
        answer.attend(|state| {
            state.followers = state.followers.saturating_add(1);
            state.alone_since = None;
            state.caller_at = state.caller_at.or(is_caller.then_some(0));
        });
        Self {
            answer,
            is_caller,
            at: Position::default(),
            numbered_after: None,
        }
    }

    /// The id of the request that began the answer.
    pub(crate) fn id(&self) -> Uuid {
        self.answer.name.id
    }

    /// Whose answer it is.
    pub(crate) fn user_id(&self) -> Uuid {
        self.answer.name.user_id
    }

    /// With the number of each event, from the one after this on.
    #[must_use]
    pub(crate) const fn numbered_after(mut self, event: u64) -> Self {
        self.numbered_after = Some(event);
        self
    }

    /// Waits for the head of the answer.
    pub(crate) async fn head(&self) -> HeadOutcome {
        poll_fn(|context| {
            let mut state = self.answer.state();
            let is_mine = state.is_kept || self.is_caller;
            let given = match &state.head {
                AnswerHead::Awaited => {
                    state.wake_later(context.waker());
                    return Poll::Pending;
                }
                AnswerHead::Here(status, headers) if is_mine => {
                    HeadOutcome::Answer(*status, headers.clone())
                }
                AnswerHead::Unsent => HeadOutcome::Unsent,
                AnswerHead::Here(..) | AnswerHead::Gone => HeadOutcome::Gone,
            };
            Poll::Ready(given)
        })
        .await
    }

    /// The body of the answer. The guard is dropped with it.
    pub(crate) fn into_body(self, guard: impl Send + Unpin + 'static) -> Body {
        let now = Instant::now();
        Body::new(FollowerBody {
            follower: self,
            last_written: now,
            alarm: Box::pin(sleep_until(now)),
            _guard: guard,
        })
    }

    pub(super) fn into_answer(self) -> Arc<KeptAnswer> {
        self.answer.clone()
    }

    /// The next piece: none at the end.
    fn poll_piece(&mut self, context: &Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut state = self.answer.state();
        let piece = match self.numbered_after {
            Some(skip) if state.log.is_events() => {
                state.log.read_numbered(&mut self.at, skip, PIECE_BYTES_MAX)
            }
            _ => state.log.read(&mut self.at, PIECE_BYTES_MAX),
        };
        if self.is_caller {
            state.caller_at = Some(self.at.bytes);
            if !state.is_kept {
                state.log.drop_before(self.at.bytes);
                self.answer.makes_room();
            }
        }
        if matches!(state.head, AnswerHead::Gone) {
            return Poll::Ready(None);
        }
        if !state.is_kept && !self.is_caller {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        if !piece.is_empty() {
            return Poll::Ready(Some(Ok(piece.freeze())));
        }
        if state.is_complete {
            return Poll::Ready(None);
        }
        state.wake_later(context.waker());
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.answer.attend(|state| {
            state.followers = state.followers.saturating_sub(1);
            if state.followers == 0 {
                state.alone_since = Some(Instant::now());
            }
            if self.is_caller {
                state.caller_at = None;
                if !state.is_kept {
                    state.log.clear();
                }
            }
        });
    }
}

/// The body that a follower reads.
struct FollowerBody<G> {
    follower: Follower,
    last_written: Instant,
    alarm: Pin<Box<Sleep>>,
    _guard: G,
}

impl<G: Unpin> FollowerBody<G> {
    /// Nothing to give: a comment when nothing was given for long.
    fn poll_comment(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        if !self.follower.answer.state().log.is_events() {
            return Poll::Pending;
        }
        loop {
            let due = later(self.last_written, KEEP_ALIVE);
            if Instant::now() >= due {
                return Poll::Ready(Bytes::from_static(KEEP_ALIVE_COMMENT));
            }
            // An alarm that rings too early costs less than one that is set anew for each event.
            if self.alarm.is_elapsed() || self.alarm.deadline() > due {
                self.alarm.as_mut().reset(due);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<G: Unpin> http_body::Body for FollowerBody<G> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match this.follower.poll_piece(context) {
            Poll::Ready(piece) => piece,
            Poll::Pending => match this.poll_comment(context) {
                Poll::Ready(comment) => Some(Ok(comment)),
                Poll::Pending => return Poll::Pending,
            },
        };
        this.last_written = Instant::now();
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        let Follower {
            answer,
            at,
            numbered_after,
            ..
        } = &self.follower;
        let state = answer.state();
        let is_known = state.is_complete && numbered_after.is_none_or(|_| !state.log.is_events());
        let rest = state.log.end().saturating_sub(at.bytes);
        match u64::try_from(rest) {
            Ok(rest) if is_known => SizeHint::with_exact(rest),
            _ => SizeHint::default(),
        }
    }
}
