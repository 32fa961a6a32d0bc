//! Anthropic's Messages API: its events, and its whole answers. Pure.
//!
//! An event is passed on byte for byte with its name, also one of a type that is not known. What was generated is told by
//! the blocks and their deltas; a block of thoughts that begins says that more was generated than is shown.

mod forms;
#[cfg(test)]
mod tests;
mod usage;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use uuid::Uuid;

use self::forms::MergedMessage;
use self::usage::ReportedUsage;
use super::event_reader::EventReader;
use super::sse::{Event, Splitter, write_event, write_named_event};
use super::watch::UNREAD_BYTES_MAX;
use super::whole::Whole;
use super::{Fault, Measured, TEXT_BYTES_MAX};

/// The longest name of a model or a tier that is kept, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The last event.
const STOP: &str = "message_stop";

/// Reads the events of one answer.
#[derive(Clone, Debug)]
pub(super) struct MessagesReader {
    measured: Measured,
    usage: ReportedUsage,
    /// Something of the request is to be kept for an hour.
    asks_hour: bool,
    /// What an error is told with.
    request_id: Uuid,
    is_closed: bool,
    unread_bytes: usize,
}

impl MessagesReader {
    pub(super) fn new(asks_hour: bool, request_id: Uuid) -> Self {
        Self {
            measured: Measured::default(),
            usage: ReportedUsage::default(),
            asks_hour,
            request_id,
            is_closed: false,
            unread_bytes: 0,
        }
    }

    /// Notes what an event says.
    ///
    /// # Errors
    /// The upstream says that it failed.
    fn note(&mut self, event: &Value) -> Result<(), Fault> {
        let kind = event.get("type").and_then(Value::as_str);
        if kind == Some("error") || event.get("error").is_some_and(says_something) {
            return self.failed();
        }
        match kind {
            Some("message_start") => {
                self.measured.is_completion = true;
                if let Some(message) = event.get("message") {
                    self.message(message, false);
                }
            }
            Some("content_block_start") => {
                if let Some(block) = event.get("content_block") {
                    self.block(block);
                }
            }
            Some("content_block_delta") => {
                let delta = event.get("delta");
                for name in ["text", "partial_json", "thinking"] {
                    self.deliver(delta.and_then(|delta| delta.get(name)));
                }
            }
            Some("message_delta") => {
                if let Some(delta) = event.get("delta") {
                    self.stop_reason(delta);
                }
                let usage = event.get("usage").unwrap_or(&Value::Null);
                self.usage.note(usage, true);
                self.tier(usage);
            }
            _ => {}
        }
        Ok(())
    }

    fn failed(&mut self) -> Result<(), Fault> {
        self.measured.is_error = true;
        Err(Fault::Upstream)
    }

    /// A message: the beginning of one, or a whole one.
    fn message(&mut self, message: &Value, is_whole: bool) {
        keep(&mut self.measured.model, message.get("model"));
        let blocks = message.get("content").and_then(Value::as_array);
        for block in blocks.into_iter().flatten() {
            self.block(block);
        }
        self.stop_reason(message);
        let usage = message.get("usage").unwrap_or(&Value::Null);
        self.usage.note(usage, is_whole);
        self.tier(usage);
    }

    /// A block, or the beginning of one.
    fn block(&mut self, block: &Value) {
        let kind = block.get("type").and_then(Value::as_str);
        self.measured.hidden_reasoning |= matches!(kind, Some("thinking" | "redacted_thinking"));
        for name in ["text", "thinking", "name"] {
            self.deliver(block.get(name));
        }
        let input = block.get("input").filter(|input| says_something(input));
        if let Some(input) = input {
            self.deliver(Some(&Value::String(input.to_string())));
        }
    }

    /// `standard` is what is asked for.
    fn tier(&mut self, usage: &Value) {
        let tier = usage
            .get("service_tier")
            .filter(|tier| tier.as_str() != Some("standard"));
        keep(&mut self.measured.service_tier, tier);
    }

    fn stop_reason(&mut self, of: &Value) {
        let Some(reason) = of.get("stop_reason").and_then(Value::as_str) else {
            return;
        };
        self.measured.finished = true;
        self.measured.cap_reached |=
            matches!(reason, "max_tokens" | "model_context_window_exceeded");
        self.measured.filtered |= reason == "refusal";
    }

    /// Text that was generated.
    fn deliver(&mut self, text: Option<&Value>) {
        let Some(text) = text.and_then(Value::as_str).filter(|text| !text.is_empty()) else {
            return;
        };
        let all = &mut self.measured.text;
        let room = TEXT_BYTES_MAX.saturating_sub(all.len());
        let fitting = text
            .get(..text.floor_char_boundary(room))
            .unwrap_or_default();
        all.push_str(fitting);
        self.measured.text_overflow |= fitting.len() < text.len();
        self.usage.text_came();
    }

    /// A whole message. False: it is none.
    fn read_whole(&mut self, body: &[u8]) -> Option<Value> {
        let message: Value = serde_json::from_slice(body).ok()?;
        let is_message = message.get("content").is_some_and(Value::is_array);
        if !is_message && self.note(&message).is_err() {
            return None;
        }
        if is_message {
            self.measured.is_completion = true;
            self.message(&message, true);
        }
        is_message.then_some(message)
    }

