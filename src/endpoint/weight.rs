//! How many tokens a prompt can be billed as: what the bounds of all endpoints that generate text are made of.
//!
//! Nobody outside the provider sees the text that the model reads: messages are framed, tools and schemas are rewritten.
//! So a prompt is weighed in two parts. *Texts* are what the caller wrote: counted by the model's tokenizer, or, cheaply,
//! as bytes: every token of a byte-level vocabulary stands for at least one byte. *Fixed* is what the framing can add, by
//! the constants below. Both are the same walk over the same request, so the cheap bound is never below the other.

use super::image;
use super::json_text::{Shape, escapes};
use super::schema::{Json, Schema};
use crate::model::Tokenizer;
use crate::price::tokenizer;

/// What a provider's framing may add, in tokens.
pub(super) struct Frame {
    /// What every request opens with, and the start of the answer.
    pub(super) request: u64,
    /// Role and delimiters of a message.
    pub(super) message: u64,
    /// One part of a message.
    pub(super) part: u64,
    /// The envelope of a call of a tool: recipient, delimiters, its type.
    pub(super) tool_call: u64,
    /// What is said around all tools.
    pub(super) tools: u64,
    /// The envelope of one tool.
    pub(super) tool: u64,
    /// The heading over an answer's schema.
    pub(super) format: u64,
}

/// OpenAI bills 3 tokens for the start of the answer and 3 or 4 a message; the renderer that it has published (of
/// gpt-oss) opens with some 60 of its own, a call has some 12, all tools some 40, one tool some 12.
const KNOWN: Frame = Frame {
    request: 96,
    message: 16,
    part: 4,
    tool_call: 24,
    tools: 160,
    tool: 24,
    format: 64,
};
/// Templates of open models open with up to several hundred tokens (dates, channels, a default system prompt) and some
/// print messages, parts, calls and tools as JSON: the bytes of `{"type": "text", "text": ""}, ` and its like.
const UNKNOWN: Frame = Frame {
    request: 1024,
    message: 32,
    part: 32,
    tool_call: 128,
    tools: 512,
    tool: 192,
    format: 64,
};
/// For each line of a description, which may be marked as a comment.
const COMMENT: u64 = 3;
/// The blanks of one level of indentation, as bytes. A count takes them for one token: every vocabulary of 32,000 words
/// or more that was looked at knows at least runs of four blanks.
const INDENTATION: u64 = 4;

/// A prompt's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// What the caller wrote, in tokens or bytes.
    texts: u64,
    /// What framing may add, in tokens.
    fixed: u64,
    /// What is billed by its size, such as images, as at most, in tokens.
    images: u64,
    /// How many messages, or items of another name, there are.
    messages: u64,
}

impl Weight {
    /// The bound, where `texts` is an upper bound by itself.
    pub(super) fn bound(self) -> u64 {
        self.texts
            .saturating_add(self.fixed)
            .saturating_add(self.images)
    }

    /// The bound, where `texts` is a count.
    pub(super) fn bound_with_margin(self) -> u64 {
        self.bound().saturating_add(tokenizer::margin(self.texts))
    }

    /// What will most likely be billed: OpenAI's framing is 3 tokens a message and 3 for the answer.
    pub(super) fn estimate(self) -> u64 {
        let framing = self.messages.saturating_add(1).saturating_mul(3);
        self.texts
            .saturating_add(self.images)
            .saturating_add(framing)
    }

    pub(super) fn fixed(fixed: u64) -> Self {
        Self {
            fixed,
            ..Self::default()
        }
    }

    /// What is no text, and is billed as at most so many tokens.
    pub(super) fn sized(images: u64) -> Self {
        Self {
            images,
            ..Self::default()
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            texts: self.texts.saturating_add(other.texts),
            fixed: self.fixed.saturating_add(other.fixed),
            images: self.images.saturating_add(other.images),
            messages: self.messages.saturating_add(other.messages),
        }
    }
}

