//! OpenAI's images: the events of a stream, and whole answers. Pure.
//!
//! An event is passed on byte for byte with its name. The images within are skipped: they are long, and nothing of them is
//! kept. What is charged stands in the event of each image that is finished.

mod forms;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use self::forms::MergedImages;
use super::event_reader::EventReader;
use super::sse::{Event, Splitter, write_event, write_named_event};
use super::usage::image_usage;
use super::whole::Whole;
use super::{Fault, Measured};
use crate::price::Usage;

/// The longest answer, and the longest event of one: a picture of twelve million pixels as a PNG that cannot be made smaller,
/// in base64.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// More events in a row than this that cannot be read are no stream.
const UNREAD_EVENTS_MAX: u32 = 16;

/// What is known of an order of images, to read its answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageOrder {
    /// What the names of events begin with: `image_generation` or `image_edit`.
    pub operation: &'static str,
    /// How many were ordered.
    pub count: u64,
    /// There are images in the prompt.
    pub takes_images: bool,
    /// Tokens have a price.
    pub has_token_price: bool,
    /// An image has a price.
    pub has_image_price: bool,
}

impl ImageOrder {
    /// What so many images used: as reported, where tokens are paid for; else by the piece. None where neither is known.
    fn usage(&self, images: u64, reported: Option<Usage>) -> Option<Usage> {
        let pieces = Usage {
            images,
            ..Usage::default()
        };
        if let Some(reported) = reported.filter(|_| self.has_token_price) {
            return Some(Usage { images, ..reported });
        }
        (self.has_image_price || !self.has_token_price).then_some(pieces)
    }

    /// What was measured of an answer that is at its end.
    fn measured(&self, images: u64, reported: Option<Usage>, is_nonsense: bool) -> Measured {
        let usage = self.usage(images, reported);
        Measured {
            // Nobody can count an image's tokens.
            text_overflow: usage.is_none(),
            usage,
            usage_nonsense: is_nonsense,
            is_completion: true,
            finished: true,
            done: true,
            ..Measured::default()
        }
    }
}

/// Reads the events of one answer.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by itself"
)]
pub(super) struct ImageReader {
    order: ImageOrder,
    /// How many images are finished, and what all of them reported.
    images: u64,
    reported: Option<Usage>,
    is_nonsense: bool,
    /// Some part of an image was shown.
    has_begun: bool,
    is_error: bool,
    is_closed: bool,
    unread_events: u32,
}

/// An event, without its image.
#[derive(Deserialize)]
struct ImageEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl ImageEvent<'_> {
    fn is_error(&self) -> bool {
        let says_something =
            |error: &RawValue| !matches!(error.get(), "null" | "false" | "\"\"" | "{}");
        self.kind.as_deref() == Some("error") || self.error.is_some_and(says_something)
    }
}

impl ImageReader {
    pub(super) const fn new(order: ImageOrder) -> Self {
        Self {
            order,
            images: 0,
            reported: None,
            is_nonsense: false,
            has_begun: false,
            is_error: false,
            is_closed: false,
            unread_events: 0,
        }
    }

    /// Notes an image that is finished. Reports of several are added up: none says that it is about all of them.
    fn finished(&mut self, usage: Option<&RawValue>) {
        let reported = usage.and_then(|raw| image_usage(raw, self.order.takes_images));
        self.is_nonsense |= reported.is_none() && usage.is_some();
        self.reported = match (self.images, self.reported, reported) {
            (0, _, reported) => reported,
            (_, Some(before), Some(now)) => Some(sum(before, now)),
            _ => None,
        };
        self.images = self.images.saturating_add(1);
        self.is_closed |= self.images >= self.order.count;
    }

    fn failed(&mut self) -> Fault {
        self.is_error = true;
        Fault::Upstream
    }
}

