//! What is nearly JSON, made JSON: so that one bad event does not hide what the rest of it says. Pure.
//!
//! Mended are bytes that are no UTF-8, half a surrogate pair, control characters and unknown escapes in strings, and numbers
//! that JSON does not have (`NaN`, `-Infinity`, `1e999`). Anything else stays as it is, and is still no JSON.

use std::borrow::Cow;
use std::fmt::Write;

const BYTE_ORDER_MARK: char = '\u{feff}';
/// Stands for a character that cannot be read.
const UNREADABLE: &str = "\\ufffd";
/// The names of numbers that are none, without their sign.
const NO_NUMBERS: [&str; 3] = ["nan", "infinity", "inf"];

/// How an answer in one piece is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    /// Not without [`json`].
    NearlyJson,
    NoObject,
}

/// A copy of `bytes` in which such faults are mended.
pub(super) fn json(bytes: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    let mut rest = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut out = String::with_capacity(rest.len());
    while let Some((outside, string)) = rest.split_once('"') {
        values(outside, &mut out);
        out.push('"');
        rest = inside(string, &mut out);
    }
    values(rest, &mut out);
    out
}

/// What stands outside of strings.
fn values(text: &str, out: &mut String) {
    let is_between = |letter: char| "{}[],: \t\r\n".contains(letter);
    for part in text.split_inclusive(is_between) {
        let value = part.trim_end_matches(is_between);
        if is_no_number(value) {
            out.push_str("null");
            out.push_str(part.get(value.len()..).unwrap_or_default());
        } else {
            out.push_str(part);
        }
    }
}

fn is_no_number(value: &str) -> bool {
    let name = value.trim_start_matches(['-', '+']);
    let is_named = NO_NUMBERS
        .iter()
        .any(|no_number| name.eq_ignore_ascii_case(no_number));
    is_named || value.parse::<f64>().is_ok_and(|number| !number.is_finite())
}

/// The rest of a string, and its closing quote; what follows it.
fn inside<'a>(text: &'a str, out: &mut String) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter == '"' || letter == '\\' || letter < ' ') {
        let (plain, special) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(plain);
        let mut letters = special.chars();
        match letters.next() {
            Some('\\') => rest = escape(letters.as_str(), out),
            Some('"') => {
                out.push('"');
                return letters.as_str();
            }
            Some(control) => {
                write_unit(u32::from(control), out);
                rest = letters.as_str();
            }
            None => return "",
        }
    }
    out.push_str(rest);
    ""
}

/// What follows a backslash.
fn escape<'a>(text: &'a str, out: &mut String) -> &'a str {
    let Some(code) = text.strip_prefix('u') else {
        let is_known = text.starts_with(['"', '\\', '/', 'b', 'f', 'n', 'r', 't']);
        // One that is unknown was meant as a backslash.
        let Some(letter) = text.chars().next().filter(|_| is_known) else {
            out.push_str("\\\\");
            return text;
        };
        out.push('\\');
        out.push(letter);
        return text.get(letter.len_utf8()..).unwrap_or_default();
    };
    let Some((first, rest)) = unit(code) else {
        out.push_str(UNREADABLE);
        return code;
    };
    let second = rest.strip_prefix("\\u").and_then(unit);
    match (first, second) {
        (0xD800..=0xDBFF, Some((second @ 0xDC00..=0xDFFF, rest))) => {
            write_unit(first, out);
            write_unit(second, out);
            rest
        }
        (0xD800..=0xDFFF, _) => {
            out.push_str(UNREADABLE);
            rest
        }
        _ => {
            write_unit(first, out);
            rest
        }
    }
}

/// A UTF-16 unit as JSON escapes it.
fn write_unit(unit: u32, out: &mut String) {
    // Writing to memory cannot fail.
    write!(out, "\\u{unit:04x}").unwrap_or_default();
}

/// Four hexadecimal digits, and what follows them.
fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16)
        .ok()
        .filter(|_| all)
        .map(|unit| (unit, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_nearly_json_is_mended() {
        let cases: [(&[u8], &str); 9] = [
            (
                b"{\"a\":NaN,\"b\":[-Infinity, 1]}",
                r#"{"a":null,"b":[null, 1]}"#,
            ),
            (b"{\"a\":1e999}", r#"{"a":null}"#),
            (b"{\"a\":\"half \xe2\x82\"}", "{\"a\":\"half \u{fffd}\"}"),
            (br#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#),
            (
                br#"{"a":"\ude00\ud83d\ude00"}"#,
                r#"{"a":"\ufffd\ud83d\ude00"}"#,
            ),
            (br#"{"a":"\u12"}"#, r#"{"a":"\ufffd12"}"#),
            (b"{\"a\":\"b\tc\"}", r#"{"a":"b\u0009c"}"#),
            (br#"{"a":"\'"}"#, r#"{"a":"\\'"}"#),
            (b"\xef\xbb\xbf{\"a\":\"NaN\"}", r#"{"a":"NaN"}"#),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(json(bytes), wanted);
            assert!(serde_json::from_str::<Value>(wanted).is_ok(), "{wanted}");
        }
        for bytes in [
            b"{'a': 1}".as_slice(),
            b"nonsense",
            b"{\"a\":1",
            b"{\"a\":1} x",
        ] {
            assert!(serde_json::from_str::<Value>(&json(bytes)).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_json_means_the_same_mended(text in "\\PC{0,20}", number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let value = serde_json::json!({"t": text, "n": [number, null, true], &text: {}});
            let mended = json(value.to_string().as_bytes());
            prop_assert_eq!(serde_json::from_str::<Value>(&mended).unwrap(), value);
        }

        #[test]
        fn any_bytes_are_mended_without_a_stumble(bytes in prop::collection::vec(prop_oneof![
            Just(b'"'), Just(b'\\'), Just(b'u'), Just(b'd'), Just(b'8'), Just(b'{'), any::<u8>()], 0..60)) {
            let once = json(&bytes);
            prop_assert_eq!(json(once.as_bytes()), once);
        }
    }
}
