//! Splits a byte stream into the payloads of server-sent events. Pure; it knows nothing of what they say.
//!
//! Reads LF, CR and CRLF, a byte order mark, events cut at any byte and several `data:` lines to an event (WHATWG
//! HTML §9.2.6). Of the other fields only `event` is told. Invariant: it holds at most one event of its longest, and
//! gives up on anything else beyond [`NOISE_BYTES_MAX`] between two events, so its memory is flat whatever it is fed.

use bytes::{BufMut, BytesMut};

use super::Fault;

/// The longest event of an API whose events are short, in bytes of its lines.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of comments, empty lines and other fields between two events.
pub const NOISE_BYTES_MAX: usize = 64 * 1024;

/// What the buffers keep between two events.
const SPARE_BYTES: usize = 16 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const DATA: &[u8] = b"data:";
const EVENT: &[u8] = b"event:";
/// The longest line of an `event` field that is looked at.
const EVENT_LINE_BYTES_MAX: usize = 128;
/// `data:` and its two line endings.
const EMPTY_EVENT_BYTES: usize = 7;

/// One event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    /// Its `data` lines.
    pub(super) payload: &'a [u8],
    /// Its `event`; empty where it has none.
    pub(super) name: &'a [u8],
}

impl Event<'_> {
    /// Its `event` is `error`.
    pub(super) fn is_error(&self) -> bool {
        self.name == b"error"
    }
}

/// Where it is in the stream.
#[derive(Clone, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of a line, not states of one machine"
)]
pub(super) struct Splitter {
    /// The longest event, in bytes of its lines.
    event_bytes_max: usize,
    /// The line that has not ended yet; empty while its rest is noise.
    line: Vec<u8>,
    /// The `data` lines of the event that has not ended yet, joined by LF.
    data: Vec<u8>,
    has_data: bool,
    /// The last `event` field of that event.
    name: Vec<u8>,
    line_is_noise: bool,
    after_cr: bool,
    past_first_line: bool,
    noise_bytes: usize,
}

impl Splitter {
    /// At the beginning of a stream.
    pub(super) fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            ..Self::default()
        }
    }

    /// How many bytes it holds.
    pub(super) fn held(&self) -> usize {
        let line_and_name = self.line.capacity().saturating_add(self.name.capacity());
        line_and_name.saturating_add(self.data.capacity())
    }

    /// Reads on. Gives each whole event to `event`, in order; stops at the first fault. An event that says nothing
    /// (`event` is false) counts like a comment.
    pub(super) fn push<F>(&mut self, mut chunk: &[u8], mut event: F) -> Result<(), Fault>
    where
        F: FnMut(&Event<'_>) -> Result<bool, Fault>,
    {
        loop {
            if self.after_cr && !chunk.is_empty() {
                self.after_cr = false;
                chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', chunk) else {
                return self.part(chunk);
            };
            let (line, rest) = chunk.split_at_checked(end).unwrap_or((chunk, &[]));
            let Some((ending, rest)) = rest.split_first() else {
                return Ok(());
            };
            self.part(line)?;
            self.after_cr = *ending == b'\r';
            self.line_ends(&mut event)?;
            chunk = rest;
        }
    }

    /// The stream has ended: what stands there without its empty line counts as an event.
    ///
    /// Some servers leave out the last line ending. A cut event is no JSON, so it is not mistaken for a whole one.
    pub(super) fn finish<F>(&mut self, mut event: F) -> Result<(), Fault>
    where
        F: FnMut(&Event<'_>) -> Result<bool, Fault>,
    {
        if !self.line.is_empty() {
            self.line_ends(&mut event)?;
        }
        self.line_ends(&mut event)
    }

    /// More of the present line, without its ending.
    fn part(&mut self, part: &[u8]) -> Result<(), Fault> {
        if self.line_is_noise {
            return self.noise(part.len());
        }
        let held = self.line.len().saturating_add(self.data.len());
        if held.saturating_add(part.len()) > self.event_bytes_max {
            return Err(Fault::EventTooLarge);
        }
        self.line.extend_from_slice(part);
        if !self.past_first_line && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
            self.past_first_line = true;
        }
        let is_mark = !self.past_first_line && BYTE_ORDER_MARK.starts_with(&self.line);
        if is_mark || DATA.starts_with(&self.line) || self.line.starts_with(DATA) {
            return Ok(());
        }
        let may_be_event = EVENT.starts_with(&self.line) || self.line.starts_with(EVENT);
        if may_be_event && self.line.len() <= EVENT_LINE_BYTES_MAX {
            self.past_first_line = true;
            return Ok(());
        }
        self.past_first_line = true;
        self.line_is_noise = true;
        let length = self.line.len();
        self.line.clear();
        self.noise(length)
    }

    fn line_ends<F>(&mut self, event: &mut F) -> Result<(), Fault>
    where
        F: FnMut(&Event<'_>) -> Result<bool, Fault>,
    {
        self.past_first_line = true;
        if std::mem::take(&mut self.line_is_noise) {
            return self.noise(1);
        }
        if self.line.is_empty() {
            return self.event_ends(event);
        }
        let Some(value) = self.line.strip_prefix(DATA) else {
            // Another field, or a part of a field's name: one without a value, of which none matters.
            if let Some(name) = self.line.strip_prefix(EVENT) {
                self.name.clear();
                self.name.extend_from_slice(name.trim_ascii());
            }
            let length = self.line.len();
            self.line.clear();
            return self.noise(length.saturating_add(1));
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data
            .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        self.line.clear();
        Ok(())
    }

    fn event_ends<F>(&mut self, event: &mut F) -> Result<(), Fault>
    where
        F: FnMut(&Event<'_>) -> Result<bool, Fault>,
    {
        let had_data = std::mem::take(&mut self.has_data);
        let said = Event {
            payload: &self.data,
            name: &self.name,
        };
        // An event of nothing is a heartbeat of some servers, and counts like a comment.
        if self.data.is_empty() && !(had_data && said.is_error()) {
            self.name.clear();
            return self.noise(if had_data { EMPTY_EVENT_BYTES } else { 1 });
        }
        let outcome = event(&said);
        self.data.clear();
        self.name.clear();
        // One long event must not cost memory for as long as its stream lives.
        self.data.shrink_to(SPARE_BYTES);
        self.line.shrink_to(SPARE_BYTES);
        if outcome? {
            self.noise_bytes = 0;
            return Ok(());
        }
        self.noise(EMPTY_EVENT_BYTES)
    }

    fn noise(&mut self, bytes: usize) -> Result<(), Fault> {
        self.noise_bytes = self.noise_bytes.saturating_add(bytes);
        if self.noise_bytes > NOISE_BYTES_MAX {
            Err(Fault::Noise)
        } else {
            Ok(())
        }
    }
}

/// As [`write_event`], after `event: …`. The name is in one line.
pub(super) fn write_named_event(name: &[u8], payload: &[u8], out: &mut BytesMut) {
    out.reserve(name.len().saturating_add(8));
    out.put_slice(b"event: ");
    out.put_slice(name);
    out.put_slice(b"\n");
    write_event(payload, out);
}

/// `data: …` and an empty line; a payload of several lines takes several `data` lines.
pub(super) fn write_event(payload: &[u8], out: &mut BytesMut) {
    for line in payload.split(|byte| *byte == b'\n') {
        out.reserve(line.len().saturating_add(8));
        out.put_slice(b"data: ");
        out.put_slice(line);
        out.put_slice(b"\n");
    }
    out.put_slice(b"\n");
}
