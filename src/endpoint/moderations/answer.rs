//! What an answer to `/v1/moderations` says: that it is one, its model, and what it used where that is paid for. Pure.
//!
//! It passes as it came. The results are skipped.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::meter::whole::Whole;
use crate::meter::{Fault, Measured, input_reported, name_reported};
use crate::price::Usage;

#[derive(Deserialize)]
struct Answer<'a> {
    results: Vec<IgnoredAny>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// Reads an answer that costs nothing, whatever it reports.
pub(super) fn read_free(body: Bytes) -> Whole {
    read(body, |_| Measured {
        usage: Some(Usage::default()),
        ..Measured::default()
    })
}

/// Reads an answer that is paid for.
pub(super) fn read_priced(body: Bytes) -> Whole {
    read(body, |answer| {
        let usage = answer.usage.and_then(input_reported);
        Measured {
            usage_nonsense: usage.is_none() && answer.usage.is_some(),
            usage,
            ..Measured::default()
        }
    })
}

/// A fault where it is no answer.
fn read(body: Bytes, measure: fn(&Answer<'_>) -> Measured) -> Whole {
    let answer = serde_json::from_slice::<Answer<'_>>(&body).ok();
    let Some(answer) = answer.filter(|answer| !answer.results.is_empty()) else {
        return Whole {
            measured: Measured::default(),
            body: Err(Fault::Nonsense),
        };
    };
    let measured = Measured {
        model: answer.model.and_then(name_reported),
        ..measure(&answer)
    };
    Whole {
        measured,
        body: Ok(body),
    }
}
