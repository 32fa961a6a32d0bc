//! How much longer a JSON text becomes when a renderer prints it again.
//!
//! A schema, and the arguments of a call, reach a model as the provider's renderer prints them, not as they were sent:
//! Python, JavaScript and Rust write `1e15` in different ways, templates indent by four blanks a level and escape what
//! HTML would take for markup, OpenAI shows a schema as a TypeScript type. [`Shape`] holds what of a text makes it grow.
//! Any text can be read; one that is no JSON is only weighed too high.

use memchr::memchr2;
use unicode_normalization::UnicodeNormalization as _;

/// The longest that a number of 64 bits becomes, such as `-0.00000012345678901234567`, where its exponent is not written
/// out in zeros.
const NUMBER: u64 = 28;
/// The largest exponent that is written out in zeros.
const EXPONENT_MAX: u64 = 400;
/// The tokens of any number of 64 bits, for OpenAI's own vocabularies (up to three digits a token) and its renderer.
const NUMBER_KNOWN: u64 = 12;
/// For each structural mark of a schema, beyond its own bytes. OpenAI shows a schema as a TypeScript type:
/// `{"city":{"type":"string","description":"…"}}` becomes `// …⏎city?: string,⏎`. Every member and item keeps its words;
/// what is added (a comment mark, a question mark, a `|`, a line break, indentation) comes once for each brace, bracket,
/// comma or colon, or for each line of a description, where the JSON has a backslash. References are assumed to be shown as
/// such and not to be expanded.
const MARK: u64 = 3;
/// A line's indentation is one token more for each so many levels: vocabularies know long runs of blanks.
const LEVELS_A_TOKEN: u64 = 4;
/// The levels around a schema where a template prints the whole tool.
const OUTER_LEVELS: u64 = 3;

/// What of a JSON text makes it grow when it is printed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tokens that OpenAI's renderer may add.
    pub(crate) known: u64,
    /// Lines and blanks between the marks, but for the indentation.
    pub(crate) gaps: u64,
    /// The levels of indentation of all lines.
    pub(crate) levels: u64,
    /// Bytes that numbers and escapes may become beyond their own.
    pub(crate) longer: u64,
}

impl Shape {
    /// Reads a text. `description` is told each value of a member of that name, as it stands.
    pub(crate) fn of<'a>(text: &'a str, description: &mut dyn FnMut(&'a str)) -> Self {
        let mut shape = Self::default();
        let (mut rest, mut depth, mut name) = (text, 0_u64, "");
        while let Some(first) = rest.bytes().next() {
            let length = match first {
                b'"' => {
                    let (string, length) = split_string(rest);
                    shape.string(string);
                    let after = rest.get(length..).unwrap_or_default();
                    if name == "description" {
                        description(string);
                    }
                    name = if after.starts_with(':') { string } else { "" };
                    length
                }
                b'-' | b'0'..=b'9' => shape.number(rest),
                b'{' | b'[' => {
                    depth = depth.saturating_add(1);
                    shape.line(depth)
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    shape.line(depth)
                }
                b',' => shape.line(depth),
                _ => {
                    shape.gaps = shape.gaps.saturating_add(u64::from(first == b':'));
                    shape.known = shape
                        .known
                        .saturating_add(if first == b':' { MARK } else { 0 });
                    rest.chars().next().map_or(1, char::len_utf8)
                }
            };
            if !matches!(first, b'"' | b':') {
                name = "";
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        shape
    }

    /// A mark after which a line may begin. Its length is one.
    fn line(&mut self, depth: u64) -> usize {
        self.known = self
            .known
            .saturating_add(MARK)
            .saturating_add(depth / LEVELS_A_TOKEN);
        // A line break, and a blank where there is none.
        self.gaps = self.gaps.saturating_add(2);
        self.levels = self
            .levels
            .saturating_add(depth)
            .saturating_add(OUTER_LEVELS);
        1
    }

    fn string(&mut self, string: &str) {
        let backslashes = count(string.bytes().filter(|byte| *byte == b'\\').count());
        self.known = self.known.saturating_add(backslashes.saturating_mul(MARK));
        self.longer = self
            .longer
            .saturating_add(escapes(string))
            .saturating_add(2);
        if backslashes > 0 {
            self.longer = self.longer.saturating_add(decoded(string));
        }
    }

    /// The number at the beginning of a text; its length.
    fn number(&mut self, text: &str) -> usize {
        let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = text.bytes().take_while(part).count();
        let number = text.get(..length).unwrap_or_default();
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, ""));
        let bytes = count(length);
        let longest = if exponent.is_empty() && !mantissa.contains('.') {
            // `.0` may be added.
            bytes.saturating_add(2)
        } else {
            self.known = self.known.saturating_add(NUMBER_KNOWN);
            let exponent = exponent
                .trim_start_matches(['+', '-'])
                .parse()
                .unwrap_or(if exponent.is_empty() { 0 } else { EXPONENT_MAX });
            bytes
                .saturating_add(2)
                .saturating_add(exponent.min(EXPONENT_MAX))
                .max(NUMBER)
        };
        self.longer = self.longer.saturating_add(longest.saturating_sub(bytes));
        length
    }
}

