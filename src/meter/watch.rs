//! What the events of one answer say, one after the other, and which of them pass. Pure.
//!
//! An event that is no JSON object is not passed on, and ends nothing: its usage and text are read from a mended copy
//! where that can be done.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use serde::de::IgnoredAny;

use super::chat::{Finish, ObjectFacts};
use super::choices::Progress;
use super::mend::{self, Syntax};
use super::sse::{Event, write_event};
use super::usage::reports::UsageReports;
use super::usage::{Place, UsageVerdict};
use super::{Fault, Measured, chunks};

/// The most bytes of events in a row that cannot be read.
pub(super) const UNREAD_BYTES_MAX: usize = 1024 * 1024;
/// The payload of the last event.
pub(super) const DONE: &[u8] = b"[DONE]";

/// Where the text and the choices stood before an object was read.
struct Mark {
    text_bytes: usize,
    text_overflow: bool,
    progress: Progress,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// But for what is judged at the end.
    pub(super) measured: Measured,
    pub(super) progress: Progress,
    pub(super) wants_usage: bool,
    /// All that the caller gets was written.
    is_closed: bool,
    reports: UsageReports,
    unread_bytes: usize,
}

impl Watch {
    /// Watches for a caller who asked for the usage-only chunk, or not.
    pub(super) fn new(wants_usage: bool) -> Self {
        Self {
            wants_usage,
            ..Self::default()
        }
    }

    /// What is known, with the usage judged.
    pub(super) fn judged(self) -> Measured {
        let judged = self.usage();
        let Self {
            mut measured,
            progress,
            ..
        } = self;
        measured.usage = judged.usage;
        measured.partial_usage = judged.partial;
        measured.usage_nonsense = judged.nonsense;
        measured.cap_reached = progress.cap_reached;
        measured.filtered = progress.filtered;
        let is_unseen = judged.has_reasoning && !progress.shows_reasoning;
        measured.hidden_reasoning = progress.hides_reasoning || is_unseen;
        measured
    }

    fn usage(&self) -> UsageVerdict {
        let Measured { done, text, .. } = &self.measured;
        self.reports.judged(&self.progress, *done, !text.is_empty())
    }

    /// Every choice that began has ended, and there is one.
    pub(super) const fn is_finished(&self) -> bool {
        self.progress.is_finished()
    }

    /// The caller has all that it gets.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// `[DONE]` has come and is held back: no usage was seen, and some servers send it after.
    pub(super) const fn is_waiting(&self) -> bool {
        self.measured.done && !self.is_closed
    }

    /// The end: nothing more is waited for.
    pub(super) fn close(&mut self, out: &mut BytesMut) {
        if !self.is_closed {
            self.measured.done = true;
            self.is_closed = true;
            write_event(DONE, out);
        }
    }

