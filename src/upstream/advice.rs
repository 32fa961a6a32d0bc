//! What the operator should write where a server refuses a member that we add to requests.

use http::StatusCode;

use super::error_body::ErrorBody;
use crate::config::UpstreamConfig;
use crate::dialect::{CapName, Dialect, Manner};
use crate::ledger::Flag;

/// A member that we add to requests and a server may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The member.
    member: &'static str,
    /// The flag of a row that it refused.
    pub flag: Flag,
    /// What to write under its `[[upstreams]]`.
    pub line: &'static str,
}

const STREAM_OPTIONS: Advice = Advice {
    member: "stream_options",
    flag: Flag::StreamOptionsRefused,
    line: "the server refuses stream_options: write stream_usage = false under its [[upstreams]]",
};
const OLDER_NAME: Advice = Advice {
    member: "max_tokens",
    flag: Flag::MaxTokensRefused,
    line: "the server refuses max_tokens: write cap_name = \"max_completion_tokens\" under its [[upstreams]], or \
           preset = \"openai\" if it is OpenAI behind a gateway",
};
const NEWER_NAME: Advice = Advice {
    member: "max_completion_tokens",
    flag: Flag::MaxCompletionTokensRefused,
    line: "the server refuses max_completion_tokens: write cap_name = \"max_tokens\" under its [[upstreams]], or \
           preset = \"compatible\" if it is not OpenAI",
};

impl Advice {
    /// What may have to be told of a server to which requests are written so.
    pub fn of(manner: Manner) -> impl Iterator<Item = Self> {
        let Manner {
            dialect,
            cap_name,
            stream_usage,
        } = manner;
        let is_openais = dialect != Dialect::Anthropic;
        let options = stream_usage.then_some(STREAM_OPTIONS);
        let older = (cap_name != CapName::MaxCompletionTokens).then_some(OLDER_NAME);
        let newer = (cap_name != CapName::MaxTokens).then_some(NEWER_NAME);
        let all = [options, older, newer].into_iter().flatten();
        all.filter(move |_| is_openais)
    }

    /// What an error says of it.
    pub(super) fn find(
        status: StatusCode,
        error: &ErrorBody,
        from: &UpstreamConfig,
    ) -> Option<Self> {
        Self::of(from.manner)
            .find(|advice| matches!(status.as_u16(), 400 | 422) && error.refuses(advice.member))
    }
}
