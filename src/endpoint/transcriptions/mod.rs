//! `/v1/audio/transcriptions`: a file of audio becomes text. Pure.
//!
//! By OpenAI's description of `CreateTranscriptionRequest`. The length of the file is counted here, and everything hangs on
//! it: the plan's `max_audio_seconds`, limits in seconds, the hold, and what is charged where the answer does not say it. A
//! model is paid by the second or by the token; for the latter a second has at most [`AUDIO_TOKENS`] and [`OUTPUT_TOKENS`].

mod check;
#[cfg(test)]
mod tests;
mod upload;

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use uuid::Uuid;

use self::check::{Fields, ResponseFormat};
use self::upload::Upload;
use super::audio::{self, AudioFile};
use super::field_error::FieldError;
use super::form::{FormBody, FormPart};
use super::model_choice::{self, OrderedModel};
use super::token_bound::{BareTexts, TokenBound, tokens_of};
use super::{Endpoint, Incoming, MULTIPART, Reader, Settable, Spec, Terms, UserInput};
use super::{json, settings};
use crate::dialect::Manner;
use crate::error::Refusal;
use crate::meter::transcript::{self, TranscriptBound};
use crate::meter::{Measured, Meter};
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Quantities, Usage};

/// The most tokens that a second of audio has. (OpenAI's models have ten.)
const AUDIO_TOKENS: u64 = 20;
/// The most tokens of text that are said in a second.
const OUTPUT_TOKENS: u64 = 15;
/// The longest answer: an hour with the time of each word.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The one path, OpenAI's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/audio/transcriptions"],
    bodies: &[MULTIPART],
    upstream_path: "/audio/transcriptions",
    operation: "transcription",
    capability: Capability::Transcriptions,
    settable: Settable {
        fields: &["language", "prompt", "temperature"],
        check: |fields| Ok(json::read::<Fields>(fields.as_bytes())?.prepare()?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(TranscriptionOrder::parse(incoming, terms)?)),
};

/// A request that may be sent.
pub struct TranscriptionOrder {
    /// As it is sent: it is long, so it is written once.
    upload: Upload,
    model: OrderedModel,
    is_paid_in_tokens: bool,
    format: ResponseFormat,
    is_stream: bool,
    /// What the user wrote beside the audio.
    texts: Vec<String>,
    bound: TokenBound,
    audio: AudioFile,
}

/// Without texts and audio.
impl fmt::Debug for TranscriptionOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TranscriptionOrder")
            .field("model", &self.model.name)
            .field("audio", &self.audio)
            .field("text_tokens", &self.bound.tokens())
            .finish_non_exhaustive()
    }
}

impl TranscriptionOrder {
    /// Reads a request. Without a model it is the plan's first that serves transcriptions. Takes some milliseconds for a
    /// long file.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(incoming: &Incoming, terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut form = FormBody::read(incoming)?;
        let files = form.take_files("file");
        let mut fields: Fields = form.into_fields()?;
        fields.prepare()?;
        let file = only(&files)?;
        let asked = fields.model.as_deref();
        let choice = model_choice::choose(asked, terms, Capability::Transcriptions)?;
        if let Some(alias) = choice.alias {
            settings::apply(&mut fields, alias, |_, _| ())?;
            fields.prepare()?;
        }
        let model = choice.into_ordered();
        let is_stream = fields.stream == Some(true);
        if is_stream && !terms.models.streams(&model.name) {
            let what = format!("is not possible with `{}`: leave it out", model.name);
            return Err(FieldError::unsupported("stream", what).into());
        }
        let audio = audio::read(&file.data);
        check_length(&audio, terms.plan)?;
        fields.model = Some(model.name.clone());
        let upload = Upload::write(&fields, file, audio.format)?;
        let (format, texts) = (fields.format(), fields.into_texts());
        Ok(Self {
            upload,
            is_paid_in_tokens: model.price.is_paid_in_tokens(),
            bound: TokenBound::in_bytes(texts.as_slice(), model.price.tokenizer),
            model,
            format,
            is_stream,
            texts,
            audio,
        })
    }

    /// What is used at most, but for what is said.
    fn input(&self, text_tokens: u64) -> Quantities {
        let seconds = self.audio.seconds;
        let of_time = Quantities {
            audio_seconds: seconds,
            ..Quantities::NONE
        };
        if !self.is_paid_in_tokens {
            return of_time;
        }
        let audio_input_tokens = seconds.saturating_mul(AUDIO_TOKENS);
        Quantities {
            input_tokens: audio_input_tokens.saturating_add(text_tokens),
            audio_input_tokens,
            ..of_time
        }
    }

    fn transcript_bound(&self) -> TranscriptBound {
        let most = self.input(self.bound.tokens());
        TranscriptBound {
            seconds: most.audio_seconds,
            input_tokens: most.input_tokens,
            audio_tokens: most.audio_input_tokens,
        }
    }
}

