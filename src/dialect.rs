//! How a server wants requests to be written: which variant of an API it speaks. Pure.

/// Which API a server speaks, and which variant of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI itself.
    Openai,
    /// Another server that speaks its API.
    Compatible,
    /// Anthropic's own API: messages, and nothing else.
    Anthropic,
}

/// The name of the output cap at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapName {
    /// `max_tokens`: what every server but OpenAI knows.
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
    /// By both names.
    Both,
}

/// How an upstream wants a request to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The variant of the API.
    pub dialect: Dialect,
    /// How it calls the output cap.
    pub cap_name: CapName,
    /// It takes `stream_options`, which asks for the usage of a stream.
    pub stream_usage: bool,
}

impl From<Dialect> for Manner {
    fn from(dialect: Dialect) -> Self {
        let cap_name = match dialect {
            Dialect::Openai => CapName::MaxCompletionTokens,
            Dialect::Compatible | Dialect::Anthropic => CapName::MaxTokens,
        };
        Self {
            dialect,
            cap_name,
            stream_usage: true,
        }
    }
}
