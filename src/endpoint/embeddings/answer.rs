//! What an answer with embeddings says: that it is one, its model and its usage. Pure.
//!
//! It passes as it came. The vectors are skipped, and nothing of them is kept.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::meter::whole::Whole;
use crate::meter::{Fault, Measured, input_reported, name_reported};

#[derive(Deserialize)]
struct Answer<'a> {
    data: Vec<IgnoredAny>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// Reads a whole answer. A fault where it is none: what it used is not known then.
pub(super) fn read(body: Bytes) -> Whole {
    let answer = serde_json::from_slice::<Answer<'_>>(&body).ok();
    let Some(answer) = answer.filter(|answer| !answer.data.is_empty()) else {
        return Whole {
            measured: Measured::default(),
            body: Err(Fault::Nonsense),
        };
    };
    let usage = answer.usage.and_then(input_reported);
    let measured = Measured {
        usage_nonsense: usage.is_none() && answer.usage.is_some(),
        usage,
        model: answer.model.and_then(name_reported),
        ..Measured::default()
    };
    Whole {
        measured,
        body: Ok(body),
    }
}