    /// One event: what it says is noted, and it is passed on unless it is not for the caller. False: it said nothing.
    pub(super) fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let payload = without_doubled_name(event.payload);
        let said = payload.trim_ascii();
        if self.is_closed || ((said.is_empty() || said.starts_with(b":")) && !event.is_error()) {
            return Ok(false);
        }
        if is_done(said) {
            self.measured.done = true;
            if self.usage().usage.is_some() {
                self.close(out);
            }
            return Ok(true);
        }
        if self.measured.done {
            self.after_done(payload, out);
            return Ok(false);
        }
        let text_before = self.text_bytes();
        let Some(seen) = str::from_utf8(payload)
            .ok()
            .and_then(|json| self.object(json))
        else {
            return self.strange(&Event { payload, ..*event }, out);
        };
        self.noted(text_before, &seen, false);
        if event.is_error() || seen.is_error {
            return Err(self.failed());
        }
        self.pass(payload, &seen, out);
        Ok(true)
    }

    /// The whole answer, in one piece.
    pub(super) fn read_whole(&mut self, body: &[u8]) -> Syntax {
        let text_before = self.text_bytes();
        let mut seen = str::from_utf8(body).ok().and_then(|json| self.object(json));
        let mut syntax = Syntax::Json;
        let mended;
        if seen.is_none() {
            mended = mend::json(body);
            seen = self.object(&mended);
            syntax = Syntax::NearlyJson;
        }
        let Some(seen) = seen else {
            if body.trim_ascii_start().starts_with(b"{") {
                self.deliver(&String::from_utf8_lossy(body));
            }
            return Syntax::NoObject;
        };
        self.noted(text_before, &seen, true);
        self.measured.is_error = seen.is_error;
        self.measured.is_completion = seen.is_completion && !seen.is_error;
        syntax
    }

    /// A whole answer whose lines are events, as some servers write them.
    pub(super) fn lines(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        for payload in body.split(|byte| *byte == b'\n') {
            self.event(&Event { payload, name: b"" }, out)?;
        }
        if !self.measured.is_completion {
            return Err(Fault::Nonsense);
        }
        if !self.measured.done && !self.is_finished() {
            return Err(Fault::Cut);
        }
        self.close(out);
        Ok(())
    }

    fn failed(&mut self) -> Fault {
        self.measured.is_error = true;
        Fault::Upstream
    }

    /// Writes an event, or what the caller gets in its place.
    fn pass(&mut self, payload: &[u8], seen: &ObjectFacts<'_>, out: &mut BytesMut) {
        self.measured.is_completion = true;
        self.unread_bytes = 0;
        if seen.has_message {
            // The whole answer as one event: an SDK looks for deltas.
            if let Some(events) = chunks::of_whole(payload, self.wants_usage) {
                out.put_slice(&events);
                return;
            }
        }
        let is_usage_only = !seen.has_choices && seen.usage.is_some();
        if self.wants_usage || !is_usage_only {
            write_event(payload, out);
        }
    }

    /// An event that is no JSON object as it stands.
    fn strange(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let payload = event.payload;
        let text_before = self.text_bytes();
        let mended = mend::json(payload);
        if let Some(seen) = self.object(&mended) {
            self.noted(text_before, &seen, false);
            if event.is_error() || seen.is_error {
                return Err(self.failed());
            }
            // Half a surrogate pair is JSON and passes. The rest would end the stream in the caller's own reader.
            if is_json(payload) {
                self.pass(payload, &seen, out);
            }
            return Ok(true);
        }
        if event.is_error() {
            return Err(self.failed());
        }
        if payload.contains(&b'\n') {
            // Events that no empty line parts.
            let mut any = false;
            for line in payload.split(|byte| *byte == b'\n') {
                any |= self.event(
                    &Event {
                        payload: line,
                        ..*event
                    },
                    out,
                )?;
            }
            return Ok(any);
        }
        // What cannot be read may still have been generated: it counts as it was written. Without an object in it, it is
        // noise (`data: ping`).
        if payload.contains(&b'{') {
            self.deliver(&String::from_utf8_lossy(payload));
        }
        self.unread_bytes = self.unread_bytes.saturating_add(payload.len());
        if self.unread_bytes > UNREAD_BYTES_MAX {
            Err(Fault::Nonsense)
        } else {
            Ok(false)
        }
    }

    /// After `[DONE]` only the usage counts.
    fn after_done(&mut self, payload: &[u8], out: &mut BytesMut) {
        let mark = self.mark();
        let Some(seen) = str::from_utf8(payload)
            .ok()
            .and_then(|json| self.object(json))
        else {
            return;
        };
        self.undo(&mark);
        self.report(&seen, Place::OfAll);
        if self.wants_usage && !seen.has_choices && seen.usage.is_some() {
            write_event(payload, out);
        }
        if self.usage().usage.is_some() {
            self.close(out);
        }
    }

    /// Reads an object; with `None` nothing is noted.
    fn object<'a>(&mut self, json: &'a str) -> Option<ObjectFacts<'a>> {
        let mark = self.mark();
        self.progress.with_new_text = 0;
        let seen = ObjectFacts::read(json, self);
        if seen.is_none() {
            self.undo(&mark);
        }
        seen
    }

    const fn mark(&self) -> Mark {
        let Measured {
            text,
            text_overflow,
            ..
        } = &self.measured;
        Mark {
            text_bytes: text.len(),
            text_overflow: *text_overflow,
            progress: self.progress,
        }
    }

    fn undo(&mut self, mark: &Mark) {
        self.measured.text.truncate(mark.text_bytes);
        self.measured.text_overflow = mark.text_overflow;
        self.progress = mark.progress;
    }

    /// All of an object is read, and the text before it was so long.
    fn noted(&mut self, text_before: usize, seen: &ObjectFacts<'_>, is_whole: bool) {
        let has_text = self.text_bytes() > text_before;
        if has_text {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
        }
        self.reports
            .text_came(has_text, self.progress.with_new_text);
        self.measured.finished = self.is_finished();
        self.report(
            seen,
            match (is_whole || !seen.has_choices, self.measured.finished) {
                (true, _) => Place::OfAll,
                (false, true) => Place::AtTheEnd,
                (false, false) => Place::Running,
            },
        );
    }

    fn report(&mut self, seen: &ObjectFacts<'_>, place: Place) {
        for raw in seen.usage_again.iter().copied().chain(seen.usage) {
            self.reports.note(raw, place);
        }
        for usage in &seen.nested_usage {
            self.reports.note_nested(usage, place);
        }
    }

    /// A choice was read.
    pub(super) fn choice(&mut self, index: u64, end: Option<Finish>, has_text: bool) {
        self.progress.read(index, end, has_text);
    }

    /// How much text there is.
    pub(super) const fn text_bytes(&self) -> usize {
        self.measured.text.len()
    }

    /// Text that was generated.
    pub(super) fn deliver(&mut self, text: &str) {
        self.measured.deliver(text);
    }

    /// The text from `start` on may be what `shown` says already: then the longer of the two counts.
    pub(super) fn count_once(&mut self, shown: &mut Option<Range<usize>>, start: usize) {
        let all = &mut self.measured.text;
        let new = start..all.len();
        if new.is_empty() {
            return;
        }
        let Some(old) = shown.clone() else {
            *shown = Some(new);
            return;
        };
        let texts = (
            all.get(old.clone()).unwrap_or_default(),
            all.get(new).unwrap_or_default(),
        );
        if texts.0.contains(texts.1) {
            all.truncate(start);
        } else if texts.1.contains(texts.0) {
            *shown = Some(start.saturating_sub(old.len())..all.len().saturating_sub(old.len()));
            all.replace_range(old, "");
        }
    }
}

/// `[DONE]`, as careless servers write it too.
pub(super) fn is_done(said: &[u8]) -> bool {
    let Some(first) = said.first() else {
        return false;
    };
    if !matches!(first, b'[' | b'"') {
        return false;
    }
    let bare = said
        .strip_prefix(b"\"")
        .and_then(|said| said.strip_suffix(b"\""))
        .unwrap_or(said);
    bare.trim_ascii().eq_ignore_ascii_case(DONE)
}

/// Some servers write `data: data: …`.
pub(super) fn without_doubled_name(payload: &[u8]) -> &[u8] {
    let mut payload = payload;
    while let Some(inner) = payload.strip_prefix(b"data:") {
        payload = inner.strip_prefix(b" ").unwrap_or(inner);
    }
    payload
}

pub(super) fn is_json(payload: &[u8]) -> bool {
    str::from_utf8(payload).is_ok_and(|json| serde_json::from_str::<IgnoredAny>(json).is_ok())
}
