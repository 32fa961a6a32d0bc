//! Makes text that strangers chose safe for lines that people read.
//!
//! Characters that control a terminal, break a line or change the reading direction are written as `\u009b`, which is
//! also right in a JSON string.

use std::borrow::Cow;
use std::fmt::Write;

/// Letters that are seen as nothing and change how what is around them is seen (general categories Cc, Cf, Zl and Zp).
fn is_hidden(letter: char) -> bool {
    // Format characters beside the controls, in their order in Unicode 17.
    const FORMAT: [(char, char); 20] = [
        ('\u{ad}', '\u{ad}'),
        ('\u{600}', '\u{605}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{6dd}', '\u{6dd}'),
        ('\u{70f}', '\u{70f}'),
        ('\u{890}', '\u{891}'),
        ('\u{8e2}', '\u{8e2}'),
        ('\u{180e}', '\u{180e}'),
        ('\u{200b}', '\u{200f}'),
        ('\u{2028}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{fff0}', '\u{fffb}'),
        ('\u{110bd}', '\u{110bd}'),
        ('\u{110cd}', '\u{110cd}'),
        ('\u{13430}', '\u{1343f}'),
        ('\u{1bca0}', '\u{1bca3}'),
        ('\u{1d173}', '\u{1d17a}'),
        ('\u{e0000}', '\u{e007f}'),
        ('\u{e0100}', '\u{e01ef}'),
    ];
    letter.is_control()
        || FORMAT
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&letter))
}

/// The text with every hidden letter escaped.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, |_| false)
}

/// The same for many lines, with the colours that we put in ourselves.
#[must_use]
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    visible_but(text, |letter| {
        matches!(letter, '\n' | '\r' | '\t' | '\u{1b}')
    })
}

/// The same for text in which some are right.
pub(crate) fn visible_but(text: &str, is_right: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_odd =
        |letter: char| !matches!(letter, ' '..='~') && is_hidden(letter) && !is_right(letter);
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().saturating_add(16));
    for letter in text.chars() {
        if is_odd(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                write!(shown, "\\u{unit:04x}").unwrap_or_default();
            }
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_text_around_is_written_out() {
        let odd =
            "a\u{1b}[2J\u{9b}31m\u{85}\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}\u{7f}\u{e0041}z";
        let shown =
            "a\\u001b[2J\\u009b31m\\u0085\\u2028\\u202e\\u2066\\u200b\\ufeff\\u007f\\udb40\\udc41z";
        assert_eq!(visible(odd), shown);
        let read: String = serde_json::from_str(&format!("\"{shown}\"")).unwrap();
        assert_eq!(read, odd, "in JSON it is the same text");
        for plain in ["", "plain", "żółć, 日本語, हिन्दी, 🙂, e\u{301}", "\u{a0}"]
        {
            assert!(matches!(visible(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn lines_and_our_own_colours_stay() {
        assert_eq!(
            visible_lines("\u{1b}[1mhead\u{1b}[0m\n\u{9b}x\n"),
            "\u{1b}[1mhead\u{1b}[0m\n\\u009bx\n"
        );
    }

    /// Every letter that Rust's own table of Unicode calls unprintable, and that is assigned at all, is hidden or a space.
    #[test]
    fn no_control_or_format_letter_is_missing() {
        let escaped = |letter: char| {
            letter.escape_debug().count() > 1 && !matches!(letter, '"' | '\'' | '\\')
        };
        for letter in ('\0'..='\u{ffff}').filter(|letter| letter.is_control()) {
            assert!(is_hidden(letter) && escaped(letter), "{letter:?}");
        }
        for letter in "\u{ad}\u{61c}\u{180e}\u{200e}\u{200f}\u{202a}\u{2069}\u{206f}\u{fffb}\u{e0001}\u{1d173}".chars()
        {
            assert!(is_hidden(letter) && escaped(letter), "{letter:?}");
        }
    }
}
