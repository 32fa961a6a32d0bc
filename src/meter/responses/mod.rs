//! The events of OpenAI's Responses: each has a name, a type and a number, and the last one carries the whole answer with its
//! usage. Pure.
//!
//! They pass with their names, also those that nobody knows. Some servers end a stream without its last event; then it is at
//! its end if all of its items are.

mod event;
mod failure;
mod notes;
mod object;
mod synthesis;
mod tally;
#[cfg(test)]
mod tests;
mod text;
pub mod whole;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use self::event::EventFacts;
use self::object::ResponseFacts;
use self::synthesis::events_of;
use self::tally::Tally;
use super::event_reader::EventReader;
use super::mend;
use super::sse::{Event, Splitter, write_named_event};
use super::usage::Reports;
use super::watch::{UNREAD_BYTES_MAX, is_done, is_json, without_doubled_name};
use super::{Fault, Measured};

/// The longest event: the last one repeats the instructions and tools, and all that was generated.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads the events of one response.
#[derive(Clone, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of a stream"
)]
pub(super) struct ResponseWatch {
    /// But for what is judged at the end.
    measured: Measured,
    reports: Reports,
    tally: Tally,
    items_begun: u64,
    items_ended: u64,
    shows_reasoning: bool,
    hides_reasoning: bool,
    /// The last item that began is reasoning without a word in it.
    awaits_reasoning: bool,
    /// Some words of reasoning came since then.
    item_shows_reasoning: bool,
    next_number: u64,
    unread_bytes: usize,
    is_closed: bool,
    /// The caller was told how it failed.
    is_told: bool,
    /// What was measured of an answer that came in one piece.
    of_whole: Option<Box<Measured>>,
}

impl EventReader for ResponseWatch {
    fn event_bytes_max(&self) -> usize {
        EVENT_BYTES_MAX
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let payload = without_doubled_name(event.payload);
        let said = payload.trim_ascii();
        if self.is_closed || ((said.is_empty() || said.starts_with(b":")) && !event.is_error()) {
            return Ok(false);
        }
        if is_done(said) {
            self.close(out);
            return Ok(true);
        }
        let plain = str::from_utf8(payload).ok();
        if let Some(facts) = plain.and_then(EventFacts::read) {
            return self.read(&facts, (event.name, payload), true, out);
        }
        let mended = mend::json(payload);
        if let Some(facts) = EventFacts::read(&mended) {
            // Half a surrogate pair is JSON and passes. The rest would end the stream in the caller's own reader.
            return self.read(&facts, (event.name, payload), is_json(payload), out);
        }
        if event.is_error() {
            return Err(self.failed());
        }
        self.unread(payload)
    }

    fn finish(&mut self, last: Result<(), Fault>, out: &mut BytesMut) -> Result<(), Fault> {
        if self.is_closed {
            return Ok(());
        }
        if last == Err(Fault::Upstream) {
            return last;
        }
        if self.items_begun == 0 || self.items_ended < self.items_begun {
            return Err(Fault::Cut);
        }
        self.close(out);
        Ok(())
    }

    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let whole = whole::read(Bytes::copy_from_slice(body));
        let is_failed = whole.measured.is_error;
        self.of_whole = Some(Box::new(whole.measured));
        let events = events_of(&whole.body?).ok_or(Fault::Nonsense)?;
        out.put_slice(&events);
        self.is_told = true;
        if is_failed {
            return Err(Fault::Upstream);
        }
        self.close(out);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn close(&mut self, _: &mut BytesMut) {
        self.measured.done = true;
        self.is_closed = true;
    }

