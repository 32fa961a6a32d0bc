//! Writes a form. Its boundary is 128 random bits, which no part has in it, by chance or on purpose.

use aws_lc_rs::rand;
use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Code, Refusal};

/// What a boundary begins with.
const PREFIX: &str = "tollgate-";
/// How many random bytes a boundary has.
const RANDOM_BYTES: usize = 16;

/// The boundary of a form that may be written again and again, with other parts.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::endpoint) struct Boundary(String);

/// A form while it is written.
pub(in crate::endpoint) struct FormWriter<'b> {
    boundary: &'b Boundary,
    written: Vec<u8>,
}

impl Boundary {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random bytes to give.
    pub(in crate::endpoint) fn random() -> Result<Self, Refusal> {
        let mut bytes = [0; RANDOM_BYTES];
        let message = "The form could not be read; try again.";
        rand::fill(&mut bytes).map_err(|_| Refusal::new(Code::Overloaded, message))?;
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        Ok(Self(hex.fold(PREFIX.to_owned(), |text, byte| text + &byte)))
    }

    /// The Content-Type of a form with it.
    pub(in crate::endpoint) fn content_type(&self) -> HeaderValue {
        let text = format!("multipart/form-data; boundary={}", self.0);
        HeaderValue::try_from(text)
            .unwrap_or_else(|_| HeaderValue::from_static("multipart/form-data"))
    }
}

impl<'b> FormWriter<'b> {
    /// Begins a form with room for so many bytes of parts.
    pub(in crate::endpoint) fn new(boundary: &'b Boundary, bytes: usize) -> Self {
        Self {
            boundary,
            written: Vec::with_capacity(bytes.saturating_add(4096)),
        }
    }

    /// A field of text.
    pub(in crate::endpoint) fn text(&mut self, name: &str, value: &str) {
        self.begin(name);
        self.end(value.as_bytes());
    }

    /// The fields of an object, each as a text, and a list as one text for each of its items.
    pub(in crate::endpoint) fn texts(&mut self, fields: &impl Serialize) {
        let Ok(Value::Object(fields)) = serde_json::to_value(fields) else {
            return;
        };
        for (name, value) in fields {
            match value {
                Value::Array(items) => {
                    let name = format!("{name}[]");
                    for item in &items {
                        self.text(&name, &text_of(item));
                    }
                }
                value => self.text(&name, &text_of(&value)),
            }
        }
    }

    /// A file. Nothing of the caller's stands in these names but what a check let pass.
    pub(in crate::endpoint) fn file(
        &mut self,
        name: &str,
        (file_name, media_type): (&str, &str),
        data: &[u8],
    ) {
        self.begin(name);
        let head = format!(
            "; filename=\"{}\"\r\nContent-Type: {media_type}",
            quoted(file_name)
        );
        self.written.extend_from_slice(head.as_bytes());
        self.end(data);
    }

    /// The whole form.
    pub(in crate::endpoint) fn finish(mut self) -> Bytes {
        let end = format!("--{}--\r\n", self.boundary.0);
        self.written.extend_from_slice(end.as_bytes());
        Bytes::from(self.written)
    }

    fn begin(&mut self, name: &str) {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"",
            self.boundary.0,
            quoted(name)
        );
        self.written.extend_from_slice(head.as_bytes());
    }

    fn end(&mut self, data: &[u8]) {
        self.written.extend_from_slice(b"\r\n\r\n");
        self.written.extend_from_slice(data);
        self.written.extend_from_slice(b"\r\n");
    }
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A name as browsers write it between quotes.
fn quoted(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}
