//! An answer for a caller who asked for it in one piece.
//!
//! Some servers send events whatever was asked. Their answer is put together here, so that the caller gets the form that was
//! asked for and pays once. The other way round, one piece where a stream was asked for, is [`super::Meter`]'s: it
//! takes both forms and passes on events. Pure.

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::chunks::MergedCompletion;
use super::mend::{self, Syntax};
use super::sse::Splitter;
use super::watch::{DONE, Watch};
use super::{Fault, Measured, Meter};

/// A whole answer, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What was seen of it: to settle by, whether or not it can be delivered.
    pub measured: Measured,
    /// What the caller gets: a chat completion. A fault where it is none, or where the upstream said that it failed.
    pub body: Result<Bytes, Fault>,
}

/// Reads a body in either form, to be delivered as one chat completion.
#[must_use]
pub fn read(body: Bytes) -> Whole {
    let mut watch = Watch::default();
    let syntax = watch.read_whole(&body);
    let measured = watch.judged();
    if measured.is_error {
        return Whole {
            measured,
            body: Err(Fault::Upstream),
        };
    }
    if measured.is_completion {
        // What is not quite JSON would be none to the caller. (Half a surrogate pair is JSON, and no text that we could read.)
        let is_json = syntax == Syntax::Json
            || serde_json::from_slice::<IgnoredAny>(&body).is_ok() && str::from_utf8(&body).is_ok();
        let body = if is_json {
            body
        } else {
            Bytes::from(mend::json(&body))
        };
        return Whole {
            measured,
            body: Ok(body),
        };
    }
    let events = from_events(&body);
    // What is no stream either keeps what was read of it as one piece.
    if events.measured.is_completion || events.measured.is_error {
        events
    } else {
        Whole { measured, ..events }
    }
}

/// An answer that came as events, put together.
fn from_events(body: &[u8]) -> Whole {
    let mut meter = Meter::chat(true);
    let mut out = BytesMut::new();
    let read = meter
        .push(body, &mut out)
        .and_then(|()| meter.finish(&mut out));
    let measured = meter.into_measured();
    let whole = read.and_then(|()| merged(&out).ok_or(Fault::Nonsense));
    Whole {
        measured,
        body: whole.map(Bytes::from),
    }
}

/// The completion of a stream as the meter passes it on.
fn merged(events: &[u8]) -> Option<Vec<u8>> {
    let mut merged = MergedCompletion::default();
    let mut splitter = Splitter::new(usize::MAX);
    let read = splitter.push(events, |event| {
        let is_chunk = event.payload == DONE || merged.add(event.payload);
        if is_chunk {
            Ok(true)
        } else {
            Err(Fault::Nonsense)
        }
    });
    read.ok().map(|()| merged.into_json())
}
