//! `Idempotency-Key`: by which name a request may be sent again, what counts as the same request, and what a caller is told
//! whose request was held before.
//!
//! The digest is of the path and of the body as it is understood: members in any order, any white space, numbers and texts
//! by their values. So an encoder that shuffles members, as Swift's does, sends the same request again. A form is taken by its
//! bytes, but for its boundary.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use http::HeaderMap;
use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use uuid::Uuid;

use crate::endpoint::{Incoming, form};
use crate::error::{Code, Refusal};
use crate::ledger::{EndState, Repetition};
use crate::price::MicroUsd;

/// The header, as it is documented.
const HEADER: &str = "Idempotency-Key";
/// The longest key.
const KEY_BYTES_MAX: usize = 255;
/// How soon a caller may ask again for a request that is still open.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Reads the header, if it is there.
///
/// # Errors
/// `invalid_request` for anything but one key of 1 to 255 visible ASCII characters.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    let is_key = is_visible && (1..=KEY_BYTES_MAX).contains(&key.len());
    if is_key && values.next().is_none() {
        return Ok(Some(key.to_owned()));
    }
    Err(Refusal::invalid(
        HEADER,
        "The header Idempotency-Key is one key of 1 to 255 visible ASCII characters.",
    ))
}

/// What a caller is told whose key stands for another request.
pub(super) fn reused() -> Refusal {
    let message = "This Idempotency-Key was used for another request in the last 24 hours. \
                   Send a key of its own with each request.";
    Refusal::new(Code::IdempotencyKeyReused, message).at(HEADER)
}

/// What a caller is told whose key another request has taken.
pub(super) fn refusal(first: &Repetition) -> Refusal {
    if !first.same {
        return reused();
    }
    let Some(state) = first.state else {
        let message = "This request was sent before and is still open.";
        return gone(message, first.id, None).retry_after(ASK_AGAIN);
    };
    let message = "This request was sent before and has ended, and its answer is kept no longer. \
                   A new Idempotency-Key sends it again, and is charged again.";
    gone(message, first.id, Some((state, first.cost)))
}

/// There is no answer to the request with this id; how it ended, and what it cost, is known once it has ended.
pub(super) fn gone(message: &str, id: Uuid, end: Option<(EndState, MicroUsd)>) -> Refusal {
    let request = json!({
        "id": id.to_string(),
        "state": end.map(|(state, _)| state.as_str()),
        "cost_usd": end.map(|(_, cost)| cost.to_string()),
    });
    Refusal::new(Code::AnswerGone, message).with("request", request)
}

/// What tells a request from every other one.
pub(super) fn digest(incoming: &Incoming) -> [u8; SHA256_OUTPUT_LEN] {
    let boundary = form::boundary(incoming.content_type.as_ref());
    digest_of(&incoming.route.path(), &incoming.body, boundary.as_deref())
}

fn digest_of(path: &str, body: &[u8], boundary: Option<&str>) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(path.as_bytes());
    context.update(b"\n");
    match boundary {
        Some(boundary) => update_without(&mut context, body, boundary),
        None => match canonical(body) {
            Ok(text) => context.update(&text),
            // It is refused later, or is another request wherever one byte differs.
            Err(_) => context.update(body),
        },
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// A form by its bytes, but for the boundary, which a client chooses anew each time.
fn update_without(context: &mut Context, body: &[u8], boundary: &str) {
    let boundary = boundary.as_bytes();
    let mut start = 0;
    let found = memmem::find_iter(body, boundary).chain([body.len()]);
    for end in found {
        let piece = body.get(start..end).unwrap_or_default();
        context.update(&piece.len().to_be_bytes());
        context.update(piece);
        start = end.saturating_add(boundary.len());
    }
}

/// A text for each value, whatever the order of its members: only to be compared.
fn canonical(body: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(body.len());
    let mut reader = serde_json::Deserializer::from_slice(body);
    Canonical(&mut text).deserialize(&mut reader)?;
    reader.end()?;
    Ok(text)
}

/// Writes what it reads.
struct Canonical<'t>(&'t mut Vec<u8>);

impl Canonical<'_> {
    fn write(self, value: fmt::Arguments<'_>) {
        // A vector takes all.
        drop(self.0.write_fmt(value));
    }
}

impl<'de> DeserializeSeed<'de> for Canonical<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canonical<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.write(format_args!("null"));
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.write(format_args!("{value}"));
        Ok(())
    }

    // With an exponent: `100`, `100.0` and `1e2` are one number.
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.write(format_args!("{value:e}"));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.write(format_args!("{value:e}"));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.write(format_args!("{value:e}"));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        serde_json::to_writer(self.0, value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        while items.next_element_seed(Canonical(self.0))?.is_some() {
            self.0.push(b',');
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let mut starts = vec![self.0.len()];
        while members.next_key_seed(Canonical(self.0))?.is_some() {
            self.0.push(b':');
            members.next_value_seed(Canonical(self.0))?;
            self.0.push(b',');
            starts.push(self.0.len());
        }
        sort_members(self.0, &starts);
        self.0.push(b'}');
        Ok(())
    }
}

