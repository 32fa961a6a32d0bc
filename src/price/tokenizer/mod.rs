//! Counts text with the model's tokenizer. Pure.
//!
//! A vocabulary is loaded at the first count that needs it (about 20 MB each) and kept. The time a count takes grows
//! with the bytes of the text and with nothing else in it: a text is split into blocks of bounded length first.
//! What a count never does: read special tokens (`<|endoftext|>` is text like any other), or fail.

mod unknown;

use std::cell::Cell;

use tiktoken_rs::CoreBPE;

use crate::model::Tokenizer;

/// The longest text that the tokenizer sees at once. Its splitting pattern backtracks (beyond about a million steps it
/// gives up, by panic) and its merging slows down on long unbroken runs.
const BLOCK_BYTES_MAX: usize = 4096;

/// The longest token of the vocabularies that are known, in bytes.
const TOKEN_BYTES_MAX: usize = 128;
/// The most bytes that count as one token where the vocabulary is not known.
const UNKNOWN_TOKEN_BYTES_MAX: usize = 3;

/// What is added to a count of many texts: one part in 32. Texts are counted one by one; glued to their framing, a few tokens
/// at the seams may fall otherwise. Where the tokenizer is not known, the count is that of the dearest known vocabulary. The
/// nearest that real renderers came is 0.95 of the bound (open models) and 0.998 (o200k, on text of which each byte is a
/// token, so that no more is possible): `scripts/bound-check.sh`.
const MARGIN_DIVISOR: u64 = 32;

/// Tokens added for each cut that is not at a boundary of the tokenizer's own.
const CUT_MARGIN: u64 = 16;

/// The number of tokens of a text. Where the tokenizer is not known it is taken for OpenAI's latest: a likely number and
/// no bound.
///
/// Exact wherever the text has, at least every 4096 bytes, a place that the tokenizer splits at too: after a word and
/// before a blank or a punctuation mark. A longer unbroken run (four kilobytes of one letter) is cut by force. A forced
/// cut changes the encoding only in its neighbourhood, nearly always to more tokens; as merging pairs greedily is not
/// optimal, fewer is possible by a token or two. So 16 tokens are added for each: the count errs upwards.
#[must_use]
pub fn count(tokenizer: Tokenizer, text: &str) -> u64 {
    count_up_to(tokenizer, text, u64::MAX)
}

/// The same, but it stops as soon as there are more than `most`: then what is told is some number above that.
#[must_use]
pub fn count_up_to(tokenizer: Tokenizer, text: &str, most: u64) -> u64 {
    let vocabulary = vocabulary(tokenizer);
    by_blocks(text, most, |block| {
        u64::try_from(vocabulary.encode_ordinary(block).len()).unwrap_or(u64::MAX)
    })
}

/// Adds up texts that are bounded one by one, no further than `most` tokens in all: `add_up` is given the count of a text.
/// None where there are more.
pub fn bound_of_all(
    tokenizer: Tokenizer,
    most: u64,
    add_up: impl FnOnce(&dyn Fn(&str) -> u64) -> u64,
) -> Option<u64> {
    let left = Cell::new(Some(most));
    let sum = add_up(&|text| {
        let Some(before) = left.get() else { return 0 };
        let tokens = bound_up_to(tokenizer, text, before);
        left.set(before.checked_sub(tokens));
        tokens
    });
    left.get().map(|_| sum)
}

/// The same for texts without a frame: with the margin of what is not known, where the tokenizer is not.
pub fn bound_of_bare_texts(
    tokenizer: Tokenizer,
    most: u64,
    add_up: impl FnOnce(&dyn Fn(&str) -> u64) -> u64,
) -> Option<u64> {
    let counted = bound_of_all(tokenizer, most, add_up)?;
    Some(match tokenizer {
        Tokenizer::Unknown => counted.saturating_add(margin(counted)),
        Tokenizer::O200k | Tokenizer::Cl100k => counted,
    })
}

/// At least the number of tokens of a text, close to it where the tokenizer is known. It stops like [`count_up_to`].
#[must_use]
pub fn bound_up_to(tokenizer: Tokenizer, text: &str, most: u64) -> u64 {
    match tokenizer {
        Tokenizer::Unknown => {
            unknown::most_of_all_forms(text, |form| by_blocks(form, most, unknown::count_block))
        }
        Tokenizer::O200k | Tokenizer::Cl100k => count_up_to(tokenizer, text, most),
    }
}

/// What a count of texts may be short of, where they are framed or their tokenizer is not known.
#[must_use]
pub fn margin(counted: u64) -> u64 {
    counted.div_ceil(MARGIN_DIVISOR)
}

/// [`bound_up_to`] says at least this of a text, however it reads.
#[must_use]
pub fn least(tokenizer: Tokenizer, text: &str) -> u64 {
    let longest = match tokenizer {
        Tokenizer::Unknown => UNKNOWN_TOKEN_BYTES_MAX,
        Tokenizer::O200k | Tokenizer::Cl100k => TOKEN_BYTES_MAX,
    };
    u64::try_from(text.len().div_ceil(longest)).unwrap_or(u64::MAX)
}

