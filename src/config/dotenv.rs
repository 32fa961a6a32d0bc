//! Reads `.env`: `NAME=value` a line.
//!
//! The file may belong to several programs, so a line that cannot be read is kept as such, with its number: it stops
//! only who asks for that name. A `$` is a `$`, as in Docker's and systemd's files of variables: a secret may hold one.
//! It knows nothing of what the names mean, and what is wrong with a line never repeats it: it may be a secret.

/// A line that names a variable.
#[derive(Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) name: String,
    /// Its line in the file; the first is 1.
    pub(super) line: usize,
    /// The value, or why it cannot be read.
    pub(super) value: Result<String, &'static str>,
}

const NO_EQUALS: &str = "has no = after its name";
const WHITE_SPACE: &str = "has white space within a value that has no quotes";
const UNCLOSED: &str = "has a quote that nothing closes";
const TRAILING: &str = "has something behind the closing quote";
const NOT_UTF8: &str = "is not UTF-8 text";

/// Every line that names a variable, in order.
///
/// # Errors
/// The file is written in an encoding in which no line could be read: its name.
pub(super) fn read(
    bytes: &[u8],
    is_ours: impl Fn(&str) -> bool,
) -> Result<Vec<Assignment>, &'static str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") || bytes.contains(&0) {
        return Err("UTF-16");
    }
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let mut entries = Vec::new();
    let mut at = 0_usize;
    while let Some((line, below)) = lines.get(at..).and_then(<[_]>::split_first) {
        at = at.saturating_add(1);
        let Some((name, rest)) = named(line) else {
            continue;
        };
        let (value, more) = match rest {
            None => (Err(NO_EQUALS), 0),
            Some(rest) => value(rest, below, &is_ours),
        };
        entries.push(Assignment {
            name,
            line: at,
            value,
        });
        at = at.saturating_add(more);
    }
    Ok(entries)
}

/// The name at the start of a line, and what follows its `=`. `None` if the line sets no variable.
fn named(line: &[u8]) -> Option<(String, Option<&[u8]>)> {
    let line = line.trim_ascii_start();
    let line = match line.strip_prefix(b"export") {
        Some(rest) if rest.first().is_some_and(u8::is_ascii_whitespace) => rest.trim_ascii_start(),
        _ => line,
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let end = line
        .iter()
        .position(|byte| !is_name(byte))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    let name = String::from_utf8(name.to_vec())
        .ok()
        .filter(|name| !name.is_empty())?;
    Some((name, rest.trim_ascii_start().strip_prefix(b"=")))
}

/// The value behind a `=`, and how many of the lines below belong to it.
fn value(
    rest: &[u8],
    below: &[&[u8]],
    is_ours: impl Fn(&str) -> bool,
) -> (Result<String, &'static str>, usize) {
    let Ok(text) = std::str::from_utf8(rest) else {
        return (Err(NOT_UTF8), 0);
    };
    let text = text.trim();
    match text.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let within = text.get(1..).unwrap_or_default();
            match quoted(within, quote) {
                QuoteEnd::At { value, rest } => (behind(rest).map(|()| value), 0),
                QuoteEnd::Nowhere => several(within, quote, below, is_ours),
            }
        }
        _ => (plain(text), 0),
    }
}

/// An unquoted value: to the end of the line, or to a comment after white space.
fn plain(text: &str) -> Result<String, &'static str> {
    let comment = text.char_indices().find(|(at, letter)| {
        let before = text.get(..*at).unwrap_or_default();
        *letter == '#' && (before.is_empty() || before.ends_with(char::is_whitespace))
    });
    let text = comment
        .map_or(text, |(at, _)| text.get(..at).unwrap_or_default())
        .trim_end();
    if text.contains(char::is_whitespace) {
        Err(WHITE_SPACE)
    } else {
        Ok(text.to_owned())
    }
}

/// Where a quoted value ends.
enum QuoteEnd<'a> {
    At { value: String, rest: &'a str },
    Nowhere,
}

/// Up to the closing quote. Between "double quotes" a backslash stands before a quote, a backslash, a `$`, `n`, `r` or `t`.
fn quoted(text: &str, quote: char) -> QuoteEnd<'_> {
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == quote {
            return QuoteEnd::At {
                value,
                rest: letters.as_str(),
            };
        }
        if letter != '\\' || quote == '\'' {
            value.push(letter);
            continue;
        }
        match letters.next() {
            Some(escaped @ ('"' | '\\' | '$')) => value.push(escaped),
            Some('n') => value.push('\n'),
            Some('r') => value.push('\r'),
            Some('t') => value.push('\t'),
            Some(other) => value.extend(['\\', other]),
            None => return QuoteEnd::Nowhere,
        }
    }
    QuoteEnd::Nowhere
}