    fn judged(&self) -> Measured {
        let mut measured = self.measured.clone();
        let has_text = !measured.text.is_empty();
        let (usage, partial, nonsense) = self.usage.judged(self.asks_hour, has_text);
        (measured.usage, measured.partial_usage) = (usage, partial);
        measured.usage_nonsense = nonsense;
        measured
    }

    /// An event that is no JSON object: it is not passed on, and what it holds may have been generated.
    fn strange(&mut self, payload: &[u8]) -> Result<bool, Fault> {
        if payload.contains(&b'{') {
            let text = String::from_utf8_lossy(payload).into_owned();
            self.deliver(Some(&Value::String(text)));
        }
        self.unread_bytes = self.unread_bytes.saturating_add(payload.len());
        if self.unread_bytes > UNREAD_BYTES_MAX {
            Err(Fault::Nonsense)
        } else {
            Ok(false)
        }
    }
}

impl EventReader for MessagesReader {
    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let said = event.payload.trim_ascii();
        if self.is_closed || (said.is_empty() && !event.is_error()) {
            return Ok(false);
        }
        if said == b"[DONE]" {
            // A gateway's end, which this API has not.
            if self.measured.finished {
                self.close(out);
            }
            return Ok(true);
        }
        let read = serde_json::from_slice::<Value>(said).ok();
        let Some(read) = read.filter(Value::is_object) else {
            if event.is_error() {
                self.failed()?;
            }
            return self.strange(said);
        };
        let text_before = self.measured.text.len();
        if event.is_error() {
            self.failed()?;
        }
        self.note(&read)?;
        if self.measured.text.len() > text_before {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
        }
        self.unread_bytes = 0;
        let kind = read.get("type").and_then(Value::as_str).unwrap_or_default();
        let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        // Anthropic's own clients look at the name.
        match [event.name, kind.as_bytes()]
            .into_iter()
            .find(|name| is_name(name))
        {
            Some(name) => write_named_event(name, event.payload, out),
            None => write_event(event.payload, out),
        }
        if kind == STOP {
            self.measured.done = true;
            self.is_closed = true;
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
        if !self.measured.finished {
            return Err(Fault::Cut);
        }
        self.close(out);
        Ok(())
    }

    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Some(message) = self.read_whole(body) else {
            return Err(if self.measured.is_error {
                Fault::Upstream
            } else {
                Fault::Nonsense
            });
        };
        self.measured.content_events = u64::from(!self.measured.text.is_empty());
        self.measured.done = true;
        self.is_closed = true;
        forms::write_events(&message, out);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn close(&mut self, out: &mut BytesMut) {
        if self.is_closed {
            return;
        }
        self.measured.done = true;
        self.is_closed = true;
        write_named_event(STOP.as_bytes(), br#"{"type":"message_stop"}"#, out);
    }

    fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        let body = fault.refusal().anthropic_body(&self.request_id.to_string());
        write_named_event(b"error", body.to_string().as_bytes(), out);
    }

    fn bytes_held(&self) -> usize {
        self.measured.text.capacity()
    }

    fn measured(&self) -> Measured {
        self.judged()
    }

    fn take_measured(&mut self) -> Measured {
        let judged = self.judged();
        self.measured = Measured::default();
        judged
    }
}

/// Reads a body in either form, to be delivered as one message.
#[must_use]
pub fn read(body: Bytes) -> Whole {
    read_as(body, false)
}

/// The same for a request of which something is to be kept for an hour.
#[must_use]
pub fn read_of_an_hour(body: Bytes) -> Whole {
    read_as(body, true)
}

fn read_as(body: Bytes, asks_hour: bool) -> Whole {
    let mut reader = MessagesReader::new(asks_hour, Uuid::nil());
    let is_message = reader.read_whole(&body).is_some();
    let measured = reader.judged();
    if is_message {
        return Whole {
            measured,
            body: Ok(body),
        };
    }
    if measured.is_error {
        return Whole {
            measured,
            body: Err(Fault::Upstream),
        };
    }
    from_events(&body, asks_hour)
}

/// An answer that came as events, put together.
fn from_events(body: &[u8], asks_hour: bool) -> Whole {
    let mut reader = MessagesReader::new(asks_hour, Uuid::nil());
    let (mut merged, mut nowhere) = (MergedMessage::default(), BytesMut::new());
    let mut take = |event: &Event<'_>| {
        let taken = reader.event(event, &mut nowhere);
        nowhere.clear();
        if taken.is_ok()
            && let Ok(event) = serde_json::from_slice(event.payload)
        {
            merged.add(&event);
        }
        taken
    };
    let mut splitter = Splitter::new(usize::MAX);
    let read = splitter
        .push(body, &mut take)
        .and_then(|()| splitter.finish(&mut take));
    let read = reader.finish(read, &mut BytesMut::new());
    let whole = read.and_then(|()| merged.into_json().ok_or(Fault::Nonsense));
    Whole {
        measured: reader.judged(),
        body: whole.map(|message| Bytes::from(message.to_string())),
    }
}

fn keep(kept: &mut Option<String>, name: Option<&Value>) {
    let name = name.and_then(Value::as_str);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        let end = name.floor_char_boundary(NAME_BYTES_MAX);
        *kept = name.get(..end).map(str::to_owned);
    }
}

/// Not null, false or empty.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}
