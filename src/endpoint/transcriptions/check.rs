//! What a request for a transcript may say beside its file. Pure.

use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::{self, List, object};

/// The longest name of a language: a tag of RFC 5646, such as `zh-Hant-TW`.
const LANGUAGE_BYTES_MAX: usize = 35;
/// The most languages that audio may be in.
const LANGUAGES_MAX: usize = 32;
/// The most keywords.
const KEYWORDS_MAX: usize = 100;
/// The longest keyword.
const KEYWORD_BYTES_MAX: usize = 256;
/// The longest prompt: far beyond what any model takes of it.
const PROMPT_BYTES_MAX: usize = 64 * 1024;
/// The longest time in how voices are told from silence, in milliseconds.
const VAD_MILLIS_MAX: i64 = 60_000;

object! {
    /// The fields of a form. Those with brackets are what libraries make of an object in a form.
    Fields {
        model = "model": String,
        language = "language": String,
        languages = "languages": List<String, LANGUAGES_MAX>,
        keywords = "keywords": List<String, KEYWORDS_MAX>,
        prompt = "prompt": String,
        response_format = "response_format": String,
        temperature = "temperature": f64,
        include = "include": List<String, 4>,
        timestamp_granularities = "timestamp_granularities": List<String, 4>,
        stream = "stream": bool,
        chunking_strategy = "chunking_strategy": String,
        vad_type = "chunking_strategy[type]": String,
        vad_prefix = "chunking_strategy[prefix_padding_ms]": i64,
        vad_silence = "chunking_strategy[silence_duration_ms]": i64,
        vad_threshold = "chunking_strategy[threshold]": f64,
    }
}

object! {
    /// How audio is cut where nobody speaks.
    VadConfig {
        kind = "type": String,
        prefix_padding_ms = "prefix_padding_ms": i64,
        silence_duration_ms = "silence_duration_ms": i64,
        threshold = "threshold": f64,
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    #[default]
    Json,
    VerboseJson,
    DiarizedJson,
    Text,
    Srt,
    Vtt,
}

impl ResponseFormat {
    const ALL: [Self; 6] = [
        Self::Json,
        Self::VerboseJson,
        Self::DiarizedJson,
        Self::Text,
        Self::Srt,
        Self::Vtt,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::VerboseJson => "verbose_json",
            Self::DiarizedJson => "diarized_json",
            Self::Text => "text",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == word)
    }

    /// It is no JSON.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Srt | Self::Vtt)
    }

    /// An answer can be streamed that is asked for in it.
    const fn is_streamed(self) -> bool {
        matches!(self, Self::Json | Self::DiarizedJson | Self::Text)
    }

    /// The media type of an answer in one piece.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::VerboseJson | Self::DiarizedJson => "application/json",
            Self::Text | Self::Srt => "text/plain; charset=utf-8",
            Self::Vtt => "text/vtt; charset=utf-8",
        }
    }
}

impl Fields {
    /// Checks every field but the model, and writes what is said in two ways in one.
    pub(super) fn prepare(&mut self) -> Checked {
        if let Some(unknown) = self.unknown.as_deref() {
            let what = "is not supported: remove it";
            return Err(FieldError::unsupported(&unknown.name, what));
        }
        // Forms say nothing by an empty text.
        for text in [&mut self.language, &mut self.prompt] {
            text.take_if(|text| text.is_empty());
        }
        self.check_texts()?;
        if self
            .temperature
            .is_some_and(|temperature| !(0.0..=1.0).contains(&temperature))
        {
            return Err(FieldError::invalid(
                "temperature",
                "must be between 0 and 1",
            ));
        }
        self.check_format()?;
        self.prepare_chunking()
    }

    /// The form of the answer.
    pub(super) fn format(&self) -> ResponseFormat {
        let named = self.response_format.as_deref();
        named.and_then(ResponseFormat::parse).unwrap_or_default()
    }

    /// What the user wrote.
    pub(super) fn into_texts(self) -> Vec<String> {
        let keywords = self.keywords.map_or_else(Vec::new, |List(words)| words);
        self.prompt.into_iter().chain(keywords).collect()
    }