fn behind(rest: &str) -> Result<(), &'static str> {
    let is_comment = rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with('#');
    if rest.trim().is_empty() || is_comment {
        Ok(())
    } else {
        Err(TRAILING)
    }
}

/// A quoted value over several lines, such as another program's certificate. A missing quote must not take the lines
/// below with it: it ends in nothing else, and holds no line of ours.
fn several(
    first: &str,
    quote: char,
    below: &[&[u8]],
    is_ours: impl Fn(&str) -> bool,
) -> (Result<String, &'static str>, usize) {
    let mut text = first.to_owned();
    for (line, number) in below.iter().zip(1_usize..) {
        let Ok(line_text) = std::str::from_utf8(line) else {
            break;
        };
        if named(line).is_some_and(|(name, value)| value.is_some() && is_ours(&name)) {
            break;
        }
        text.push('\n');
        text.push_str(line_text.trim_end_matches('\r'));
        if let QuoteEnd::At { value, rest } = quoted(&text, quote) {
            return if behind(rest).is_ok() {
                (Ok(value), number)
            } else {
                (Err(UNCLOSED), 0)
            };
        }
    }
    (Err(UNCLOSED), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: impl AsRef<[u8]>) -> Vec<Assignment> {
        read(text.as_ref(), |name| name.starts_with("OURS")).unwrap()
    }

    fn value_of(line: &str) -> Result<String, &'static str> {
        let mut all = entries(line);
        assert_eq!(all.len(), 1, "{line}: {all:?}");
        all.remove(0).value
    }

    #[test]
    fn a_value_is_what_stands_there() {
        for (line, value) in [
            ("A=Zf3k$mQp1R$Tw5", "Zf3k$mQp1R$Tw5"),
            ("A=${HOME}\\n", "${HOME}\\n"),
            ("A=", ""),
            ("A =  b  ", "b"),
            ("  export A=b\r", "b"),
            ("export\tA=b # not this", "b"),
            ("A=b#c", "b#c"),
            ("A=#c", ""),
            ("A=b=c==", "b=c=="),
            ("A=don't", "don't"),
            ("A='b c # d' # e", "b c # d"),
            ("A='b\\n$c\"'", "b\\n$c\""),
            (r#"A="b\n\"\\\$c\d'""#, "b\n\"\\$c\\d'"),
            ("A='b\nc'", "b\nc"),
            ("A=\"b\r\nc\"\r", "b\nc"),
            ("\u{FEFF}A=b", "b"),
            ("A=größe", "größe"),
        ] {
            assert_eq!(value_of(line).as_deref(), Ok(value), "{line}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_kept_with_its_number_and_takes_no_other_with_it() {
        let text = "# first\nAPP_NAME=My App\nif [ -f x ]; then\nMSG='tis\nOURS_A=1\nX='a'b\nY \nOURS_B='c'\nZ=\"\n-\n";
        let told: Vec<_> = entries(text)
            .into_iter()
            .map(|entry| (entry.name, entry.line, entry.value))
            .collect();
        let expected = [
            ("APP_NAME", 2, Err(WHITE_SPACE)),
            ("if", 3, Err(NO_EQUALS)),
            ("MSG", 4, Err(UNCLOSED)),
            ("OURS_A", 5, Ok("1")),
            ("X", 6, Err(TRAILING)),
            ("Y", 7, Err(NO_EQUALS)),
            ("OURS_B", 8, Ok("c")),
            ("Z", 9, Err(UNCLOSED)),
            ("-", 10, Err(NO_EQUALS)),
        ];
        let expected =
            expected.map(|(name, line, value)| (name.to_owned(), line, value.map(str::to_owned)));
        assert_eq!(told, expected);
        let latin = b"A=caf\xE9\nOURS=b\n";
        let told: Vec<_> = entries(latin)
            .into_iter()
            .map(|entry| entry.value)
            .collect();
        assert_eq!(told, [Err(NOT_UTF8), Ok("b".to_owned())]);
    }

    #[test]
    fn a_certificate_over_several_lines_is_one_value() {
        let text = "KEY=\"-----BEGIN KEY-----\nMIIB=\nabc==\n-----END KEY-----\"\nOURS=b";
        let names: Vec<_> = entries(text)
            .into_iter()
            .map(|entry| (entry.name, entry.line, entry.value.is_ok()))
            .collect();
        assert_eq!(
            names,
            [("KEY".to_owned(), 1, true), ("OURS".to_owned(), 5, true)]
        );
    }

    #[test]
    fn another_encoding_is_named() {
        let utf16 = |text: &str| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        assert_eq!(read(&utf16("\u{FEFF}A=b\n"), |_| true), Err("UTF-16"));
        assert_eq!(read(&utf16("A=b\n"), |_| true), Err("UTF-16"));
        let big: Vec<u8> = "\u{FEFF}A=b"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(read(&big, |_| true), Err("UTF-16"));
    }
}
