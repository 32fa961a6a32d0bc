//! What is wrong with a request, and where.
//!
//! A fault is found deep inside and learns its path on the way out. Its text never repeats what the caller wrote, but
//! for the names of fields: a prompt must not reach a log by way of an error.

use std::fmt::Display;

use serde_json::error::Category;

use crate::error::{Code, Refusal};

/// The longest path that is told.
const PATH_CHARS_MAX: usize = 160;

/// Something that is refused: a field by its path, and what about it.
pub(crate) struct FieldError {
    code: Code,
    path: String,
    what: String,
}

/// The result of a check.
pub(crate) type Checked = Result<(), FieldError>;

impl FieldError {
    /// Wrong shape, type or range. `what` follows the field's name: `must be between 0 and 2`.
    pub(crate) fn invalid(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            code: Code::InvalidRequest,
            path: path.into(),
            what: what.into(),
        }
    }

    /// A field or a value that costs money, keeps state, or is not known.
    pub(crate) fn unsupported(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            code: Code::UnsupportedField,
            path: path.into(),
            what: what.into(),
        }
    }

    /// A field that has to be there.
    pub(crate) fn missing(path: impl Into<String>) -> Self {
        Self::invalid(path, "is missing")
    }

    /// The same, seen from outside the member `parent`.
    pub(crate) fn under(mut self, parent: impl Display) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{parent}{joint}{}", self.path);
        self
    }

    /// A body that is not the object it should be: what the parser says, in this API's words.
    /// `path` says where it stands; empty is the body itself.
    pub(crate) fn of_json(error: &serde_json::Error, path: String) -> Refusal {
        let (text, place) = without_place(&error.to_string());
        if error.classify() != Category::Data {
            if text == "number out of range" && !path.is_empty() {
                return Self::invalid(path, "is a number out of range").into();
            }
            return Refusal::new(
                Code::InvalidRequest,
                format!("The body is not valid JSON: {text}{place}."),
            );
        }
        let what = what_is_wrong(&text);
        match (path.as_str(), duplicate(&text)) {
            ("", None) => Refusal::new(Code::InvalidRequest, format!("The body {what}.")),
            ("", Some(field)) => Self::invalid(field, what).into(),
            (_, None) => Self::invalid(path, what).into(),
            (_, Some(field)) => Self::invalid(field, what).under(path).into(),
        }
    }

    /// A field of a form that is not what it should be: what its reader says, in this API's words.
    pub(crate) fn of_text(what: &str, path: String) -> Refusal {
        Self::invalid(path, what_is_wrong(what)).into()
    }
}

impl From<FieldError> for Refusal {
    fn from(fault: FieldError) -> Self {
        let path = tidy(&fault.path, PATH_CHARS_MAX);
        Self::new(fault.code, format!("`{path}` {}.", fault.what)).at(path)
    }
}

/// A text of the caller's that is safe and short enough to be told: a field's name, a path.
pub(crate) fn tidy(text: &str, chars_max: usize) -> String {
    let safe = |character: char| {
        if character.is_control() {
            '\u{FFFD}'
        } else {
            character
        }
    };
    let mut tidied: String = text.chars().take(chars_max).map(safe).collect();
    if text.chars().nth(chars_max).is_some() {
        tidied.push('…');
    }
    tidied
}

/// The parser's message without ` at line 1 column 2`, and that.
fn without_place(message: &str) -> (String, String) {
    match message.rsplit_once(" at line ") {
        Some((text, place)) => (text.to_owned(), format!(" at line {place}")),
        None => (message.to_owned(), String::new()),
    }
}

/// The parser's message quotes the caller's value before its last `, expected `; what follows is ours.
fn what_is_wrong(message: &str) -> String {
    if duplicate(message).is_some() {
        return "is given twice".to_owned();
    }
    match message.rsplit_once(", expected ") {
        Some((_, "i64" | "u64" | "u32")) => "must be an integer".to_owned(),
        Some((_, "a JSON number")) => "must be a number".to_owned(),
        Some((_, expected)) => format!("must be {expected}"),
        None if message.starts_with("must ") => message.to_owned(),
        None => "has the wrong shape".to_owned(),
    }
}

/// The field of `` duplicate field `x` ``; only names of known fields get there.
fn duplicate(message: &str) -> Option<&str> {
    message.strip_prefix("duplicate field `")?.strip_suffix('`')
}
