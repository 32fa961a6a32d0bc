//! Rules that many members of a request have in common.

use serde_json::Number;

use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::Unknown;

pub(super) fn known(unknown: Option<&Unknown>) -> Checked {
    match unknown {
        None => Ok(()),
        Some(Unknown { name, .. }) => {
            Err(FieldError::unsupported(name, "is not supported: remove it"))
        }
    }
}

pub(super) fn in_range(
    name: &str,
    number: Option<i64>,
    range: std::ops::RangeInclusive<i64>,
) -> Checked {
    if number.is_some_and(|number| !range.contains(&number)) {
        let what = format!("must be between {} and {}", range.start(), range.end());
        return Err(FieldError::invalid(name, what));
    }
    Ok(())
}

pub(super) fn range(name: &str, number: Option<&Number>, most: f64) -> Checked {
    let number = number.and_then(Number::as_f64);
    if number.is_some_and(|number| !(0.0..=most).contains(&number)) {
        return Err(FieldError::invalid(
            name,
            format!("must be between 0 and {most}"),
        ));
    }
    Ok(())
}

pub(super) fn one_of(name: &str, word: Option<&str>, words: &[&str]) -> Checked {
    match word {
        Some(word) if !words.contains(&word) => Err(FieldError::invalid(
            name,
            format!("must be one of: {}", words.join(", ")),
        )),
        _ => Ok(()),
    }
}

/// Members that belong to another type.
pub(super) fn only(members: &[(&'static str, bool)], kind: &str) -> Checked {
    match members.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => {
            let what = format!("belongs to type `{kind}` only: remove it");
            Err(FieldError::invalid(*name, what))
        }
    }
}

pub(super) fn named(name: Option<&str>, most: usize) -> Checked {
    let name = name.ok_or_else(|| FieldError::missing("name"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > most || !name.bytes().all(allowed) {
        let what = format!("must be 1 to {most} of the characters a-z, A-Z, 0-9, `_` and `-`");
        return Err(FieldError::invalid("name", what));
    }
    Ok(())
}
