//! The events of a transcript: `transcript.text.delta` again and again, then `transcript.text.done` with all of it and what
//! it used. Pure.
//!
//! They pass as they came. The body may end there, or `[DONE]` may follow.

use std::borrow::Cow;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::whole::TranscriptObject;
use super::{TranscriptBound, report};
use crate::meter::event_reader::EventReader;
use crate::meter::sse::{Event, write_event, write_named_event};
use crate::meter::watch::{DONE, UNREAD_BYTES_MAX, is_done, is_json, without_doubled_name};
use crate::meter::{Fault, Measured, name_reported};

const DELTA: &str = "transcript.text.delta";
const SEGMENT: &str = "transcript.text.segment";
const END: &str = "transcript.text.done";

/// Reads the events of one transcript.
#[derive(Clone, Debug, Default)]
pub(in crate::meter) struct TranscriptWatch {
    bound: TranscriptBound,
    /// But for the usage.
    measured: Measured,
    /// What was said in segments, which may be said in deltas too.
    of_segments: Measured,
    /// The last report.
    usage: Option<Box<RawValue>>,
    unread_bytes: usize,
    is_closed: bool,
}

/// What an event says. Members are read by themselves: what is wrong with one breaks no other.
#[derive(Deserialize)]
struct TranscriptEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    /// Some servers write their transcripts in the form of a chat.
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChatChoice<'a> {
    #[serde(borrow)]
    delta: Option<ChoiceDelta<'a>>,
}

#[derive(Deserialize)]
struct ChoiceDelta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

impl TranscriptWatch {
    /// Watches the answer to a request of which this is known.
    pub(in crate::meter) fn new(bound: TranscriptBound) -> Self {
        Self {
            bound,
            ..Self::default()
        }
    }

    /// Notes what an event says.
    fn note(&mut self, kind: &str, facts: &TranscriptEvent<'_>) {
        let before = self.measured.text.len();
        match kind {
            END => {
                let text = facts.text.map(text_of).unwrap_or_default();
                if text.len() > before {
                    self.measured.text.clear();
                    self.measured.deliver(&text);
                }
                self.measured.done = true;
                self.measured.finished = true;
            }
            SEGMENT => {
                let text = facts.text.map(text_of).unwrap_or_default();
                self.of_segments.deliver(&text);
            }
            _ => {
                let deltas = facts.delta.into_iter().chain(of_choices(facts.choices));
                for delta in deltas {
                    self.measured.deliver(&text_of(delta));
                }
            }
        }
        if self.measured.text.len() > before || kind == SEGMENT {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
        }
        let said = |raw: &&RawValue| raw.get() != "null";
        if let Some(usage) = facts.usage.filter(said) {
            self.usage = Some(usage.to_owned());
        }
        if let Some(model) = facts.model.and_then(name_reported) {
            self.measured.model = Some(model);
        }
    }

    fn judged(self) -> Measured {
        let Self {
            bound,
            mut measured,
            of_segments,
            usage,
            ..
        } = self;
        if of_segments.text.len() > measured.text.len() {
            measured.text = of_segments.text;
        }
        measured.text_overflow |= of_segments.text_overflow;
        if let Some(usage) = usage {
            let has_text = !measured.text.is_empty();
            report::note(&usage, &bound, has_text, &mut measured);
        }
        measured
    }

    fn failed(&mut self) -> Fault {
        self.measured.is_error = true;
        Fault::Upstream
    }

    /// What cannot be read may still have been generated: it counts as it was written.
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

impl EventReader for TranscriptWatch {
    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let payload = without_doubled_name(event.payload);
        let said = payload.trim_ascii();
        if self.is_closed || ((said.is_empty() || said.starts_with(b":")) && !event.is_error()) {
            return Ok(false);
        }
        if is_done(said) {
            self.measured.done = true;
            self.is_closed = true;
            write_event(DONE, out);
            return Ok(true);
        }
        let facts = serde_json::from_slice::<TranscriptEvent<'_>>(payload).ok();
        let kind = facts.as_ref().and_then(|facts| facts.kind).map(text_of);
        let name = str::from_utf8(event.name).unwrap_or_default();
        let kind = kind.unwrap_or(Cow::Borrowed(name));
        let tells_error = |facts: &TranscriptEvent<'_>| {
            facts.error.is_some_and(|error| error.get() != "null") || kind == "error"
        };
        if event.is_error() || facts.as_ref().is_some_and(tells_error) {
            return Err(self.failed());
        }
        let Some(facts) = facts.filter(|_| is_json(payload)) else {
            return self.unread(payload);
        };
        self.unread_bytes = 0;
        self.measured.is_completion = true;
        self.note(&kind, &facts);
        if event.name.is_empty() {
            write_event(payload, out);
        } else {
            write_named_event(event.name, payload, out);
        }
        Ok(true)
    }

    fn finish(&mut self, last: Result<(), Fault>, out: &mut BytesMut) -> Result<(), Fault> {
        if self.is_closed {
            return Ok(());
        }
        if last == Err(Fault::Upstream) {
            return last;
        }
        if !self.measured.done {
            return Err(Fault::Cut);
        }
        self.close(out);
        Ok(())
    }

    /// An object with the text: the same as one delta and the end.
    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let object = serde_json::from_slice::<TranscriptObject<'_>>(body);
        let object = object.map_err(|_| Fault::Nonsense)?;
        self.measured = object.measured(&self.bound);
        let delta = json!({"type": DELTA, "delta": object.text});
        write_event(delta.to_string().as_bytes(), out);
        let mut end = json!({"type": END, "text": object.text});
        if let (Some(usage), Some(end)) = (object.usage, end.as_object_mut()) {
            let usage = serde_json::from_str(usage.get()).unwrap_or_default();
            end.insert("usage".to_owned(), usage);
        }
        write_event(end.to_string().as_bytes(), out);
        self.close(out);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// `[DONE]` may follow.
    fn is_waiting(&self) -> bool {
        self.measured.done && !self.is_closed
    }

    fn close(&mut self, _: &mut BytesMut) {
        self.measured.done = true;
        self.is_closed = true;
    }

    /// One event with `error`, as the libraries look for it.
    fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        let error = fault.refusal().body().to_string();
        write_event(error.as_bytes(), out);
    }

    fn bytes_held(&self) -> usize {
        let usage = self.usage.as_ref().map_or(0, |usage| usage.get().len());
        let text = self.measured.text.capacity();
        text.saturating_add(self.of_segments.text.capacity())
            .saturating_add(usage)
    }

    fn measured(&self) -> Measured {
        self.clone().judged()
    }

    fn take_measured(&mut self) -> Measured {
        std::mem::take(self).judged()
    }
}

/// A text, or what stands in its place as it is written.
fn text_of(raw: &RawValue) -> Cow<'_, str> {
    serde_json::from_str(raw.get()).map_or_else(
        |_| Cow::Borrowed(raw.get()),
        |text: Option<String>| Cow::Owned(text.unwrap_or_default()),
    )
}

fn of_choices(choices: Option<&RawValue>) -> Vec<&RawValue> {
    let choices =
        choices.and_then(|raw| serde_json::from_str::<Vec<ChatChoice<'_>>>(raw.get()).ok());
    let contents = choices.unwrap_or_default().into_iter();
    contents
        .filter_map(|choice| choice.delta.and_then(|delta| delta.content))
        .collect()
}
