//! What an app calls a request, by `X-Tollgate-Feature`: it stands in the row, for `usage --by feature`. Pure.

use http::HeaderMap;

use crate::error::Refusal;

/// The header. (CORS lets a page send any.)
const HEADER: &str = "x-tollgate-feature";

/// The longest name.
const FEATURE_BYTES_MAX: usize = 32;

/// Reads the header, if it is there.
///
/// # Errors
/// `invalid_request` for anything but one name of `[a-z0-9_-]{1,32}`.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let name = value.to_str().unwrap_or_default();
    let is_known = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
    };
    let is_name = !name.is_empty() && name.len() <= FEATURE_BYTES_MAX && name.bytes().all(is_known);
    if is_name && values.next().is_none() {
        return Ok(Some(name.to_owned()));
    }
    Err(Refusal::invalid(
        "X-Tollgate-Feature",
        "The header X-Tollgate-Feature is one name of at most 32 lower-case letters, digits, - and _.",
    ))
}