impl EventReader for ImageReader {
    fn event_bytes_max(&self) -> usize {
        ANSWER_BYTES_MAX
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        let said = event.payload.trim_ascii();
        if self.is_closed || (said.is_empty() && !event.is_error()) {
            return Ok(false);
        }
        if said == b"[DONE]" {
            self.is_closed |= self.images > 0;
            return Ok(true);
        }
        if event.is_error() {
            return Err(self.failed());
        }
        let Ok(read) = serde_json::from_slice::<ImageEvent<'_>>(said) else {
            self.unread_events = self.unread_events.saturating_add(1);
            let is_too_much = self.unread_events > UNREAD_EVENTS_MAX;
            return if is_too_much {
                Err(Fault::Nonsense)
            } else {
                Ok(false)
            };
        };
        if read.is_error() {
            return Err(self.failed());
        }
        self.unread_events = 0;
        self.has_begun = true;
        let kind = read.kind.as_deref().unwrap_or_default();
        let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        match [event.name, kind.as_bytes()]
            .into_iter()
            .find(|name| is_name(name))
        {
            Some(name) => write_named_event(name, event.payload, out),
            None => write_event(event.payload, out),
        }
        if kind.ends_with(".completed") {
            self.finished(read.usage);
        }
        Ok(true)
    }

    fn finish(&mut self, last: Result<(), Fault>, _: &mut BytesMut) -> Result<(), Fault> {
        if self.is_closed {
            return Ok(());
        }
        last?;
        self.is_closed = self.images > 0;
        if self.is_closed {
            Ok(())
        } else {
            Err(Fault::Cut)
        }
    }

    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let answer = serde_json::from_slice::<ImageEvent<'_>>(body);
        let answer = answer.map_err(|_| Fault::Nonsense)?;
        if answer.is_error() {
            return Err(self.failed());
        }
        let events = forms::events(body, self.order.operation).ok_or(Fault::Nonsense)?;
        self.has_begun = true;
        self.finished(answer.usage);
        self.images = u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.is_closed = true;
        let name = format!("{}.completed", self.order.operation);
        for event in events {
            write_named_event(name.as_bytes(), event.as_bytes(), out);
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn close(&mut self, _: &mut BytesMut) {
        self.is_closed = true;
    }

    fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        let refusal = fault.refusal();
        let (code, message) = (refusal.code.as_str(), &refusal.message);
        let kind = refusal.code.kind();
        // Flat as OpenAI has it, and nested as its clients look for it.
        let error = json!({
            "type": "error", "code": code, "message": message, "param": null,
            "error": {"message": message, "type": kind, "code": code, "param": null},
        });
        write_named_event(b"error", error.to_string().as_bytes(), out);
    }

    fn bytes_held(&self) -> usize {
        0
    }

    fn measured(&self) -> Measured {
        if self.is_closed && self.images > 0 {
            return self
                .order
                .measured(self.images, self.reported, self.is_nonsense);
        }
        Measured {
            // More may have been made than was shown.
            text_overflow: self.has_begun,
            is_error: self.is_error,
            is_completion: self.has_begun,
            ..Measured::default()
        }
    }

    fn take_measured(&mut self) -> Measured {
        self.measured()
    }
}

fn sum(one: Usage, other: Usage) -> Usage {
    let mut values = one.values();
    for (value, more) in values.iter_mut().zip(other.values()) {
        *value = value.saturating_add(more);
    }
    Usage::from_values(values)
}

/// A whole answer, without its images.
#[derive(Deserialize)]
struct Answer<'a> {
    data: Vec<IgnoredAny>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// Reads a body in either form, to be delivered as one answer, which passes as it came.
#[must_use]
pub fn read(body: Bytes, order: &ImageOrder) -> Whole {
    let answer = serde_json::from_slice::<Answer<'_>>(&body).ok();
    let Some(answer) = answer.filter(|answer| !answer.data.is_empty()) else {
        return from_events(&body, order);
    };
    let images = u64::try_from(answer.data.len()).unwrap_or(u64::MAX);
    let reported = answer
        .usage
        .and_then(|raw| image_usage(raw, order.takes_images));
    let is_nonsense = reported.is_none() && answer.usage.is_some();
    Whole {
        measured: order.measured(images, reported, is_nonsense),
        body: Ok(body),
    }
}

/// An answer that came as events, put together. What is no stream either is a fault.
fn from_events(body: &[u8], order: &ImageOrder) -> Whole {
    let mut reader = ImageReader::new(*order);
    let (mut merged, mut nowhere) = (MergedImages::default(), BytesMut::new());
    let mut take = |event: &Event<'_>| {
        let taken = reader.event(event, &mut nowhere);
        nowhere.clear();
        if taken.is_ok() {
            merged.add(event.payload);
        }
        taken
    };
    let mut splitter = Splitter::new(ANSWER_BYTES_MAX);
    let read = splitter
        .push(body, &mut take)
        .and_then(|()| splitter.finish(&mut take));
    let read = reader.finish(read, &mut BytesMut::new());
    let whole = read.and_then(|()| merged.into_json().ok_or(Fault::Nonsense));
    Whole {
        measured: reader.measured(),
        body: whole.map(Bytes::from),
    }
}
