//! Checks that requests, their messages and the blocks of these share.

use super::wire::CacheControl;
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::Unknown;

/// The longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// No member that nobody knows.
pub(super) fn known(unknown: Option<&Unknown>) -> Checked {
    match unknown {
        None => Ok(()),
        Some(Unknown { name, .. }) => {
            Err(FieldError::unsupported(name, "is not supported: remove it"))
        }
    }
}

/// Checks each item of a list and tells a fault's place in it.
pub(super) fn each<T>(items: &[T], name: &str, check: impl Fn(&T) -> Checked) -> Checked {
    for (at, item) in items.iter().enumerate() {
        check(item).map_err(|fault| fault.under(format_args!("{name}[{at}]")))?;
    }
    Ok(())
}

/// One of these words.
pub(super) fn one_of(name: &str, word: Option<&str>, words: &[&str]) -> Checked {
    match word {
        Some(word) if !words.contains(&word) => Err(FieldError::invalid(
            name,
            format!("must be one of: {}", words.join(", ")),
        )),
        _ => Ok(()),
    }
}

/// `cache_control`, here or anywhere below.
pub(super) fn cache_control(control: Option<&CacheControl>) -> Checked {
    let Some(control) = control else {
        return Ok(());
    };
    let checked = || {
        known(control.unknown.as_deref())?;
        if control.kind.as_deref() != Some("ephemeral") {
            return Err(FieldError::invalid("type", "must be `ephemeral`"));
        }
        one_of("ttl", control.ttl.as_deref(), &["5m", "1h"])
    };
    checked().map_err(|fault| fault.under("cache_control"))
}

/// What a tool may be called.
pub(super) fn tool_name(name: &str) -> Checked {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let what =
            format!("must be 1 to {NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, `_` and `-`");
        return Err(FieldError::invalid("name", what));
    }
    Ok(())
}