impl Endpoint for TranscriptionOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    /// What was written. What is heard in the audio nobody knows before.
    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        Ok(UserInput {
            texts: self.texts.iter().map(String::as_str).collect(),
            images: Vec::new(),
        })
    }

    /// As much as can be said in that time. No request can lower it.
    fn output_cap(&self) -> u32 {
        if !self.is_paid_in_tokens {
            return 0;
        }
        let most = self.audio.seconds.saturating_mul(OUTPUT_TOKENS);
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    fn stream(&self) -> bool {
        self.is_stream
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.model.price.clone(),
            base: self.input(self.bound.tokens()),
            output_cap: self.output_cap(),
            output_floor: self.output_cap(),
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        self.bound.check(plan, prompt_too_long)
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let texts = self.texts.as_slice();
        self.bound.check_least(texts, plan, prompt_too_long)
    }

    fn narrow(&mut self, most: u64) {
        self.bound.narrow(self.texts.as_slice(), most);
    }

    fn is_narrowed(&self) -> bool {
        self.bound.is_narrowed()
    }

    fn body(&self, _: u32, _: Manner, _: &str) -> Bytes {
        self.upload.body.clone()
    }

    fn content_type(&self) -> HeaderValue {
        self.upload.content_type.clone()
    }

    fn answer_type(&self) -> &'static str {
        self.format.media_type()
    }

    /// All of the audio is worked through, and paid for, once it was sent.
    fn works_on(&self) -> bool {
        true
    }

    fn reader(&self, _: Uuid) -> Reader {
        let bound = self.transcript_bound();
        if self.is_stream {
            Reader::Stream(Box::new(Meter::transcript(bound)))
        } else if self.format.is_text() {
            Reader::whole(move |body| transcript::read_text(&bound, body))
        } else {
            Reader::whole(move |body| transcript::read(&bound, body))
        }
    }

    fn estimate(&self, seen: &Measured) -> Usage {
        if !self.is_paid_in_tokens {
            return self.input(0);
        }
        Usage {
            output_tokens: tokenizer::count(self.model.price.tokenizer, &seen.text),
            ..self.input(self.bound.likely(self.texts.as_slice()))
        }
    }
}

impl BareTexts for [String] {
    fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        tokens_of(self.iter().map(String::as_str), count)
    }

    fn texts(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }
}

fn prompt_too_long(bound: u64, cap: u32) -> Refusal {
    let message = format!(
        "The prompt is too long: it may come to {bound} tokens, and the plan allows {cap} a request."
    );
    Refusal::invalid("prompt", message)
}

/// The one file of a form.
fn only(files: &[FormPart]) -> Result<&FormPart, FieldError> {
    match files {
        [] => Err(FieldError::missing("file")),
        [file] if file.data.is_empty() => Err(FieldError::invalid("file", "is empty")),
        [file] => Ok(file),
        _ => Err(FieldError::invalid("file", "must be given only once")),
    }
}

/// Whether a plan allows a file of this length.
fn check_length(audio: &AudioFile, plan: &Plan) -> Result<(), Refusal> {
    let (seconds, most) = (audio.seconds, plan.audio_seconds_max);
    if seconds <= u64::from(most) {
        return Ok(());
    }
    let message = if audio.is_counted {
        format!(
            "The audio is {seconds} seconds long, and the plan allows {most} a request. Send it in parts."
        )
    } else {
        format!(
            "How long the audio is cannot be read; by its bytes it may be {seconds} seconds, and the plan allows {most} a \
             request. Send it as m4a, mp3, wav, flac, ogg or webm."
        )
    };
    Err(Refusal::invalid("file", message))
}
