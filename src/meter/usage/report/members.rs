//! The names that providers give the parts of a report, as a visitor of its members.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::super::lenient::{CountSeed, others_are};
use super::{Report, TOKENS_MAX};

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    #[serde(
        alias = "prompt_token_count",
        alias = "promptTokenCount",
        alias = "promptTokens"
    )]
    PromptTokens,
    #[serde(alias = "inputTokens", alias = "input_token_count")]
    InputTokens,
    #[serde(
        alias = "output_tokens",
        alias = "candidates_token_count",
        alias = "candidatesTokenCount",
        alias = "completionTokens",
        alias = "outputTokens",
        alias = "output_token_count"
    )]
    CompletionTokens,
    #[serde(
        alias = "total_token_count",
        alias = "totalTokenCount",
        alias = "totalTokens"
    )]
    TotalTokens,
    #[serde(
        alias = "input_tokens_details",
        alias = "prompt_token_details",
        alias = "input_token_details",
        alias = "completion_tokens_details",
        alias = "output_tokens_details",
        alias = "completion_token_details",
        alias = "output_token_details"
    )]
    PromptTokensDetails,
    #[serde(
        alias = "cached_content_token_count",
        alias = "cachedContentTokenCount",
        alias = "num_cached_tokens",
        alias = "cached_input_tokens",
        alias = "cached_prompt_tokens",
        alias = "prompt_cached_tokens",
        alias = "cache_read_tokens",
        alias = "cachedTokens"
    )]
    CachedTokens,
    PromptCacheHitTokens,
    PromptCacheMissTokens,
    #[serde(alias = "cacheReadInputTokens")]
    CacheReadInputTokens,
    #[serde(alias = "cacheCreationInputTokens")]
    CacheCreationInputTokens,
    #[serde(alias = "cache_creation_tokens")]
    CacheWriteTokens,
    #[serde(
        alias = "thinking_tokens",
        alias = "thoughts_token_count",
        alias = "thoughtsTokenCount",
        alias = "reasoningTokens"
    )]
    ReasoningTokens,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for &mut Report {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a report of usage")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(member) = members.next_key::<Member>()? {
            let (slot, most) = match member {
                Member::PromptTokensDetails => {
                    members.next_value_seed(Details(&mut *self))?;
                    continue;
                }
                Member::Other => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
                Member::PromptTokens => {
                    self.is_input_by_openai = true;
                    (&mut self.input, TOKENS_MAX)
                }
                Member::InputTokens => {
                    self.is_input_by_anthropic = true;
                    (&mut self.input, TOKENS_MAX)
                }
                Member::CompletionTokens => (&mut self.output, TOKENS_MAX),
                Member::TotalTokens => (&mut self.total, TOKENS_MAX.saturating_mul(2)),
                Member::CachedTokens => (&mut self.cached_beside, TOKENS_MAX),
                Member::PromptCacheHitTokens => (&mut self.hit, TOKENS_MAX),
                Member::PromptCacheMissTokens => (&mut self.miss, TOKENS_MAX),
                Member::CacheReadInputTokens => (&mut self.read, TOKENS_MAX),
                Member::CacheCreationInputTokens => (&mut self.created, TOKENS_MAX),
                Member::CacheWriteTokens => (&mut self.written, TOKENS_MAX),
                Member::ReasoningTokens => (&mut self.reasoning, TOKENS_MAX),
            };
            slot.say(members.next_value_seed(CountSeed)?, most);
        }
        Ok(())
    }
}

/// The parts of a part. What stands here wins over what stands beside.
struct Details<'t>(&'t mut Report);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Detail {
    #[serde(
        alias = "cache_read_tokens",
        alias = "cache_read_input_tokens",
        alias = "cached_content_token_count",
        alias = "num_cached_tokens",
        alias = "cache_read",
        alias = "cachedTokens"
    )]
    CachedTokens,
    #[serde(
        alias = "cache_creation_tokens",
        alias = "cache_creation_input_tokens",
        alias = "cached_creation_tokens",
        alias = "cache_creation"
    )]
    CacheWriteTokens,
    #[serde(
        alias = "thinking_tokens",
        alias = "thoughts_token_count",
        alias = "reasoning",
        alias = "reasoningTokens"
    )]
    ReasoningTokens,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Details<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Details<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self(report) = self;
        while let Some(detail) = members.next_key::<Detail>()? {
            let slot = match detail {
                Detail::CachedTokens => &mut report.cached,
                Detail::CacheWriteTokens => &mut report.written,
                Detail::ReasoningTokens => &mut report.reasoning,
                Detail::Other => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            slot.say(members.next_value_seed(CountSeed)?, TOKENS_MAX);
        }
        Ok(())
    }

    others_are!(() => unit bool numbers text list);
}