    /// The flat form that OpenAI describes, and within it the nested one that its libraries look for.
    fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        if self.is_told {
            return;
        }
        let mut body = fault.refusal().body();
        let nested = body.get_mut("error").map(Value::take).unwrap_or_default();
        let event = json!({
            "type": "error",
            "code": nested.get("code"),
            "message": nested.get("message"),
            "param": nested.get("param"),
            "sequence_number": self.next_number,
            "error": nested,
        });
        write_named_event(b"error", event.to_string().as_bytes(), out);
    }

    fn bytes_held(&self) -> usize {
        let text = self.measured.text.capacity();
        text.saturating_add(self.tally.bytes_held())
    }

    fn measured(&self) -> Measured {
        self.clone().judged()
    }

    fn take_measured(&mut self) -> Measured {
        std::mem::take(self).judged()
    }
}

impl ResponseWatch {
    /// All events of an answer, which came as a stream or one a line.
    fn all(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let is_lines = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
        let last = if is_lines {
            let mut lines = body.split(|byte| *byte == b'\n');
            lines.try_for_each(|payload| {
                let event = Event { payload, name: b"" };
                self.event(&event, out).map(drop)
            })
        } else {
            let mut splitter = Splitter::new(EVENT_BYTES_MAX);
            let read = splitter.push(body, |event| self.event(event, out));
            read.and_then(|()| splitter.finish(|event| self.event(event, out)))
        };
        self.finish(last, out)
    }

    /// An event that is an object: it is passed on if it `passes`.
    fn read(
        &mut self,
        facts: &EventFacts<'_>,
        (name, payload): (&[u8], &[u8]),
        passes: bool,
        out: &mut BytesMut,
    ) -> Result<bool, Fault> {
        if name == b"error" || facts.is_error() {
            return Err(self.failed());
        }
        let of_name = || str::from_utf8(name).ok().filter(|name| !name.is_empty());
        let Some(kind) = facts.kind.as_deref().or_else(of_name) else {
            return self.unread(payload);
        };
        self.unread_bytes = 0;
        self.measured.is_completion = true;
        let number = facts.sequence_number.unwrap_or(self.next_number);
        self.next_number = self.next_number.max(number.saturating_add(1));
        let text_before = self.measured.text.len();
        self.note_text(kind, facts);
        self.note_items(kind, facts);
        let end = ResponseEnd::of(kind);
        let response = facts
            .response
            .and_then(|response| ResponseFacts::read(response.get()));
        if let (Some(response), Some(_)) = (&response, end) {
            self.note_output(response);
        }
        if self.measured.text.len() > text_before {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
            self.reports.text_came();
        }
        let is_failed = end == Some(ResponseEnd::Failed);
        self.note_response(&response.unwrap_or_default(), facts.usage, end.is_some());
        self.measured.finished |= end.is_some();
        self.measured.cap_reached |=
            end == Some(ResponseEnd::Incomplete) && !self.measured.filtered;
        let name = if name.is_empty() {
            kind.as_bytes()
        } else {
            name
        };
        if is_failed {
            self.measured.is_error = true;
            self.is_told = passes;
            if passes {
                write_named_event(name, &failure::told(payload), out);
            }
            return Err(Fault::Upstream);
        }
        if passes {
            write_named_event(name, payload, out);
        }
        if end.is_some() {
            self.close(out);
        }
        Ok(true)
    }

    fn failed(&mut self) -> Fault {
        self.measured.is_error = true;
        Fault::Upstream
    }

    /// What cannot be read may still have been generated: it counts as it was written. Without an object in it, it is noise.
    fn unread(&mut self, payload: &[u8]) -> Result<bool, Fault> {
        if payload.contains(&b'{') {
            self.measured.deliver(&String::from_utf8_lossy(payload));
        }
        self.unread_bytes = self.unread_bytes.saturating_add(payload.len());
        if self.unread_bytes > UNREAD_BYTES_MAX {
            Err(Fault::Nonsense)
        } else {
            Ok(false)
        }
    }
}

/// How an event ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseEnd {
    Completed,
    Incomplete,
    Failed,
}

impl ResponseEnd {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "response.completed" | "response.done" => Some(Self::Completed),
            "response.incomplete" | "response.cancelled" => Some(Self::Incomplete),
            "response.failed" => Some(Self::Failed),
            _ => None,
        }
    }
}
