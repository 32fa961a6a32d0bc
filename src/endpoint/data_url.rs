//! `data:` URLs of images, read as browsers read them (WHATWG Fetch, "data: URL processor") and written in one form.
//!
//! Clients write these by hand: with line breaks every 76 characters, `image/PNG`, parameters, without padding. Whoever
//! reads them next may be stricter than a browser, so what is sent has one form: `data:image/png;base64,` and padded
//! base64 without anything between. What is no image in base64 is not read.

use std::borrow::Cow;

/// The media types that providers take, as they are sent.
const KINDS: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];
/// Other names of the same, as clients write them.
const ALIASES: [(&str, &str); 3] = [
    ("image/jpg", "image/jpeg"),
    ("image/pjpeg", "image/jpeg"),
    ("image/x-png", "image/png"),
];

/// What keeps a `data:` URL from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is no PNG, JPEG, WebP or GIF in base64.
    Kind,
    /// What follows the comma is no base64.
    Base64,
}

/// What follows `data:`, in any case, of an URL that may stand between blanks.
pub(crate) fn strip_scheme(url: &str) -> Option<&str> {
    let url = url.trim_matches(|character: char| character <= ' ');
    let (scheme, data) = url.split_at_checked(5)?;
    scheme.eq_ignore_ascii_case("data:").then_some(data)
}

/// The bytes of an image in base64, where an URL is in the form that is sent.
pub(crate) fn encoded(url: &str) -> Option<&str> {
    let data = url.strip_prefix("data:")?;
    KINDS
        .iter()
        .find_map(|kind| data.strip_prefix(kind)?.strip_prefix(";base64,"))
}

/// The form that is sent, or `None` where the URL has it.
///
/// # Errors
/// It is no image in base64.
pub(crate) fn canonical(url: &str) -> Result<Option<String>, Problem> {
    if encoded(url).is_some_and(is_padded_base64) {
        return Ok(None);
    }
    let data = strip_scheme(url).ok_or(Problem::Kind)?;
    let (media_type, body) = data.split_once(',').ok_or(Problem::Kind)?;
    let kind = kind(media_type).ok_or(Problem::Kind)?;
    let body = body.split('#').next().unwrap_or_default();
    Ok(Some(format!("data:{kind};base64,{}", base64(body)?)))
}

/// The kind of image of `image/PNG; charset=x; base64`. Parameters say nothing about an image.
fn kind(media_type: &str) -> Option<&'static str> {
    let is_blank = |character: char| character.is_ascii_whitespace();
    let (parameters, marker) = media_type.trim_matches(is_blank).rsplit_once(';')?;
    if !marker.trim_matches(is_blank).eq_ignore_ascii_case("base64") {
        return None;
    }
    let essence = parameters
        .split(';')
        .next()?
        .trim_matches(is_blank)
        .to_ascii_lowercase();
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == essence)
        .map_or(essence.as_str(), |(_, name)| name);
    KINDS.into_iter().find(|kind| *kind == name)
}

/// Base64 as browsers take it: `%2B` for `+`, blanks anywhere, with or without padding.
fn base64(body: &str) -> Result<String, Problem> {
    let body = percent_decoded(body).ok_or(Problem::Base64)?;
    let mut digits: String = body
        .chars()
        .filter(|character| !character.is_ascii_whitespace())
        .collect();
    if digits.len().is_multiple_of(4) {
        let padding = digits
            .bytes()
            .rev()
            .take(2)
            .take_while(|byte| *byte == b'=')
            .count();
        digits.truncate(digits.len().saturating_sub(padding));
    }
    while !digits.len().is_multiple_of(4) {
        digits.push('=');
    }
    if is_padded_base64(&digits) {
        Ok(digits)
    } else {
        Err(Problem::Base64)
    }
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut pieces = text.split('%');
    let mut decoded = pieces.next()?.to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        let byte = u8::from_str_radix(code, 16).ok().filter(u8::is_ascii)?;
        decoded.push(char::from(byte));
        decoded.push_str(rest);
    }
    Some(Cow::Owned(decoded))
}

/// The standard alphabet, padded (RFC 4648 §4), and not empty.
pub(crate) fn is_padded_base64(encoded: &str) -> bool {
    let digits = encoded.trim_end_matches('=');
    let padding = encoded.len().saturating_sub(digits.len());
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    !digits.is_empty()
        && padding <= 2
        && encoded.len().is_multiple_of(4)
        && digits.bytes().all(alphabet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_take_for_an_image_is_sent_in_one_form() {
        let png = Ok(Some("data:image/png;base64,iVBORw0KGgo=".to_owned()));
        let forms = [
            "data:image/png;base64,iVBO\nRw0K\r\nGgo=\n",
            "data:image/PNG;base64,iVBORw0KGgo=",
            "data:image/x-png;base64,iVBORw0KGgo=",
            "data:image/png;charset=utf-8;base64,iVBORw0KGgo=",
            "data:image/png; name=\"a.png\" ; BASE64 ,iVBORw0KGgo=",
            " DATA:image/png;base64,iVBORw0KGgo=\n",
            "data:image/png;base64,iVBORw0KGgo",
            "data:image/png;base64, iV BO Rw 0K Gg o =",
            "data:image/png;base64,iVBORw0KGgo%3D",
            "data:image/png;base64,iVBORw0KGgo=#fragment",
        ];
        for url in forms {
            assert_eq!(canonical(url), png, "{url:?}");
        }
        assert_eq!(
            canonical("data:image/jpg;base64,/9j/"),
            Ok(Some("data:image/jpeg;base64,/9j/".to_owned()))
        );
        assert_eq!(
            canonical("data:image/jpeg;base64,%2F9j%2f"),
            Ok(Some("data:image/jpeg;base64,/9j/".to_owned()))
        );
        for url in [
            "data:image/png;base64,iVBORw0KGgo=",
            "data:image/webp;base64,/9j/",
        ] {
            assert_eq!(canonical(url), Ok(None), "{url}");
        }
    }

    #[test]
    fn what_is_no_image_in_base64_is_not_read() {
        let kinds = [
            "image/svg+xml;base64,AAAA",
            "text/html;base64,AAAA",
            "image/png,AAAA",
            "image/heic;base64,AAAA",
            "",
        ];
        for data in kinds {
            assert_eq!(
                canonical(&format!("data:{data}")),
                Err(Problem::Kind),
                "{data}"
            );
        }
        for encoded in [
            "", "A", "AA=A", "A===", "AAA-", "====", "AAAAA", "AA%", "AA%zz", "AA%ff", "AA%+1",
            "ÄAAA", "==",
        ] {
            let url = format!("data:image/png;base64,{encoded}");
            assert_eq!(canonical(&url), Err(Problem::Base64), "{encoded}");
        }
    }
}