/// [`escapes`] of each ASCII character: one for what has an escape of two characters, six for what becomes `\\u00AB`.
const ASCII_ESCAPES: [u8; 128] = [
    6, 6, 6, 6, 6, 6, 6, 6, 6, 1, 1, 6, 6, 1, 6, 6, // `\t`, `\n`, `\r` among the controls
    6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, //
    0, 0, 1, 0, 0, 0, 6, 6, 0, 0, 0, 0, 0, 0, 0, 0, // `"`, `&`, `'`
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 6, 0, // `<`, `>`
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, // `\`
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, // DEL
];

/// Bytes that a text may become beyond its own where it is printed within JSON, safe for HTML and in ASCII.
pub(crate) fn escapes(text: &str) -> u64 {
    let of_ascii = |byte: u8| ASCII_ESCAPES.get(usize::from(byte)).copied();
    // Every word of every tool comes here, and nearly all are ASCII: a table takes a quarter of what a match takes.
    if text.is_ascii() {
        let each = text.bytes().map(|byte| of_ascii(byte & 0x7F).unwrap_or(0));
        return each.map(u64::from).sum();
    }
    // `\uABCD`, with the backslash doubled, and beyond U+FFFF two of them.
    let beyond = |character: char| match u8::try_from(character).ok().and_then(of_ascii) {
        Some(known) => u64::from(known),
        None if character <= '\u{FFFF}' => 6,
        None => 12,
    };
    text.chars().map(beyond).fold(0, u64::saturating_add)
}

/// Bytes that the characters written as `\uABCD` may become beyond those six, in any form of Unicode.
fn decoded(text: &str) -> u64 {
    let units = text
        .split("\\u")
        .skip(1)
        .filter_map(|after| u16::from_str_radix(after.get(..4)?, 16).ok());
    let longest = |character: char| count(character.nfkd().map(char::len_utf8).sum::<usize>());
    let grown = char::decode_utf16(units).map(|unit| unit.map_or(0, longest).saturating_sub(6));
    grown.fold(0, u64::saturating_add)
}

/// What is between the quotes of the string at the beginning of a text, and the length of the whole.
pub(crate) fn split_string(text: &str) -> (&str, usize) {
    let mut at = 1_usize;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        match memchr2(b'"', b'\\', rest.as_bytes()) {
            Some(offset) if rest.as_bytes().get(offset) == Some(&b'"') => {
                let end = at.saturating_add(offset);
                return (text.get(1..end).unwrap_or_default(), end.saturating_add(1));
            }
            Some(offset) => {
                let escape = at.saturating_add(offset).saturating_add(1);
                let escaped = text
                    .get(escape..)
                    .and_then(|rest| rest.chars().next())
                    .map_or(0, char::len_utf8);
                at = escape.saturating_add(escaped);
            }
            None => return (text.get(1..).unwrap_or_default(), text.len()),
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> (Shape, Vec<&str>) {
        let mut descriptions = Vec::new();
        let shape = Shape::of(text, &mut |text| descriptions.push(text));
        (shape, descriptions)
    }

    /// Each with the longest that some renderer makes of it.
    #[test]
    fn numbers_are_as_long_as_they_are_printed() {
        let forms = [
            ("1e15", "1000000000000000.0"),
            ("1E+20", "100000000000000000000.0"),
            ("0.1", "0.10000000000000001"),
            ("5e-7", "-0.00000050000000000000004"),
            ("12", "12.0"),
            ("-0", "-0.0"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890.0",
            ),
        ];
        for (number, printed) in forms {
            let bytes = u64::try_from(number.len()).unwrap();
            assert!(
                shape(number).0.longer.saturating_add(bytes)
                    >= u64::try_from(printed.len()).unwrap(),
                "{number}"
            );
        }
        assert!(shape("1e300").0.longer >= 300 && shape("1e-300").0.longer >= 300);
        assert!(
            shape("1e99999999999999999999").0.longer >= 400,
            "out of range elsewhere"
        );
    }

    #[test]
    fn descriptions_are_found_in_members_alone() {
        let text = r#"{"description":{"description":"a \" b","title":"description","x":["description","no"]},"y":{"description":"c"}}"#;
        assert_eq!(shape(text).1, [r#"a \" b"#, "c"]);
    }

    #[test]
    fn every_line_has_its_indentation() {
        let (flat, _) = shape("[1,2]");
        assert_eq!((flat.levels, flat.gaps), (3 * OUTER_LEVELS + 2, 6));
        let (deep, _) = shape(&["[".repeat(50), "]".repeat(50)].concat());
        assert_eq!(deep.levels, 50 * 50 + 100 * OUTER_LEVELS);
    }

    #[test]
    fn escapes_are_as_long_as_they_are_printed_or_normalised() {
        // Thirty-three bytes in NFKC.
        assert!(shape("\"\\ufdfa\"").0.longer >= 33 - 6);
        assert_eq!(escapes("\"\\\n\r\t"), 5);
        assert_eq!(escapes("<>&'\0\u{1f}\u{7f}"), 7 * 6);
        let plain = (' '..='~').filter(|character| !"\"\\<>&'".contains(*character));
        assert_eq!(escapes(&plain.collect::<String>()), 0);
        assert_eq!(escapes("<é𝄞"), 6 + 6 + 12);
    }

    #[test]
    fn what_is_no_json_is_read_too() {
        for text in [
            "",
            "\"",
            "\"\\",
            "}}]",
            "é\"é\\é",
            "{\"a",
            "1e",
            "--..",
            "\"\\u12",
            "\"\\ud834",
        ] {
            let _read = shape(text);
        }
    }
}
