//! What a report of images says: tokens of text and of images, each at a price of its own. Pure.
//!
//! Of what is not told apart the dearest lawful reading counts: output that is not called text is image, input that is not
//! called text is image where there were images, and what came from a cache was text as far as there is any.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::report;
use crate::price::Usage;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    text_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
}

impl Details {
    /// How many of `all` are images; `unless_told` where nothing is said.
    fn images(details: Option<&Self>, all: u64, unless_told: bool) -> u64 {
        let told = details.map(|details| (details.text_tokens, details.image_tokens));
        match told.unwrap_or_default() {
            (Some(text), images) => all.saturating_sub(text).max(images.unwrap_or(0)).min(all),
            (None, Some(images)) => images.min(all),
            (None, None) if unless_told => all,
            (None, None) => 0,
        }
    }
}

/// What one report says; none where a part of it is missing, or cannot be right. `takes_images`: there were some in the
/// prompt.
pub(in crate::meter) fn reported(raw: &RawValue, takes_images: bool) -> Option<Usage> {
    let (counts, _) = report::read(raw)?;
    let (input, output) = (counts.input?, counts.output.filter(|output| *output > 0)?);
    let report: Report = serde_json::from_str(raw.get()).unwrap_or_default();
    let seen = Details::images(report.input_tokens_details.as_ref(), input, takes_images);
    let made = Details::images(report.output_tokens_details.as_ref(), output, true);
    let cached = counts.cached.min(input);
    let cached_text = cached.min(input.saturating_sub(seen));
    let cached_images = cached.saturating_sub(cached_text).min(seen);
    Some(Usage {
        input_tokens: input,
        cached_input_tokens: cached_text,
        image_input_tokens: seen.saturating_sub(cached_images),
        cached_image_input_tokens: cached_images,
        output_tokens: output,
        image_output_tokens: made,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(report: &str, takes_images: bool) -> Option<[u64; 6]> {
        let raw: Box<RawValue> = serde_json::from_str(report).unwrap();
        let usage = reported(&raw, takes_images)?;
        Some([
            usage.input_tokens,
            usage.image_input_tokens,
            usage.cached_input_tokens,
            usage.cached_image_input_tokens,
            usage.output_tokens,
            usage.image_output_tokens,
        ])
    }

    #[test]
    fn each_kind_of_token_is_told_apart() {
        let openais = r#"{"total_tokens": 1106, "input_tokens": 50, "output_tokens": 1056,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}"#;
        assert_eq!(read(openais, true), Some([50, 40, 0, 0, 1056, 1056]));
        let with_text = r#"{"input_tokens": 9, "output_tokens": 300, "total_tokens": 309,
            "output_tokens_details": {"text_tokens": 28, "image_tokens": 272}}"#;
        assert_eq!(read(with_text, false), Some([9, 0, 0, 0, 300, 272]));
    }

    #[test]
    fn what_is_not_told_apart_is_the_dearest() {
        let bare = r#"{"input_tokens": 50, "output_tokens": 1056, "total_tokens": 1106}"#;
        assert_eq!(read(bare, false), Some([50, 0, 0, 0, 1056, 1056]));
        assert_eq!(read(bare, true), Some([50, 50, 0, 0, 1056, 1056]));
        let cached = r#"{"input_tokens": 50, "output_tokens": 7, "total_tokens": 57,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40, "cached_tokens": 12}}"#;
        assert_eq!(read(cached, true), Some([50, 38, 10, 2, 7, 7]));
    }

    #[test]
    fn what_cannot_be_right_is_no_report() {
        for nonsense in [
            "{}",
            "7",
            "null",
            r#"{"input_tokens": 5}"#,
            r#"{"input_tokens": 5, "output_tokens": 0, "total_tokens": 5}"#,
            r#"{"input_tokens": -5, "output_tokens": 9}"#,
        ] {
            assert_eq!(read(nonsense, true), None, "{nonsense}");
        }
    }
}
