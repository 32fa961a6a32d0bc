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
use super::model_choice::{self, Choice};
use super::{Endpoint, Incoming, MULTIPART, Reader, Settable, Spec, Terms, UserInput};
use super::{json, settings};
use crate::dialect::Manner;
use crate::error::Refusal;
use crate::meter::transcript::{self, TranscriptBound};
use crate::meter::{Measured, Meter};
use crate::model::{Capability, Tokenizer};
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Price, Quantities, Usage};

/// The most tokens that a second of audio has. (OpenAI's models have ten.)
const AUDIO_TOKENS: u64 = 20;
/// The most tokens of text that are said in a second.
const OUTPUT_TOKENS: u64 = 15;
/// What a server whose tokenizer is not known may add to a text.
const FRAME_UNKNOWN: u64 = 32;
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
    model: String,
    requested_model: Option<String>,
    entry: Option<String>,
    price: Price,
    is_paid_in_tokens: bool,
    format: ResponseFormat,
    is_stream: bool,
    /// What the user wrote beside the audio.
    texts: Vec<String>,
    /// At least as many tokens as those are.
    text_tokens: u64,
    narrowed: bool,
    audio: AudioFile,
}

/// Without texts and audio.
impl fmt::Debug for TranscriptionOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TranscriptionOrder")
            .field("model", &self.model)
            .field("audio", &self.audio)
            .field("text_tokens", &self.text_tokens)
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
        let Choice {
            name,
            price,
            requested,
            entry,
            alias,
            ..
        } = model_choice::choose(fields.model.as_deref(), terms, Capability::Transcriptions)?;
        if let Some(alias) = alias {
            settings::apply(&mut fields, alias, |_, _| ())?;
            fields.prepare()?;
        }
        let is_stream = fields.stream == Some(true);
        if is_stream && !terms.models.streams(name) {
            let what = format!("is not possible with `{name}`: leave it out");
            return Err(FieldError::unsupported("stream", what).into());
        }
        let audio = audio::read(&file.data);
        check_length(&audio, terms.plan)?;
        fields.model = Some(name.to_owned());
        let mut order = Self {
            upload: Upload::write(&fields, file, audio.format)?,
            model: name.to_owned(),
            requested_model: requested,
            entry,
            price: price.clone(),
            is_paid_in_tokens: price.is_paid_in_tokens(),
            format: fields.format(),
            is_stream,
            texts: fields.into_texts(),
            text_tokens: 0,
            narrowed: false,
            audio,
        };
        order.text_tokens = order.tokens(&|text| tokenizer::bytes_bound(price.tokenizer, text));
        Ok(order)
    }

    /// The texts beside the audio, by a count of a text, and what may be added to each.
    fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        let frame = if self.price.tokenizer == Tokenizer::Unknown {
            FRAME_UNKNOWN
        } else {
            0
        };
        self.texts.iter().fold(0_u64, |sum, text| {
            sum.saturating_add(count(text)).saturating_add(frame)
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

    fn bound(&self) -> TranscriptBound {
        let most = self.input(self.text_tokens);
        TranscriptBound {
            seconds: most.audio_seconds,
            input_tokens: most.input_tokens,
            audio_tokens: most.audio_input_tokens,
        }
    }
}

impl Endpoint for TranscriptionOrder {
    fn model(&self) -> &str {
        &self.model
    }

    fn requested_model(&self) -> Option<&str> {
        self.requested_model.as_deref()
    }

    fn plan_entry(&self) -> &str {
        self.entry.as_deref().unwrap_or(&self.model)
    }

    fn price(&self) -> &Price {
        &self.price
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
            price: self.price.clone(),
            base: self.input(self.text_tokens),
            output_cap: self.output_cap(),
            output_floor: self.output_cap(),
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let (bound, cap) = (self.text_tokens, plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        let message = format!(
            "The prompt is too long: it may come to {bound} tokens, and the plan allows {cap} a request."
        );
        Err(Refusal::invalid("prompt", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let tokenizer = self.price.tokenizer;
        let texts = self.texts.iter();
        let least = texts.fold(0_u64, |sum, text| {
            sum.saturating_add(tokenizer::least(tokenizer, text))
        });
        if least <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    fn narrow(&mut self, most: u64) {
        if self.narrowed {
            return;
        }
        let tokenizer = self.price.tokenizer;
        let counted = tokenizer::bound_of_bare_texts(tokenizer, most, |count| self.tokens(count));
        self.text_tokens =
            counted.map_or(self.text_tokens, |counted| self.text_tokens.min(counted));
        self.narrowed = true;
    }

    fn is_narrowed(&self) -> bool {
        self.narrowed
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
        let bound = self.bound();
        if self.is_stream {
            Reader::Stream(Box::new(Meter::transcript(bound)))
        } else if self.format.is_text() {
            Reader::whole(move |body| transcript::read_text(&bound, body))
        } else {
            Reader::whole(move |body| transcript::read(&bound, body))
        }
    }

    fn estimate(&self, seen: &Measured) -> Usage {
        let tokenizer = self.price.tokenizer;
        if !self.is_paid_in_tokens {
            return self.input(0);
        }
        let texts = self.texts.iter();
        let counted = texts.fold(0_u64, |sum, text| {
            sum.saturating_add(tokenizer::count(tokenizer, text))
        });
        Usage {
            output_tokens: tokenizer::count(tokenizer, &seen.text),
            ..self.input(counted.min(self.text_tokens))
        }
    }
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