/// Puts the members at the end of a text in one order. Each begins where the one before it ends.
fn sort_members(text: &mut Vec<u8>, starts: &[usize]) {
    let of = |ends: &[usize]| match *ends {
        [start, end] => text.get(start..end).unwrap_or_default(),
        _ => &[],
    };
    let mut members: Vec<&[u8]> = starts.windows(2).map(of).collect();
    if members.is_sorted() {
        return;
    }
    members.sort_unstable();
    let sorted = members.concat();
    text.truncate(starts.first().copied().unwrap_or_default());
    text.extend_from_slice(&sorted);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> [u8; SHA256_OUTPUT_LEN] {
        digest_of("/v1/chat/completions", body.as_bytes(), None)
    }

    #[test]
    fn the_same_request_in_another_spelling_is_the_same() {
        let request = r#"{"model":"m","messages":[{"role":"user","content":"Hé"}],"n":1,"temperature":0.7,"x":{"a":100,"b":[]}}"#;
        for same in [
            "{ \"n\" : 1,\n\t\"x\":{\"b\":[ ],\"a\":100}, \"messages\":[{\"content\":\"Hé\",\"role\":\"user\"}],\"temperature\":0.7,\"model\":\"m\"}\r\n",
            r#"{"model":"\u006d","messages":[{"role":"user","content":"H\u00e9"}],"n":1.0,"temperature":7e-1,"x":{"a":1e2,"b":[]}}"#,
        ] {
            assert_eq!(of(same), of(request), "{same}");
        }
        for other in [
            request.replace("0.7", "0.70001"),
            request.replace("\"m\"", "\"n\""),
            request.replace("100", "\"100\""),
            request.replace("[]", "{}"),
            request.replace("[]", "[null]"),
            request.replace("\"n\":1,", ""),
            request.replace("Hé", "He"),
        ] {
            assert_ne!(of(&other), of(request), "{other}");
        }
        assert_ne!(of("[1,2]"), of("[2,1]"), "a list has an order");
        assert_ne!(of(r#"{"a":"b\",\"c"}"#), of(r#"{"a":"b","c":""}"#));
        assert_ne!(
            digest_of("/api/chat", request.as_bytes(), None),
            of(request),
            "of another path"
        );
    }

    #[test]
    fn what_is_no_json_is_told_apart_by_its_bytes() {
        assert_eq!(of("{"), of("{"));
        for (one, other) in [("{", "{ "), ("{}x", "{}y"), ("\u{feff}{}", "{}"), ("", " ")] {
            assert_ne!(of(one), of(other), "{one}");
        }
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(of(&deep(10_000)), of(&deep(10_000)));
        assert_ne!(of(&deep(10_000)), of(&deep(10_001)));
        assert!(canonical(br#"{"a":NaN}"#).is_err());
        assert!(canonical(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_form_is_told_apart_by_its_bytes_but_for_its_boundary() {
        let of = |boundary: &str, content: &str, end: &str| {
            let body = format!("--{boundary}\r\nname=n\r\n\r\n{content}\r\n--{boundary}--{end}");
            digest_of("/v1/images/edits", body.as_bytes(), Some(boundary))
        };
        let request = of("a1", "the picture", "\r\n");
        assert_eq!(of("another-boundary", "the picture", "\r\n"), request);
        for other in [
            of("a1", "the  picture", "\r\n"),
            of("a1", "", "\r\n"),
            of("a1", "the picture", ""),
        ] {
            assert_ne!(other, request);
        }
        // Where the boundary stands counts too.
        let cut = |body: &[u8]| digest_of("/", body, Some("b"));
        assert_ne!(cut(b"xyb"), cut(b"xby"));
        assert_ne!(cut(b"xy"), cut(b"xby"));
        assert_eq!(
            digest_of("/", b"", Some("b")),
            digest_of("/", b"", Some("c"))
        );
    }

    #[test]
    fn members_are_sorted_at_every_level_and_numbers_are_values() {
        let text = canonical(
            r#"{"b":[{"d":-0,"c":18446744073709551615}],"a":-12,"ab":1e400,"":null}"#.as_bytes(),
        );
        assert!(text.is_err(), "out of range");
        let text =
            canonical(br#"{"b":[{"d":0,"c":18446744073709551615}],"a":-12,"ab":true,"":null}"#);
        assert_eq!(
            String::from_utf8(text.unwrap()).unwrap(),
            r#"{"":null,"a":-1.2e1,"ab":true,"b":[{"c":1.8446744073709551615e19,"d":0e0,},],}"#
        );
    }

    #[test]
    fn a_key_is_one_word_of_visible_characters() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append("idempotency-key", value);
            }
            headers
        };
        let longest = "k".repeat(255);
        for key in ["a", "\"quoted\"", "~!#", longest.as_str()] {
            assert_eq!(read(&headers(&[key])).unwrap().as_deref(), Some(key));
        }
        assert_eq!(read(&headers(&[])).unwrap(), None);
        let too_long = "k".repeat(256);
        for wrong in [
            &[""][..],
            &["a b"],
            &["a\t"],
            &["é"],
            &[too_long.as_str()],
            &["a", "a"],
        ] {
            let refusal = read(&headers(wrong)).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidRequest, "{wrong:?}");
            assert_eq!(refusal.param.as_deref(), Some(HEADER));
        }
    }
}
