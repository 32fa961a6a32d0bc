//! An answer that passes byte by byte: what it is by its head, and what becomes of its end.
//!
//! What it used is known from the order, so a caller who leaves it is charged what was ordered, and its rest is not read.

use axum::body::Body;
use axum::response::Response;

use super::byte_stream::ByteStream;
use super::dispatch::{Dispatched, Failed, failed};
use super::heads;
use super::settle::End;
use crate::endpoint::ByteAnswer;
use crate::meter::byte_body::ByteBody;
use crate::meter::{Fault, Measured, body};
use crate::price::Usage;
use crate::upstream::answer::{self, Answer};
use crate::upstream::rejection::Rejection;

/// The longest answer of another kind that is read for what it says.
const OTHER_BYTES_MAX: usize = 1024 * 1024;

impl Dispatched {
    /// Takes an answer that is what was ordered; another may say that something failed.
    pub(super) async fn check_bytes(
        &self,
        answer: Answer,
        expected: ByteAnswer,
    ) -> Result<ByteStream, Failed> {
        let answer = match ByteStream::of(answer, &expected) {
            Ok(bytes) => return Ok(bytes),
            Err(answer) => answer,
        };
        let idle = self.config.proxy.idle_timeout;
        let read = answer::read(answer.body, OTHER_BYTES_MAX, idle, self.deadline).await;
        let body = read.map_err(|error| failed(End::Unread(error)))?;
        let rejection = Rejection::in_success(&body, &self.upstream);
        Err(failed(rejection.map_or(End::Nonsense, End::Refused)))
    }

    /// Gives such an answer to the caller.
    pub(super) fn bytes(self, bytes: ByteStream) -> Response {
        let ByteStream {
            media_type,
            usage,
            body,
        } = bytes;
        let (bytes_max, rules) = (
            self.spec.answer_bytes_max,
            (self.limits(), self.app.cut.clone()),
        );
        let on_first = self.on_first();
        let on_end = move |end, fault| self.passed(end, fault, usage);
        let passing = ByteBody::new(body, bytes_max, rules, on_end).on_first(on_first);
        heads::bytes(media_type, Body::new(passing))
    }

    fn passed(mut self, end: body::End, fault: Option<Fault>, usage: Option<Usage>) {
        let end = match end {
            body::End::Complete => End::Streamed,
            body::End::Failed => End::Failed(fault.unwrap_or(Fault::Broken)),
            body::End::Cancelled => End::Left(self.leaver()),
        };
        let measured = Measured {
            usage,
            ..Measured::default()
        };
        self.end(end, measured);
    }
}
