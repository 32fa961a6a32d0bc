//! A response for a caller who asked for it in one piece, in whatever form it came. Pure.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::object::ResponseFacts;
use super::synthesis::MergedResponse;
use super::{ResponseWatch, failure};
use crate::meter::sse::Splitter;
use crate::meter::whole::Whole;
use crate::meter::{Fault, Measured, mend};

/// Reads a body in either form, to be delivered as one response.
#[must_use]
pub fn read(body: Bytes) -> Whole {
    let plain = str::from_utf8(&body).ok();
    if let Some(facts) = plain.and_then(ResponseFacts::read) {
        let (measured, is_response) = measured(&facts);
        return delivered(measured, is_response, body.clone());
    }
    let mended = mend::json(&body);
    if let Some(facts) = ResponseFacts::read(&mended) {
        let (measured, is_response) = measured(&facts);
        let is_json = plain.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let body = if is_json { body } else { Bytes::from(mended) };
        return delivered(measured, is_response, body);
    }
    from_events(&body)
}

/// What was seen of a response, and whether it is one.
fn measured(facts: &ResponseFacts<'_>) -> (Measured, bool) {
    let mut watch = ResponseWatch::default();
    watch.note_whole(facts);
    (watch.judged(), facts.is_response)
}

/// A response that failed with nothing generated and nothing used is an error; any other is delivered.
fn delivered(measured: Measured, is_response: bool, body: Bytes) -> Whole {
    let is_empty = measured.usage.is_none() && measured.text.is_empty();
    let body = if measured.is_error && (is_empty || !is_response) {
        Err(Fault::Upstream)
    } else if !is_response {
        Err(Fault::Nonsense)
    } else if measured.is_error {
        Ok(Bytes::from(failure::told(&body).into_owned()))
    } else {
        Ok(body)
    };
    Whole { measured, body }
}

/// An answer that came as events, put together.
fn from_events(body: &[u8]) -> Whole {
    let (mut watch, mut out) = (ResponseWatch::default(), BytesMut::new());
    let read = watch.all(body, &mut out);
    let measured = watch.judged();
    let mut merged = MergedResponse::default();
    let split = Splitter::new(usize::MAX).push(&out, |event| {
        merged.add(event.payload);
        Ok(true)
    });
    // One that says that it failed is delivered so, if anything of it was generated.
    let is_told = measured.is_error && !(measured.text.is_empty() && measured.usage.is_none());
    let read = match read {
        Err(Fault::Cut) if !measured.is_completion => Err(Fault::Nonsense),
        Err(Fault::Upstream) if is_told => split,
        read => read,
    };
    let whole = read.and_then(|()| merged.into_json().ok_or(Fault::Nonsense));
    Whole {
        measured,
        body: whole.map(Bytes::from),
    }
}
