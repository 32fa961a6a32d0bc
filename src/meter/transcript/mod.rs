//! Transcripts of audio: what they say they used, as OpenAI's API has it. Pure.
//!
//! A model is paid by the second or by the token, and reports the one or the other; some forms of an answer report nothing.
//! What is not reported in the unit that is paid counts as not reported.

mod events;
mod report;
#[cfg(test)]
mod tests;
mod whole;

pub(super) use self::events::TranscriptWatch;
pub use self::whole::{read, read_text};

/// What is known of a transcription before there is an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranscriptBound {
    /// How long the audio is, in seconds, rounded up.
    pub seconds: u64,
    /// The most tokens that it comes to with its prompt; 0 where it is not paid in tokens.
    pub input_tokens: u64,
    /// Those of the audio alone.
    pub audio_tokens: u64,
}

impl TranscriptBound {
    const fn is_paid_in_tokens(&self) -> bool {
        self.input_tokens > 0
    }
}
