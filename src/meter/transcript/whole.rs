//! A transcript in one piece: JSON with its text, or text alone. Pure.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{TranscriptBound, report};
use crate::meter::whole::Whole;
use crate::meter::{Fault, Measured, name_reported};

/// An object with a transcript.
#[derive(Deserialize)]
pub(super) struct TranscriptObject<'a> {
    /// What was said.
    #[serde(borrow)]
    pub(super) text: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

impl TranscriptObject<'_> {
    /// What it says of itself.
    pub(super) fn measured(&self, bound: &TranscriptBound) -> Measured {
        let mut measured = of_text(&self.text);
        measured.model = self.model.and_then(name_reported);
        if let Some(usage) = self.usage.filter(|usage| usage.get() != "null") {
            report::note(usage, bound, !self.text.is_empty(), &mut measured);
        }
        measured
    }
}

/// Reads an answer in JSON, of any of its forms. A fault where it has no text.
#[must_use]
pub fn read(bound: &TranscriptBound, body: Bytes) -> Whole {
    let Ok(object) = serde_json::from_slice::<TranscriptObject<'_>>(&body) else {
        return Whole {
            measured: Measured::default(),
            body: Err(Fault::Nonsense),
        };
    };
    Whole {
        measured: object.measured(bound),
        body: Ok(body),
    }
}

/// Reads an answer of text alone (`text`, `srt`, `vtt`), which says nothing of what it used. A server that answers with JSON
/// all the same says what it would have said in text, or that it failed.
#[must_use]
pub fn read_text(bound: &TranscriptBound, body: Bytes) -> Whole {
    if let Ok(object) = serde_json::from_slice::<TranscriptObject<'_>>(&body) {
        return Whole {
            measured: object.measured(bound),
            body: Ok(Bytes::from(object.text.into_owned())),
        };
    }
    let is_error = body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
    let measured = str::from_utf8(&body)
        .ok()
        .filter(|_| !is_error)
        .map(of_text);
    match measured {
        Some(measured) => Whole {
            measured,
            body: Ok(body),
        },
        None => Whole {
            measured: Measured::default(),
            body: Err(Fault::Nonsense),
        },
    }
}

fn of_text(text: &str) -> Measured {
    let mut measured = Measured {
        is_completion: true,
        finished: true,
        ..Measured::default()
    };
    measured.deliver(text);
    measured
}
