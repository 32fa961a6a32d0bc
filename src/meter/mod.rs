//! Reads usage and delivered text off a passing answer.
//!
//! [`Meter`] splits a stream into events, and an [`EventReader`] says what they mean: there is one for each API. They know
//! what compatible servers make of their API; they do not know prices, plans or who asked. Payloads pass byte for byte, the
//! framing is ours. What the upstream says is judged strictly: a count that cannot be right is no count, and the owner
//! estimates instead. What cannot be read is left out and ends nothing. Invariant: memory is bounded whatever the upstream
//! sends.

pub mod ahead;
pub mod body;
pub mod byte_body;
mod chat;
mod chat_events;
mod choices;
mod chunks;
pub mod compressed;
pub mod drain;
mod event_reader;
pub mod images;
mod lenient;
mod mend;
pub mod messages;
pub mod responses;
pub mod sse;
#[cfg(test)]
mod tests;
mod text;
pub mod transcript;
mod usage;
mod watch;
pub mod whole;

use bytes::BytesMut;
use uuid::Uuid;

pub use self::chat::name_reported;
use self::compressed::Start;
use self::event_reader::EventReader;
use self::images::{ImageOrder, ImageReader};
use self::messages::MessagesReader;
use self::responses::ResponseWatch;
use self::sse::Splitter;
use self::transcript::{TranscriptBound, TranscriptWatch};
pub use self::usage::{PartialUsage, input_reported};
use self::watch::Watch;
use crate::error::{Code, Refusal};
use crate::price::Usage;

/// The most text that is kept for an estimate, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// The longest answer in one piece where a stream was asked for.
pub const WHOLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A byte order mark, byte by byte, and white space: what may stand before an answer.
const BEFORE_AN_ANSWER: &[u8] = b"\xEF\xBB\xBF \t\r\n";

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is compressed, and does not say so.
    Compressed,
    /// An event longer than [`sse::EVENT_BYTES_MAX`].
    EventTooLarge,
    /// More than [`sse::NOISE_BYTES_MAX`] of comments and the like without an event.
    Noise,
    /// No stream of events and no completion, or more than a mebibyte of events in a row that cannot be read.
    Nonsense,
    /// The upstream said that it failed, in whatever shape.
    Upstream,
    /// The connection broke.
    Broken,
    /// It ended before its end was told.
    Cut,
    /// No byte for `idle_timeout`.
    Idle,
    /// Not at its end by the deadline.
    Deadline,
    /// Not at its end when the server stopped.
    Stopped,
}

impl Fault {
    /// What the caller is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Idle | Self::Deadline => Refusal::new(
                Code::UpstreamTimeout,
                "The model's provider did not finish in time.",
            ),
            Self::Stopped => Refusal::new(
                Code::Overloaded,
                "The server is stopping; try again in a moment.",
            ),
            _ => Refusal::new(
                Code::UpstreamError,
                "The model's provider failed in mid-answer.",
            ),
        }
    }

    /// A word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compressed => "compressed",
            Self::EventTooLarge => "event_too_large",
            Self::Noise => "noise",
            Self::Nonsense => "nonsense",
            Self::Upstream => "upstream",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::Idle => "idle",
            Self::Deadline => "deadline",
            Self::Stopped => "shutdown",
        }
    }
}

/// What an answer said of itself, and what of it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by itself"
)]
pub struct Measured {
    /// The last usage reported at an end, or the greatest of several that contradict each other; none if a part of it was
    /// missing or cannot be right.
    pub usage: Option<Usage>,
    /// Without a whole usage: what was reported of it, to be completed by an estimate.
    pub partial_usage: Option<PartialUsage>,
    /// Some usage was reported that cannot be right, whole or in part.
    pub usage_nonsense: bool,
    /// What was generated, of all choices: content, refusals, visible reasoning, names and arguments of tool calls.
    pub text: String,
    /// There was more text than [`TEXT_BYTES_MAX`], or it cannot be read; `text` is its beginning.
    pub text_overflow: bool,
    /// The model that the upstream says it used.
    pub model: Option<String>,
    /// The service tier that the upstream says it used.
    pub service_tier: Option<String>,
    /// Every choice that began has ended, and there is one.
    pub finished: bool,
    /// A stream was seen to its end: what its API ends it by, or the end of the body with every choice finished.
    pub done: bool,
    /// It is an answer of the API that was asked, such as a chat completion: an object with `choices`.
    pub is_completion: bool,
    /// The upstream said that it failed, in whatever shape. Without `text` and usage it failed before any content.
    pub is_error: bool,
    /// A choice ended because a cap was reached: more may have been generated than was shown.
    pub cap_reached: bool,
    /// A choice ended because its output was filtered: more may have been generated than was shown.
    pub filtered: bool,
    /// Some reasoning was done that is not in `text`: it was reported in tokens, or shown encrypted or as a summary. An
    /// estimate by `text` would be too low.
    pub hidden_reasoning: bool,
    /// How many events carried text; with 0 nothing that was generated was delivered.
    pub content_events: u64,
}

impl Measured {
    /// Text that was generated.
    fn deliver(&mut self, text: &str) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let fitting = text
            .get(..text.floor_char_boundary(room))
            .unwrap_or_default();
        self.text.push_str(fitting);
        self.text_overflow |= fitting.len() < text.len();
    }
}

/// How an answer to a stream is written.
#[derive(Clone, Debug, Default)]
enum Form {
    /// Nothing of it was seen yet.
    #[default]
    Unknown,
    /// Server-sent events.
    Events,
    /// One piece, and as much of it as was seen.
    Whole(Vec<u8>),
}

