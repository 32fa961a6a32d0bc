//! `/v1/audio/speech`: text that becomes sound, which passes byte for byte as it comes. Pure.
//!
//! By OpenAI's description of `CreateSpeechRequest`. What is ordered is what is billed: the characters of `input` (Unicode
//! code points), however much of the sound is heard. A model that is priced in tokens says nothing of them in an answer of
//! sound, so it is held, and charged, by a rule ([`AUDIO_TOKENS`]).

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::dialect::Manner;
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::{self, TextOr, object};
use crate::endpoint::model_choice::{self, OrderedModel};
use crate::endpoint::{
    ByteAnswer, Endpoint, JSON, Reader, Settable, Spec, Terms, UserInput, settings,
};
use crate::error::Refusal;
use crate::meter::Measured;
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Quantities, Rate, Usage};

/// The longest `input` and `instructions`, in characters.
const TEXT_CHARS_MAX: usize = 4096;
/// The longest name of a voice, in bytes.
const VOICE_BYTES_MAX: usize = 256;
/// The slowest and the fastest speech.
const SPEEDS: (f64, f64) = (0.25, 4.0);
/// Tokens of audio that a token of text is spoken in, where speech is priced in tokens: at the usual speed some six, and a
/// third more to be safe.
const AUDIO_TOKENS: u64 = 8;
/// The longest answer that is passed on, in bytes: twenty minutes of what is not compressed, twice over.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The one path, OpenAI's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/audio/speech"],
    bodies: &[JSON],
    upstream_path: "/audio/speech",
    operation: "speech",
    capability: Capability::Speech,
    settable: Settable {
        fields: &["voice", "instructions", "response_format", "speed"],
        check: |fields| Ok(check_fields(&json::read(fields.as_bytes())?)?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(SpeechOrder::parse(&incoming.body, terms)?)),
};

object! {
    /// A request, as it is written.
    Request {
        model = "model": String,
        input = "input": String,
        voice = "voice": TextOr<Voice>,
        instructions = "instructions": String,
        response_format = "response_format": String,
        speed = "speed": f64,
        stream_format = "stream_format": String,
    }
}

object! {
    /// A voice that the operator made.
    Voice {
        id = "id": String,
    }
}

/// A request that may be sent.
#[derive(Clone, PartialEq)]
pub struct SpeechOrder {
    /// Without model and stream format, which are written anew or not at all.
    request: Request,
    model: OrderedModel,
    /// The code points of the input.
    characters: u64,
    /// At least as many tokens as the input with its instructions, and the sound of the input, will be billed as; zero where
    /// tokens are not what is paid for.
    input_tokens: u64,
    audio_tokens: u64,
}

/// Without what is to be said.
impl fmt::Debug for SpeechOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpeechOrder")
            .field("model", &self.model.name)
            .field("characters", &self.characters)
            .finish_non_exhaustive()
    }
}

impl SpeechOrder {
    /// Reads a request. Without a model it is the plan's first that serves speech.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request: Request = json::read(body)?;
        check(&request)?;
        let asked = request.model.as_deref();
        let choice = model_choice::choose(asked, terms, Capability::Speech)?;
        if let Some(alias) = choice.alias {
            settings::apply(&mut request, alias, |_, _| ())?;
            check(&request)?;
        }
        if request.voice.is_none() {
            return Err(FieldError::missing("voice").into());
        }
        (request.model, request.stream_format) = (None, None);
        let input = request.input.as_deref().unwrap_or_default();
        let mut order = Self {
            characters: u64::try_from(input.chars().count()).unwrap_or(u64::MAX),
            request,
            model: choice.into_ordered(),
            input_tokens: 0,
            audio_tokens: 0,
        };
        if order.is_priced_in_tokens() {
            order.count();
        }
        Ok(order)
    }

    /// Counts the texts. They are short, so that is done at once, and exactly: there is no report to correct it.
    fn count(&mut self) {
        let count = |text: &Option<String>| {
            let count =
                |text: &String| tokenizer::bound_up_to(self.model.price.tokenizer, text, u64::MAX);
            text.as_ref().map_or(0, count)
        };
        let spoken = count(&self.request.input);
        self.input_tokens = spoken.saturating_add(count(&self.request.instructions));
        // Slower speech is longer.
        let times = match self.request.speed {
            Some(speed) if speed < 0.5 => 4,
            Some(speed) if speed < 1.0 => 2,
            _ => 1,
        };
        self.audio_tokens = spoken.saturating_mul(AUDIO_TOKENS).saturating_mul(times);
    }

    /// Tokens cost something, and not characters.
    fn is_priced_in_tokens(&self) -> bool {
        !self.model.price.is_free() && self.model.price.rates.characters == Rate::default()
    }

    /// What is used, whatever is heard of it.
    fn ordered(&self) -> Quantities {
        Quantities {
            characters: self.characters,
            input_tokens: self.input_tokens,
            output_tokens: self.audio_tokens,
            audio_output_tokens: self.audio_tokens,
            ..Quantities::NONE
        }
    }
}

