//! An answer for a caller who asked for it in one piece.
//!
//! Some servers send events whatever was asked. Their answer is put together here, so that the caller gets the form that was
//! asked for and pays once. The other way round, one piece where a stream was asked for, is [`super::Meter`]'s: it
//! takes both forms and passes on events. Pure.

use bytes::Bytes;

use super::{Fault, Measured, measure_json};

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
    let measured = measure_json(&body);
    let fault = if measured.is_error { Some(Fault::Upstream) } else { Some(Fault::Nonsense) };
    let body = if measured.is_completion { Ok(body) } else { Err(fault.unwrap_or(Fault::Nonsense)) };
    Whole { measured, body }
}
