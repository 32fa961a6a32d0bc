//! Bodies of `multipart/form-data`: read in whatever order their parts come, and written anew. Pure.
//!
//! `multer`, which axum uses too, finds the parts; it copies the body once, and each part is a piece of that copy. As with
//! JSON, the caller's bytes are never forwarded: what is sent is written of what was understood (`writer`).

mod fields;
#[cfg(test)]
mod tests;
mod writer;

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use multer::{Multipart, parse_boundary};
use serde::de::DeserializeOwned;

use super::Incoming;
use super::field_error::{FieldError, tidy};
use crate::error::{Code, Refusal};

pub(super) use writer::{Boundary, FormWriter};

/// How many parts a form may have.
const PARTS_MAX: usize = 128;
/// How much of a part's name is told.
const NAME_CHARS_MAX: usize = 64;

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormPart {
    /// Its name, as it was sent.
    pub(super) name: String,
    /// The name of its file, if it says one.
    pub(super) file_name: Option<String>,
    pub(super) data: Bytes,
}

/// A form, of which parts are taken until nothing is left.
#[derive(Debug)]
pub(super) struct FormBody {
    parts: Vec<FormPart>,
}

impl FormBody {
    /// Reads the form in a body.
    ///
    /// # Errors
    /// `invalid_request`: it is none, or breaks off; names the part where it is known.
    pub(super) fn read(incoming: &Incoming) -> Result<Self, Refusal> {
        let boundary = boundary(incoming.content_type.as_ref());
        let boundary = boundary.ok_or_else(|| invalid("its Content-Type names no boundary"))?;
        let body = stream::iter([Ok::<_, Infallible>(incoming.body.clone())]);
        let mut reader = Multipart::new(body, boundary);
        let mut parts = Vec::new();
        while let Some(part) = next(&mut reader)? {
            if parts.len() >= PARTS_MAX {
                return Err(invalid(&format!("it has more than {PARTS_MAX} parts")));
            }
            parts.push(part);
        }
        Ok(Self { parts })
    }

    /// Takes the files of a name, in their order. `image[]` is a list of which every part has the same name.
    pub(super) fn take_files(&mut self, name: &str) -> Vec<FormPart> {
        let is_named = |part: &mut FormPart| base_name(&part.name) == name;
        self.parts.extract_if(.., is_named).collect()
    }

    /// The parts that are left, each a text or one of a list of texts, as the object that they would be in JSON.
    ///
    /// # Errors
    /// As `json::read`: names the field.
    pub(super) fn into_fields<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        fields::read(&self.parts)
    }
}

/// The boundary that a Content-Type names, if it is one of a form.
pub(crate) fn boundary(content_type: Option<&HeaderValue>) -> Option<String> {
    parse_boundary(content_type?.to_str().ok()?).ok()
}

/// The name of a list, without its brackets.
fn base_name(name: &str) -> &str {
    name.strip_suffix("[]").unwrap_or(name)
}

fn next(reader: &mut Multipart<'_>) -> Result<Option<FormPart>, Refusal> {
    let Some(mut field) = ready(reader.next_field())? else {
        return Ok(None);
    };
    let name = field.name().map(str::to_owned);
    let name = name.ok_or_else(|| invalid("a part has no name"))?;
    let file_name = field.file_name().map(str::to_owned);
    // The whole body is there, so each part comes in one piece.
    let data = ready(field.chunk())?.unwrap_or_default();
    let is_whole = ready(field.chunk())?.is_none();
    let part = FormPart {
        name,
        file_name,
        data,
    };
    is_whole
        .then_some(Some(part))
        .ok_or_else(|| invalid("it could not be read"))
}

/// The result of reading, for which nothing is waited: all bytes are there.
fn ready<T>(reading: impl Future<Output = multer::Result<T>>) -> Result<T, Refusal> {
    match pin!(reading).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read.map_err(|error| wrong(&error)),
        Poll::Pending => Err(invalid("it breaks off")),
    }
}

fn wrong(error: &multer::Error) -> Refusal {
    match error {
        multer::Error::IncompleteFieldData {
            field_name: Some(name),
        } => {
            let what = "breaks off: the boundary that ends it is missing";
            FieldError::invalid(tidy(name, NAME_CHARS_MAX), what).into()
        }
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            invalid("it breaks off, or its boundary is another than its Content-Type says")
        }
        _ => invalid("the headers of a part cannot be read"),
    }
}

fn invalid(what: &str) -> Refusal {
    let message = format!("The body is not valid multipart/form-data: {what}.");
    Refusal::new(Code::InvalidRequest, message)
}