impl Endpoint for SpeechOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        let texts = [&self.request.input, &self.request.instructions];
        Ok(UserInput {
            texts: texts.into_iter().flatten().map(String::as_str).collect(),
            images: Vec::new(),
        })
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.model.price.clone(),
            base: self.ordered(),
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        }
    }

    /// Its characters are bounded, and nothing is generated of a prompt.
    fn check_input(&self, _: &Plan) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_least_input(&self, _: &Plan) -> Result<(), Refusal> {
        Ok(())
    }

    fn narrow(&mut self, _: u64) {}

    fn is_narrowed(&self) -> bool {
        true
    }

    fn body(&self, _: u32, _: Manner, _: &str) -> Bytes {
        let outgoing = OutgoingSpeech {
            model: &self.model.name,
            request: &self.request,
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        let usage = self.ordered();
        Reader::Bytes(ByteAnswer {
            family: "audio/",
            media_type: media_type(self.request.response_format.as_deref()),
            usage: Some(usage).filter(|_| !self.is_priced_in_tokens()),
        })
    }

    fn estimate(&self, _: &Measured) -> Usage {
        self.ordered()
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingSpeech<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
}

/// What an answer is where its upstream does not say; MP3, where nothing was asked for.
fn media_type(format: Option<&str>) -> &'static str {
    match format {
        Some("opus") => "audio/ogg",
        Some("aac") => "audio/aac",
        Some("flac") => "audio/flac",
        Some("wav") => "audio/wav",
        Some("pcm") => "audio/pcm",
        _ => "audio/mpeg",
    }
}

/// The allow-list: what is passed on, in which type and range.
fn check(request: &Request) -> Checked {
    if let Some(unknown) = request.unknown.as_deref() {
        let what = "is not supported: remove it";
        return Err(FieldError::unsupported(&unknown.name, what));
    }
    let input = request.input.as_deref();
    let input = input.ok_or_else(|| FieldError::missing("input"))?;
    if input.is_empty() {
        return Err(FieldError::invalid("input", "must not be empty"));
    }
    check_length(input, "input")?;
    match request.stream_format.as_deref() {
        None | Some("audio") => {}
        Some("sse") => {
            let what = "can only be `audio`: the sound is passed on as it comes";
            return Err(FieldError::unsupported("stream_format", what));
        }
        Some(_) => return Err(FieldError::invalid("stream_format", "must be `audio`")),
    }
    check_fields(request)
}

/// The fields that the operator may set, too.
fn check_fields(request: &Request) -> Checked {
    if let Some(voice) = &request.voice {
        check_voice(voice)?;
    }
    if let Some(instructions) = &request.instructions {
        check_length(instructions, "instructions")?;
    }
    let formats = ["mp3", "opus", "aac", "flac", "wav", "pcm"];
    let format = request.response_format.as_deref();
    if format.is_some_and(|format| !formats.contains(&format)) {
        let what = "must be `mp3`, `opus`, `aac`, `flac`, `wav` or `pcm`";
        return Err(FieldError::invalid("response_format", what));
    }
    let (slowest, fastest) = SPEEDS;
    let speed = request.speed;
    if speed.is_some_and(|speed| !(slowest..=fastest).contains(&speed)) {
        let what = format!("must be between {slowest} and {fastest}");
        return Err(FieldError::invalid("speed", what));
    }
    Ok(())
}

fn check_voice(voice: &TextOr<Voice>) -> Checked {
    let (name, path) = match voice {
        TextOr::Text(name) => (name.as_str(), "voice"),
        TextOr::Other(voice) => {
            if let Some(unknown) = voice.unknown.as_deref() {
                let what = "is not supported: remove it";
                return Err(FieldError::unsupported(&unknown.name, what).under("voice"));
            }
            let id = voice.id.as_deref();
            (
                id.ok_or_else(|| FieldError::missing("voice.id"))?,
                "voice.id",
            )
        }
    };
    if (1..=VOICE_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let what = format!("must have between 1 and {VOICE_BYTES_MAX} bytes");
    Err(FieldError::invalid(path, what))
}

fn check_length(text: &str, path: &str) -> Checked {
    if text.chars().nth(TEXT_CHARS_MAX).is_none() {
        return Ok(());
    }
    let what = format!("must not have more than {TEXT_CHARS_MAX} characters");
    Err(FieldError::invalid(path, what))
}
