//! What a moderation model says of something: whether it flags it, and for what. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// How many categories are told, and how long the name of one may be. (OpenAI has 13.)
const CATEGORIES_MAX: usize = 64;
const CATEGORY_BYTES_MAX: usize = 64;

/// What is said of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModerationVerdict {
    /// Nothing is wrong with it.
    Passed,
    /// It is flagged, for these categories.
    Flagged(BTreeSet<String>),
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Findings>,
}

#[derive(Deserialize)]
struct Findings {
    flagged: Option<bool>,
    categories: Option<BTreeMap<String, Option<bool>>>,
}

impl ModerationVerdict {
    /// Reads an answer of `/moderations`. None where it says nothing of the input.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let verdicts = answer.results.into_iter().map(Findings::verdict);
        verdicts
            .reduce(|one, other| Some(one?.and(other?)))
            .flatten()
    }

    /// What is said of two inputs together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Passed, verdict) | (verdict, Self::Passed) => verdict,
            (Self::Flagged(one), Self::Flagged(other)) => {
                Self::Flagged(one.into_iter().chain(other).take(CATEGORIES_MAX).collect())
            }
        }
    }
}

impl Findings {
    /// Some servers have the categories and no `flagged`.
    fn verdict(self) -> Option<ModerationVerdict> {
        if self.flagged.is_none() && self.categories.is_none() {
            return None;
        }
        let categories = self.categories.unwrap_or_default().into_iter();
        let found: Vec<String> = categories
            .filter_map(|(name, is)| (is == Some(true)).then_some(name))
            .collect();
        if self.flagged != Some(true) && found.is_empty() {
            return Some(ModerationVerdict::Passed);
        }
        let told = found.into_iter().filter(|name| is_category(name));
        Some(ModerationVerdict::Flagged(
            told.take(CATEGORIES_MAX).collect(),
        ))
    }
}

/// A word that may be told to a caller.
fn is_category(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_- ".contains(&byte);
    (1..=CATEGORY_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flagged(names: &[&str]) -> ModerationVerdict {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ModerationVerdict::Flagged(names)
    }

    #[test]
    fn an_answer_passes_flags_or_says_nothing() {
        let clean = r#"{"flagged":false,"categories":{"hate":false,"illicit":null}}"#;
        let hate = r#"{"flagged":true,"categories":{"hate":true,"violence":false}}"#;
        let cases = [
            (
                format!(r#"{{"results":[{clean}]}}"#),
                Some(ModerationVerdict::Passed),
            ),
            (
                format!(r#"{{"results":[{clean},{hate}]}}"#),
                Some(flagged(&["hate"])),
            ),
            (
                format!(r#"{{"results":[{hate},{{"categories":{{"self-harm/intent":true}}}}]}}"#),
                Some(flagged(&["hate", "self-harm/intent"])),
            ),
            (
                r#"{"results":[{"flagged":true}]}"#.to_owned(),
                Some(flagged(&[])),
            ),
            // Named, and not said to be flagged: the stricter reading.
            (
                r#"{"results":[{"flagged":false,"categories":{"violence":true}}]}"#.to_owned(),
                Some(flagged(&["violence"])),
            ),
            (
                r#"{"results":[{"flagged":true,"categories":{"<b>\n":true}}]}"#.to_owned(),
                Some(flagged(&[])),
            ),
        ];
        for (body, verdict) in cases {
            assert_eq!(ModerationVerdict::read(body.as_bytes()), verdict, "{body}");
        }
        for nothing in [
            "",
            "{}",
            "null",
            r#"{"results":[]}"#,
            r#"{"results":[{}]}"#,
            r#"{"results":[{"flagged":"no"}]}"#,
            r#"{"results":[{"flagged":false},{}]}"#,
            r#"{"error":{"message":"no"}}"#,
        ] {
            assert_eq!(
                ModerationVerdict::read(nothing.as_bytes()),
                None,
                "{nothing}"
            );
        }
    }
}