pub(super) fn sum(weights: impl IntoIterator<Item = Weight>) -> Weight {
    weights.into_iter().fold(Weight::default(), Weight::plus)
}

/// Weighs the parts of a request. Everything that may end up in the prompt is weighed by it.
pub(super) struct Scale<'a> {
    model: &'a str,
    /// The template that frames the prompt is not known.
    pub(super) unknown: bool,
    count: &'a dyn Fn(&str) -> u64,
    /// What one level of indentation counts as.
    level: u64,
}

impl<'a> Scale<'a> {
    /// With bytes for tokens: hands the scale to `weigh`.
    pub(super) fn in_bytes<T>(
        model: &str,
        tokenizer: Tokenizer,
        weigh: impl FnOnce(&Scale<'_>) -> T,
    ) -> T {
        let count = |text: &str| tokenizer::bytes_bound(tokenizer, text);
        weigh(&Scale {
            model,
            unknown: tokenizer == Tokenizer::Unknown,
            count: &count,
            level: INDENTATION,
        })
    }

    /// By whatever `count` says of texts, in tokens.
    pub(super) fn counted(
        model: &'a str,
        tokenizer: Tokenizer,
        count: &'a dyn Fn(&str) -> u64,
    ) -> Self {
        Self {
            model,
            unknown: tokenizer == Tokenizer::Unknown,
            count,
            level: 1,
        }
    }

    /// The frame of a message.
    pub(super) fn one_message(&self) -> Weight {
        Weight {
            messages: 1,
            ..Weight::fixed(self.frame().message)
        }
    }

    pub(super) fn frame(&self) -> &'static Frame {
        if self.unknown { &UNKNOWN } else { &KNOWN }
    }

    /// An image, by its URL.
    pub(super) fn image(&self, url: &str, detail: Option<&str>) -> Weight {
        Weight::sized(image::tokens_max((self.model, !self.unknown), url, detail))
    }

    /// JSON of a server's own.
    pub(super) fn form(&self, form: Option<&Json>) -> Weight {
        form.map(|form| {
            self.json(form.text())
                .plus(Weight::fixed(self.frame().message))
        })
        .unwrap_or_default()
    }

    pub(super) fn text(&self, text: &str) -> Weight {
        Weight {
            texts: (self.count)(text),
            ..Weight::default()
        }
    }

    pub(super) fn optional(&self, text: Option<&str>) -> Weight {
        text.map(|text| self.text(text)).unwrap_or_default()
    }

    /// Text of which each line may be marked as a comment.
    pub(super) fn description(&self, text: Option<&str>) -> Weight {
        let text = text.unwrap_or_default();
        let lines = text.bytes().filter(|byte| *byte == b'\n').count();
        let lines = u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1);
        self.quoted(text)
            .plus(Weight::fixed(lines.saturating_mul(COMMENT)))
    }

    pub(super) fn schema(&self, schema: Option<&Schema>) -> Weight {
        schema
            .map(|schema| self.json(schema.text()))
            .unwrap_or_default()
    }

    /// JSON that is printed anew. OpenAI's renderer shows the description of an object twice: beside its name, and within.
    pub(super) fn json(&self, text: &str) -> Weight {
        let mut again = Weight::default();
        let shape = Shape::of(text, &mut |description| {
            again = again.plus(self.text(description));
        });
        if !self.unknown {
            return sum([self.text(text), again, Weight::fixed(shape.known)]);
        }
        let indentation = shape.levels.saturating_mul(self.level);
        let longer = [shape.gaps, indentation, shape.longer]
            .into_iter()
            .fold(0, u64::saturating_add);
        self.text(text).plus(Weight::fixed(longer))
    }

    /// Text that an unknown template may print within JSON.
    pub(super) fn quoted(&self, text: &str) -> Weight {
        let escapes = if self.unknown { escapes(text) } else { 0 };
        self.text(text).plus(Weight::fixed(escapes))
    }
}