/// Watches one streamed answer, also one that comes in one piece: the caller gets events.
#[derive(Debug)]
pub struct Meter {
    start: Start,
    form: Form,
    splitter: Splitter,
    reader: Box<dyn EventReader>,
    /// What came could not be looked into, or not yet: more may have been generated than was seen.
    is_unseen: bool,
}

impl Meter {
    /// A meter of a stream of chat completions; `wants_usage` says whether the caller asked for the usage-only chunk.
    #[must_use]
    pub fn chat(wants_usage: bool) -> Self {
        Self::new(Watch::new(wants_usage))
    }

    /// A meter of a stream of Anthropic's messages. `keeps_for_an_hour`: something of the request is to be; an error is
    /// told with `request_id`.
    #[must_use]
    pub fn messages(keeps_for_an_hour: bool, request_id: Uuid) -> Self {
        Self::new(MessagesReader::new(keeps_for_an_hour, request_id))
    }

    /// A meter of a stream of OpenAI's responses.
    #[must_use]
    pub fn responses() -> Self {
        Self::new(ResponseWatch::default())
    }

    /// A meter of a stream of images.
    #[must_use]
    pub fn images(order: ImageOrder) -> Self {
        Self::new(ImageReader::new(order))
    }

    /// A meter of a stream of a transcript, of which so much is known.
    #[must_use]
    pub fn transcript(bound: TranscriptBound) -> Self {
        Self::new(TranscriptWatch::new(bound))
    }

    /// A meter of a stream whose events `reader` reads.
    fn new(reader: impl EventReader + 'static) -> Self {
        Self {
            start: Start::default(),
            form: Form::default(),
            splitter: Splitter::new(reader.event_bytes_max()),
            reader: Box::new(reader),
            is_unseen: false,
        }
    }

    /// Reads the next bytes of the upstream, and appends to `out` what the caller is to get of them.
    ///
    /// # Errors
    /// The stream is not to be read on. What was appended before is still the caller's.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Self {
            start,
            splitter,
            reader,
            form,
            is_unseen,
        } = self;
        if reader.is_closed() {
            return Ok(());
        }
        if start.is_compressed_with(chunk) {
            *is_unseen = true;
            return Err(Fault::Compressed);
        }
        if matches!(form, Form::Unknown) {
            *form = form_of(chunk);
            // What a whole answer cost is not known before all of it is there.
            *is_unseen = matches!(form, Form::Whole(_));
        }
        if let Form::Whole(body) = form {
            let most = WHOLE_BYTES_MAX.max(reader.event_bytes_max());
            if body.len().saturating_add(chunk.len()) > most {
                return Err(Fault::EventTooLarge);
            }
            // The white space before it is no part of it, in whatever pieces it comes.
            body.extend_from_slice(if body.is_empty() {
                past_blanks(chunk)
            } else {
                chunk
            });
            return Ok(());
        }
        let read = splitter.push(chunk, |event| reader.event(event, out));
        if read.is_err() && reader.is_waiting() {
            reader.close(out);
            return Ok(());
        }
        read
    }

    /// The upstream has ended its body in good order.
    ///
    /// # Errors
    /// [`Fault::Cut`] where that is not the end of the answer, or what the last bytes say.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        let Self {
            splitter,
            reader,
            form,
            is_unseen,
            ..
        } = self;
        if let Form::Whole(body) = form {
            let body = std::mem::take(body);
            *is_unseen = false;
            if reader.is_closed() {
                return Ok(());
            }
            return reader.whole(&body, out);
        }
        let last = splitter.finish(|event| reader.event(event, out));
        reader.finish(last, out)
    }

    /// The caller has all that it gets.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reader.is_closed()
    }

    /// The end has come, and is held back for the usage, which some servers send after it. Only a moment is to be waited
    /// for that: then [`Self::close`].
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.reader.is_waiting()
    }

    /// Ends the waiting: the end goes to the caller.
    pub fn close(&mut self, out: &mut BytesMut) {
        self.reader.close(out);
    }

    /// Tells the caller that its answer ends here, and why.
    pub fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        self.reader.fail(fault, out);
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        let whole = if let Form::Whole(body) = &self.form {
            body.capacity()
        } else {
            0
        };
        self.splitter
            .held()
            .saturating_add(whole)
            .saturating_add(self.reader.bytes_held())
    }

    /// What is known so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.with_unseen(self.reader.measured())
    }

    /// What is known at the end.
    #[must_use]
    pub fn into_measured(mut self) -> Measured {
        let measured = self.reader.take_measured();
        self.with_unseen(measured)
    }

    const fn with_unseen(&self, mut measured: Measured) -> Measured {
        measured.text_overflow |= self.is_unseen;
        measured
    }
}

/// JSON begins so that no stream of events does.
fn form_of(chunk: &[u8]) -> Form {
    match past_blanks(chunk).first() {
        None => Form::Unknown,
        Some(b'{' | b'[') => Form::Whole(Vec::new()),
        Some(_) => Form::Events,
    }
}

/// Without what may stand before an answer.
fn past_blanks(chunk: &[u8]) -> &[u8] {
    let begins = chunk
        .iter()
        .position(|byte| !BEFORE_AN_ANSWER.contains(byte));
    begins
        .and_then(|begins| chunk.get(begins..))
        .unwrap_or_default()
}

/// Reads usage and text off a whole answer.
#[must_use]
pub fn measure_json(body: &[u8]) -> Measured {
    let mut watch = Watch::default();
    watch.read_whole(body);
    watch.judged()
}