    fn check_texts(&self) -> Checked {
        let languages = self.languages.iter().flat_map(|List(names)| names);
        let too_long = |path: &str, most: usize| {
            let what = format!("must not have more than {most} bytes");
            Err(FieldError::invalid(path, what))
        };
        if self
            .language
            .iter()
            .any(|name| name.len() > LANGUAGE_BYTES_MAX)
        {
            return too_long("language", LANGUAGE_BYTES_MAX);
        }
        for (place, name) in languages.enumerate() {
            if name.len() > LANGUAGE_BYTES_MAX {
                return too_long(&format!("languages[{place}]"), LANGUAGE_BYTES_MAX);
            }
        }
        let keywords = self.keywords.iter().flat_map(|List(words)| words);
        for (place, word) in keywords.enumerate() {
            if word.len() > KEYWORD_BYTES_MAX {
                return too_long(&format!("keywords[{place}]"), KEYWORD_BYTES_MAX);
            }
        }
        if self
            .prompt
            .iter()
            .any(|prompt| prompt.len() > PROMPT_BYTES_MAX)
        {
            return too_long("prompt", PROMPT_BYTES_MAX);
        }
        Ok(())
    }

    fn check_format(&self) -> Checked {
        let named = self.response_format.as_deref();
        if named.is_some_and(|word| ResponseFormat::parse(word).is_none()) {
            let words = ResponseFormat::ALL.map(|form| format!("`{}`", form.as_str()));
            let what = format!("must be one of {}", words.join(", "));
            return Err(FieldError::invalid("response_format", what));
        }
        let format = self.format();
        if self.stream == Some(true) && !format.is_streamed() {
            let what = "must be `json`, `text` or `diarized_json` in a stream";
            return Err(FieldError::invalid("response_format", what));
        }
        let one_of = |field: &str, list: Option<&List<String, 4>>, words: &[&str]| {
            let items = list.into_iter().flat_map(|List(items)| items);
            match items
                .into_iter()
                .position(|item| !words.contains(&item.as_str()))
            {
                None => Ok(()),
                Some(place) => {
                    let what = format!("must be one of: {}", words.join(", "));
                    Err(FieldError::invalid(format!("{field}[{place}]"), what))
                }
            }
        };
        one_of("include", self.include.as_ref(), &["logprobs"])?;
        let times = self.timestamp_granularities.as_ref();
        one_of("timestamp_granularities", times, &["word", "segment"])?;
        if times.is_some() && format != ResponseFormat::VerboseJson {
            let what = "needs `response_format` to be `verbose_json`";
            return Err(FieldError::invalid("timestamp_granularities", what));
        }
        Ok(())
    }

    /// `auto`, an object in JSON, or the members of one as fields of the form.
    fn prepare_chunking(&mut self) -> Checked {
        if let Some(text) = self.chunking_strategy.take_if(|text| text.starts_with('{')) {
            let read = json::read::<VadConfig>(text.as_bytes());
            let config = read.map_err(|refusal| {
                let path = refusal.param.unwrap_or_default();
                FieldError::invalid(path, "cannot be read").under("chunking_strategy")
            })?;
            if let Some(unknown) = config.unknown.as_deref() {
                let fault = FieldError::unsupported(&unknown.name, "is not supported: remove it");
                return Err(fault.under("chunking_strategy"));
            }
            self.vad_type = config.kind;
            self.vad_prefix = config.prefix_padding_ms;
            self.vad_silence = config.silence_duration_ms;
            self.vad_threshold = config.threshold;
        }
        let invalid = |member: &str, what: String| {
            Err(FieldError::invalid(
                format!("chunking_strategy{member}"),
                what,
            ))
        };
        if self
            .chunking_strategy
            .as_deref()
            .is_some_and(|word| word != "auto")
        {
            return invalid("", "must be `auto` or an object".to_owned());
        }
        if self
            .vad_type
            .as_deref()
            .is_some_and(|word| word != "server_vad")
        {
            return invalid("[type]", "must be `server_vad`".to_owned());
        }
        let millis = [
            ("[prefix_padding_ms]", self.vad_prefix),
            ("[silence_duration_ms]", self.vad_silence),
        ];
        for (member, millis) in millis {
            if millis.is_some_and(|millis| !(0..=VAD_MILLIS_MAX).contains(&millis)) {
                return invalid(member, format!("must be between 0 and {VAD_MILLIS_MAX}"));
            }
        }
        if self
            .vad_threshold
            .is_some_and(|threshold| !(0.0..=1.0).contains(&threshold))
        {
            return invalid("[threshold]", "must be between 0 and 1".to_owned());
        }
        Ok(())
    }
}
