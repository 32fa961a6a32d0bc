//! A bound for text whose vocabulary is not known: at least as many tokens as any vocabulary in use makes of it.
//!
//! By bytes, that is certain for every vocabulary that falls back to bytes. But a bound by bytes refuses an ordinary
//! conversation of 8,000 tokens where 32,000 are allowed. So a text is also cut by OpenAI's cl100k vocabulary, which finds
//! what is common in a text, and each piece gets the most tokens that any of the vocabularies looked at makes of it (Qwen
//! 3, Llama 2 and 3.1, Gemma 3, Gemini, `DeepSeek` V3, Mistral `NeMo`, Claude 2, gpt-oss; the corpus of `scripts/bound-check.sh`
//! compares them anew). They were trained on the same web: a piece of a word that one knows, the others know in pieces of
//! three letters. What is rare is rare in all of them, and counts as bytes.

use std::collections::HashSet;
use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;
use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick, is_nfkc_quick};

/// How many pieces cl100k has.
const PIECES: u32 = 100_256;
/// Characters beyond ASCII that each of the vocabularies knows as one token.
const COMMON: &str = include_str!("common.txt");
/// Pieces of which some vocabulary makes more than by the rule.
const HARD: [&str; 14] = [
    "bohydr",
    ".bunifu",
    ".dgv",
    "jumlah",
    ".Bunifu",
    "ynthia",
    "uvwxyz",
    "qrstuvwxyz",
    "abcdefghijklmnopqrstuvwxyz",
    "rbrakk",
    "lbrakk",
    "Ubuntu",
    "Tumblr",
    ".lwjgl",
];

static COMMON_CHARACTERS: LazyLock<HashSet<char>> =
    LazyLock::new(|| COMMON.trim_end().chars().collect());

/// What each piece of cl100k counts as, by its number.
static COSTS: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let bytes = |rank| vocabulary().decode_bytes(&[rank]).unwrap_or_default();
    (0..PIECES).map(|rank| cost(&bytes(rank))).collect()
});

fn vocabulary() -> &'static CoreBPE {
    tiktoken_rs::cl100k_base_singleton()
}

/// A bound for a text that is not too long for a tokenizer.
pub(super) fn count_block(block: &str) -> u64 {
    let pieces = vocabulary().encode_ordinary(block);
    let costs = pieces.into_iter().map(|rank| {
        usize::try_from(rank)
            .ok()
            .and_then(|rank| COSTS.get(rank).copied())
    });
    costs
        .map(|cost| cost.unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add)
}

/// The most of something that is measured, over the forms in which a tokenizer may read a text: as it is, in NFC (Qwen),
/// in NFKC (Claude, and those of `SentencePiece`).
pub(super) fn most_of_all_forms(text: &str, measure: impl Fn(&str) -> u64) -> u64 {
    let most = measure(text);
    if text.is_ascii() {
        return most;
    }
    let composed = (is_nfc_quick(text.chars()) != IsNormalized::Yes)
        .then(|| measure(&text.nfc().collect::<String>()));
    let folded = (is_nfkc_quick(text.chars()) != IsNormalized::Yes)
        .then(|| measure(&text.nfkc().collect::<String>()));
    most.max(composed.unwrap_or(0)).max(folded.unwrap_or(0))
}

/// What a piece counts as: a word, or a part of one, a token for each three letters and one more; any other character of
/// ASCII and any common one a token; the rest their bytes.
fn cost(piece: &[u8]) -> u64 {
    let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
    let Ok(text) = std::str::from_utf8(piece) else {
        return bytes;
    };
    if HARD.contains(&text) {
        return bytes;
    }
    let (mut total, mut rest) = (0_u64, text);
    while let Some(first) = rest.chars().next() {
        let word = word_bytes(rest);
        let (length, tokens) = match word {
            0 if first.is_ascii() || COMMON_CHARACTERS.contains(&first) => (first.len_utf8(), 1),
            0 => (first.len_utf8(), first.len_utf8()),
            _ => (word, word.div_ceil(3).saturating_add(1).min(word)),
        };
        total = total.saturating_add(u64::try_from(tokens).unwrap_or(u64::MAX));
        rest = rest.get(length..).unwrap_or_default();
    }
    total
}

/// The length of the word that a text begins with: perhaps a blank, perhaps a capital, then small letters. 0 where there
/// is none.
fn word_bytes(text: &str) -> usize {
    let mut bytes = text.bytes().peekable();
    let blank = usize::from(bytes.next_if_eq(&b' ').is_some());
    let capital = usize::from(bytes.next_if(u8::is_ascii_uppercase).is_some());
    let small = bytes.take_while(u8::is_ascii_lowercase).count();
    if small == 0 {
        0
    } else {
        blank.saturating_add(capital).saturating_add(small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_count_by_their_letters() {
        let costs = [
            (" the", 3),
            (" people", 4),
            ("a", 1),
            (" I", 2),
            ("HTTP", 4),
            (" UITapGestureRecognizer", 14),
            ("123", 3),
            ("\n\n\n", 3),
            ("        ", 8),
            ("のは", 2),
            ("ざ", 3),
            ("é", 1),
            ("½", 2),
            ("qrstuvwxyz", 10),
            ("----", 4),
        ];
        for (piece, tokens) in costs {
            assert_eq!(cost(piece.as_bytes()), tokens, "{piece:?}");
        }
        assert_eq!(cost(b"\xE3\x81"), 2);
        assert_eq!(COSTS.len(), 100_256);
        assert!(COSTS.iter().all(|cost| *cost > 0), "each piece is known");
    }

    #[test]
    fn all_forms_are_measured() {
        let bytes = |text: &str| most_of_all_forms(text, |text| u64::try_from(text.len()).unwrap());
        // One character that NFC takes apart, and one that NFKC writes out in eighteen.
        assert_eq!(bytes("\u{1D160}"), 12);
        assert_eq!(bytes("\u{FDFA}"), 33);
        assert_eq!(bytes("é"), 2);
        assert_eq!(bytes("e\u{301}"), 3);
    }

    #[test]
    fn what_is_rare_counts_as_bytes() {
        for text in ["xqzjvkwp", "𓀀𓀁", "١٢", "\u{200D}\u{200D}"] {
            assert_eq!(
                count_block(text),
                u64::try_from(text.len()).unwrap(),
                "{text}"
            );
        }
    }
}