/// No text has more tokens than this: a token of a byte-level vocabulary stands for at least one byte. One that is not
/// known may read the text in a normal form of Unicode, which can be longer.
#[must_use]
pub fn bytes_bound(tokenizer: Tokenizer, text: &str) -> u64 {
    let bytes = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    match tokenizer {
        Tokenizer::Unknown => unknown::most_of_all_forms(text, bytes),
        Tokenizer::O200k | Tokenizer::Cl100k => bytes(text),
    }
}

/// Sums up what is counted in each block of a text, until there are more than `most`.
fn by_blocks(text: &str, most: u64, tokens: impl Fn(&str) -> u64) -> u64 {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() && total <= most {
        let (block, exact, after) = split_block(rest);
        total = total
            .saturating_add(tokens(block))
            .saturating_add(if exact { 0 } else { CUT_MARGIN });
        rest = after;
    }
    total
}

fn vocabulary(tokenizer: Tokenizer) -> &'static CoreBPE {
    match tokenizer {
        Tokenizer::O200k | Tokenizer::Unknown => tiktoken_rs::o200k_base_singleton(),
        Tokenizer::Cl100k => tiktoken_rs::cl100k_base_singleton(),
    }
}

/// The first block of a text, whether it ends where the tokenizer splits too, and the rest. The block is never empty
/// unless the text is.
fn split_block(text: &str) -> (&str, bool, &str) {
    let Some((longest, _)) = text.split_at_checked(floor_char_boundary(text)) else {
        return (text, true, "");
    };
    if longest.len() == text.len() {
        return (text, true, "");
    }
    let boundary = last_boundary(longest);
    let end = boundary.unwrap_or(longest.len());
    let (block, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    (block, boundary.is_some(), rest)
}

fn floor_char_boundary(text: &str) -> usize {
    text.floor_char_boundary(BLOCK_BYTES_MAX)
}

/// Where the text can be parted so that both sides encode as they do together.
fn last_boundary(text: &str) -> Option<usize> {
    let mut next = None;
    for (at, character) in text.char_indices().rev() {
        if let Some((after, next)) = next
            && parts(character, next)
        {
            return Some(after);
        }
        next = Some((at, character));
    }
    None
}

/// Both splitting patterns part these two characters, whatever stands around them. In either pattern no alternative
/// goes on from a character that is not blank to a space, nor from a letter or digit to a blank or a mark other than
/// the apostrophe (of `'s`); and neither looks back, so the second side starts afresh.
fn parts(character: char, next: char) -> bool {
    let after_word = is_word(character) && (next.is_ascii_whitespace() || is_mark(next));
    after_word || (next == ' ' && !character.is_whitespace())
}

/// Letters and digits in the sense of the patterns; a small set that is certain.
fn is_word(character: char) -> bool {
    let cjk = matches!(character, '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}');
    character.is_ascii_alphanumeric() || cjk
}

/// Punctuation in the sense of the patterns.
fn is_mark(character: char) -> bool {
    let cjk = matches!(
        character,
        '、' | '。' | '「' | '」' | '『' | '』' | '（' | '）' | '！' | '，' | '：' | '；' | '？'
    );
    cjk || (character.is_ascii_punctuation() && character != '\'')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [Tokenizer; 2] = [Tokenizer::O200k, Tokenizer::Cl100k];

    fn whole(tokenizer: Tokenizer, text: &str) -> u64 {
        u64::try_from(vocabulary(tokenizer).encode_ordinary(text).len()).unwrap()
    }

    #[test]
    fn known_texts_have_their_known_counts() {
        assert_eq!(count(Tokenizer::Cl100k, "tiktoken is great!"), 6);
        assert_eq!(count(Tokenizer::O200k, "tiktoken is great!"), 6);
        assert_eq!(count(Tokenizer::Unknown, ""), 0);
    }

    #[test]
    fn no_token_is_longer_than_the_longest() {
        for tokenizer in KNOWN {
            let bytes = |token: u32| {
                vocabulary(tokenizer)
                    .decode_bytes(&[token])
                    .map_or(0, |bytes| bytes.len())
            };
            let longest = (0..200_100).map(bytes).max().unwrap();
            assert!(
                longest <= TOKEN_BYTES_MAX && longest > TOKEN_BYTES_MAX / 2,
                "{longest}"
            );
        }
        for text in [
            "The quick brown fox. ",
            "qqqqqqqq",
            "日本語のテキスト",
            "        ",
            "é",
            "internationalization",
        ] {
            let text = text.repeat(500);
            assert!(
                bound_up_to(Tokenizer::Unknown, &text, u64::MAX)
                    >= least(Tokenizer::Unknown, &text),
                "{text:.20}"
            );
        }
    }

    #[test]
    fn a_count_stops_soon_after_its_limit() {
        let text = "word ".repeat(200_000);
        for tokenizer in [Tokenizer::O200k, Tokenizer::Cl100k, Tokenizer::Unknown] {
            let stopped = bound_up_to(tokenizer, &text, 5_000);
            assert!(stopped > 5_000 && stopped < 10_000, "{stopped}");
        }
        assert_eq!(count_up_to(Tokenizer::O200k, "word word", 5), 2);
    }

    #[test]
    fn special_tokens_are_text() {
        for tokenizer in KNOWN {
            assert!(count(tokenizer, "<|endoftext|>") > 1);
        }
    }

    #[test]
    fn texts_of_many_blocks_are_counted_exactly() {
        let texts = [
            "The quick brown fox doesn't jump; it's 12345 times too lazy. ".repeat(400),
            "{\"city\":\"Paris\",\"days\":[1,22,333],\"units\":null}".repeat(400),
            "fn main() {\n    let x = 1;\n\n\tprintln!(\"{x}\");\n}\n".repeat(400),
            "今天天气很好，我们去公园吧。日本語のテキスト、한국어 텍스트！".repeat(400),
            "a  b   c    d\n\n e \r\n\t f".repeat(800),
            "x/y//z\n/ ./..\n\n".repeat(900),
        ];
        for text in texts {
            assert!(text.len() > 3 * BLOCK_BYTES_MAX);
            for tokenizer in KNOWN {
                assert_eq!(
                    count(tokenizer, &text),
                    whole(tokenizer, &text),
                    "{text:.40}"
                );
            }
        }
    }

    #[test]
    fn an_unbroken_run_is_never_undercounted() {
        let runs = [
            "a",
            "A",
            "aA",
            " ",
            "\n",
            "\t \n",
            "é",
            "ا",
            "中",
            "👩‍👩‍👧",
            "=",
            "'",
            "ab'",
            "0",
            "\u{301}",
            "xyzzy",
            "=-",
        ];
        for run in runs {
            let text = run.repeat(20_000 / run.len());
            for tokenizer in KNOWN {
                let (counted, exact) = (count(tokenizer, &text), whole(tokenizer, &text));
                assert!(counted >= exact, "{run:?}: {counted} < {exact}");
                assert!(
                    counted <= exact + 6 * (CUT_MARGIN + 4),
                    "{run:?}: {counted} against {exact}"
                );
                assert!(exact <= bytes_bound(tokenizer, &text));
            }
        }
    }

    #[test]
    fn a_forced_cut_that_lowers_the_count_is_made_up_for() {
        // Six letters that cl100k merges worse in one run than in two halves.
        let text = "dyvrbk".repeat(701);
        assert!(text.len() > BLOCK_BYTES_MAX);
        assert!(count(Tokenizer::Cl100k, &text) >= whole(Tokenizer::Cl100k, &text));
    }

    #[test]
    fn a_megabyte_of_anything_is_counted_in_a_fraction_of_a_second() {
        for text in [
            "a",
            "A",
            " ",
            "\n",
            "é",
            "👩‍👩‍👧",
            "'",
            "<|endoftext|>",
            "The quick brown fox. ",
        ] {
            let text = text.repeat(1_000_000 / text.len());
            let _loaded = count(Tokenizer::O200k, "a");
            // Of this thread, whatever else the machine does.
            let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let before = spent();
            assert!(count(Tokenizer::O200k, &text) > 0);
            let took = (spent() - before).tv_sec;
            assert!(
                took < 2,
                "more than {took} s for a text of {:?}",
                text.chars().take(20).collect::<String>()
            );
        }
    }

    proptest! {
        #[test]
        fn splitting_into_blocks_loses_nothing(text in "(\\PC|[ \\n\\t\\r'a-zA-Z0-9,.]){0,3000}") {
            let (mut rest, mut joined) = (text.as_str(), String::new());
            while !rest.is_empty() {
                let (block, _, after) = split_block(rest);
                prop_assert!(!block.is_empty() && block.len() <= BLOCK_BYTES_MAX);
                joined.push_str(block);
                rest = after;
            }
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn a_boundary_parts_nothing_that_belongs_together(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..12)) {
            let text = pieces.concat();
            let pairs = text.char_indices().zip(text.char_indices().skip(1));
            for ((_, character), (at, next)) in pairs.filter(|((_, character), (_, next))| parts(*character, *next)) {
                let (left, right) = text.split_at(at);
                for tokenizer in KNOWN {
                    let apart = whole(tokenizer, left).saturating_add(whole(tokenizer, right));
                    prop_assert_eq!(apart, whole(tokenizer, &text), "{:?}{:?} in {:?}", character, next, &text);
                }
            }
        }
    }

    /// What the splitting patterns tell apart.
    const PIECES: &[&str] = &[
        "a", "B", "it", "WORD", "'", "'s", "'LL", "don", "'t", "1", "2345", " ", "  ", "\t", "\n",
        "\r\n", "\u{a0}", "\u{3000}", ".", "/", "//", "\"", "{\"", "!?", "中", "ひ", "カ", "한",
        "。", "「", "é", "\u{301}", "ا", "👩",
    ];
}
