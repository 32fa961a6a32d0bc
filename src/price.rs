//! Tokens to money, and the price table. Pure.
//!
//! Money is whole micro-dollars. A price is micro-dollars a million tokens; the cost of a request is computed on its
//! totals and rounded up once. Sums saturate; no float touches them.

use std::collections::BTreeMap;

/// Millionths of a US dollar. Never negative where it is a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(pub i64);

/// What a request used, in tokens, as the upstream reported it or as it was estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, those from the cache included.
    pub input_tokens: u64,
    /// The part of `input_tokens` read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// The part of `input_tokens` written to the provider's prompt cache.
    pub cache_write_tokens: u64,
    /// All generated tokens, hidden reasoning included.
    pub output_tokens: u64,
    /// The part of `output_tokens` that nobody sees.
    pub reasoning_tokens: u64,
}

/// Which tokenizer counts a model's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// `o200k_base`: gpt-4o and later.
    O200k,
    /// `cl100k_base`: gpt-4, gpt-3.5.
    Cl100k,
    /// Unknown: a prompt is bounded by its bytes; estimates of output use `o200k_base`.
    #[default]
    Unknown,
}

/// Micro-dollars a million tokens (so US dollars a million tokens, times a million).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMillion(pub u64);

/// What a model costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Prompt tokens that came neither from nor went to a cache.
    pub input: PerMillion,
    /// Prompt tokens read from the cache.
    pub cached_input: PerMillion,
    /// Prompt tokens written to the cache.
    pub cache_write: PerMillion,
    /// Generated tokens.
    pub output: PerMillion,
    /// Prices of the whole request when its prompt is longer than so many tokens.
    pub long: Option<LongPrice>,
    /// The model bills tokens nobody sees: an answer without usage is charged its hold.
    pub reasoning: bool,
    /// What counts its text.
    pub tokenizer: Tokenizer,
}

/// Prices beyond a prompt length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongPrice {
    /// Prompts of more tokens than this.
    pub above: u64,
    /// As in [`Price`].
    pub input: PerMillion,
    /// As in [`Price`].
    pub cached_input: PerMillion,
    /// As in [`Price`].
    pub cache_write: PerMillion,
    /// As in [`Price`].
    pub output: PerMillion,
}

/// Every priced model by its canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Canonical name to price.
    pub models: BTreeMap<String, Price>,
}

impl Price {
    /// The most that a request of so many tokens can cost, whatever the provider's cache does.
    #[must_use]
    pub fn bound(&self, _input_tokens: u64, _output_tokens: u64) -> MicroUsd {
        MicroUsd(0)
    }
}
