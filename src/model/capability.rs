//! What a model can be asked for. Pure.

use serde::Deserialize;

/// An endpoint that a model serves, by the word of `endpoints` in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Chat completions.
    Chat,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
    /// Embeddings.
    Embeddings,
    /// Moderations.
    Moderations,
    /// Images, made of a prompt or of other images.
    Images,
    /// Speech.
    Speech,
    /// Transcriptions of audio.
    Transcriptions,
}

impl Capability {
    /// What a model serves of which no table says it.
    pub(super) const DEFAULT: [Self; 2] = [Self::Chat, Self::Responses];

    /// As it stands in the tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::Images => "images",
            Self::Speech => "speech",
            Self::Transcriptions => "transcriptions",
        }
    }
}
