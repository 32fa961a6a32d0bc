//! The writer of an answer: it drives the exchange to its end, whoever listens, and writes what is delivered.

use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header;
use http::response::Parts;
use http_body::Body as _;
use http_body_util::{BodyExt, Collected};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Answers;
use super::answer::{AnswerHead, KeptAnswer, State};
use super::index::GoneBy;
use super::log::AnswerLog;

/// The first request with its key, that is to run. Dropped before [`Run::drive`], it leaves the key as it was.
#[derive(Debug)]
pub(crate) struct Run {
    answers: Arc<Answers>,
    answer: Arc<KeptAnswer>,
    /// What the next with this key gets if this ends without an answer.
    without: AnswerHead,
    is_finished: bool,
}

/// The key of a run, for whoever learns that it is charged nothing.
#[derive(Debug)]
pub(crate) struct KeyHandle {
    answers: Arc<Answers>,
    answer: Arc<KeptAnswer>,
}

impl KeyHandle {
    /// The run ended without a charge: the next request with its key runs anew. Who follows it gets what it was told.
    pub(crate) fn free(&self) {
        self.answers.index().free_key(&self.answer);
    }
}

impl Run {
    pub(super) const fn new(answers: Arc<Answers>, answer: Arc<KeptAnswer>) -> Self {
        Self {
            answers,
            answer,
            without: AnswerHead::Unsent,
            is_finished: false,
        }
    }

    /// Its key.
    pub(crate) fn key(&self) -> KeyHandle {
        KeyHandle {
            answers: self.answers.clone(),
            answer: self.answer.clone(),
        }
    }

    /// Writes an answer to its end. What is dropped unfinished was stopped, or has been followed by nobody for `keep`.
    ///
    /// Once the server stops (`cut`), `stopped` is told in place of an answer that has not begun; one that has begun sees
    /// to its end itself, when it is asked once more.
    pub(crate) async fn drive(
        mut self,
        exchange: impl Future<Output = Response>,
        stopped: impl FnOnce() -> Response,
        cut: CancellationToken,
    ) {
        self.without = AnswerHead::Gone;
        let answer = self.answer.clone();
        let mut given_up = pin!(answer.given_up(self.answers.limits.keep));
        let response = tokio::select! {
            biased;
            response = exchange => response,
            () = &mut given_up => return,
            () = cut.cancelled() => stopped(),
        };
        let is_whole = response.body().size_hint().exact().is_some();
        let (head, body) = response.into_parts();
        let written = async {
            if is_whole {
                self.write_whole(head, body).await
            } else {
                self.write_pieces(head, body, &cut).await
            }
        };
        let is_written = tokio::select! {
            biased;
            is_written = written => is_written,
            () = &mut given_up => false,
        };
        if is_written {
            self.finish();
        }
    }

    /// An answer that is all there: no part of it is worth anything to anybody.
    async fn write_whole(&self, head: Parts, body: Body) -> bool {
        let Ok(bytes) = body.collect().await.map(Collected::to_bytes) else {
            return false;
        };
        let is_kept = self.has_space(bytes.len(), bytes.len());
        self.answer.change(|state| {
            state.head = AnswerHead::Here(head.status, head.headers);
            if is_kept || state.caller_at.is_some() {
                state.log.fill(bytes.into());
            }
        });
        true
    }

    /// An answer that comes piece by piece.
    async fn write_pieces(&self, head: Parts, mut body: Body, cut: &CancellationToken) -> bool {
        let kind = head.headers.get(header::CONTENT_TYPE);
        let is_events = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        self.answer.change(|state| {
            state.head = AnswerHead::Here(head.status, head.headers);
            state.log = AnswerLog::new(is_events);
        });
        let mut over = pin!(cut.cancelled());
        let mut is_over = false;
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = &mut over, if !is_over => {
                    is_over = true;
                    continue;
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        self.write(&piece).await;
                    }
                }
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }

    async fn write(&self, piece: &[u8]) {
        let (bytes, size, had, is_kept) = {
            let state = self.answer.state();
            let bytes = state.log.written(piece);
            let size = state.log.size_with(bytes.len());
            let end = state.log.end().saturating_add(bytes.len());
            (bytes, (end, size), state.log.size(), state.is_kept)
        };
        if is_kept && size.1 > had {
            self.has_space(size.0, size.1);
        }
        self.answer.has_room().await;
        self.answer.change(|state| {
            if state.is_kept || state.caller_at.is_some() {
                state.log.push(bytes);
            }
        });
    }

    /// Whether an answer of so many bytes, which take so much, is kept on. If not, it goes on to its caller alone.
    fn has_space(&self, bytes: usize, size: usize) -> bool {
        let limits = &self.answers.limits;
        let mut index = self.answers.index();
        if bytes <= limits.answer_bytes_max && index.make_room(&self.answer, size, limits) {
            return true;
        }
        index.remove(&self.answer, Some(GoneBy::Length));
        drop(index);
        self.answer.change(State::is_kept_no_longer);
        false
    }

    fn finish(&mut self) {
        let mut index = self.answers.index();
        let (size, is_kept) = self.answer.change(|state| {
            state.is_complete = true;
            state.log.is_complete();
            (state.log.size(), state.is_kept)
        });
        if is_kept {
            index.finish(&self.answer, size, Instant::now());
        }
        self.is_finished = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let by = matches!(self.without, AnswerHead::Gone).then_some(GoneBy::Age);
        self.answers.let_go(&self.answer, by);
        self.answer.change(|state| {
            state.is_complete = true;
            state.empty(self.without.clone());
        });
    }
}
