//! Reads usage and delivered text off a passing answer.
//!
//! It knows OpenAI's chat completions, streamed and whole, and what compatible servers make of them; it does not know prices,
//! plans or who asked. Payloads pass byte for byte, the framing is ours. What the upstream says is judged strictly: a
//! count that cannot be right is no count, and the owner estimates instead. What cannot be read is left out and ends
//! nothing. Invariant: memory is bounded whatever the upstream sends.

pub mod body;
mod chat;
mod chunks;
pub mod compressed;
mod lenient;
mod mend;
pub mod sse;
mod text;
mod usage;
mod watch;
pub mod whole;

use bytes::{BufMut, BytesMut};

use self::compressed::Start;
use self::sse::Splitter;
pub use self::usage::PartialUsage;
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
            Self::Idle | Self::Deadline => {
                Refusal::new(Code::UpstreamTimeout, "The model's provider did not finish in time.")
            }
            Self::Stopped => Refusal::new(Code::Overloaded, "The server is stopping; try again in a moment."),
            _ => Refusal::new(Code::UpstreamError, "The model's provider failed in mid-answer."),
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
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each asked for by itself")]
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
    /// Every choice that began has a `finish_reason`, and there is one.
    pub finished: bool,
    /// A stream was seen to its end: `[DONE]`, or the end of the body with every choice finished.
    pub done: bool,
    /// It is a chat completion: an object with `choices`.
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
#[derive(Clone, Debug)]
pub struct Meter {
    start: Start,
    form: Form,
    splitter: Splitter,
    watch: Watch,
}

impl Meter {
    /// A meter of a stream; `wants_usage` says whether the caller asked for the usage-only chunk.
    #[must_use]
    pub fn new(wants_usage: bool) -> Self {
        Self {
            start: Start::default(),
            form: Form::default(),
            splitter: Splitter::default(),
            watch: Watch::new(wants_usage),
        }
    }

    /// Reads the next bytes of the upstream, and appends to `out` what the caller is to get of them.
    ///
    /// # Errors
    /// The stream is not to be read on. What was appended before is still the caller's.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Self { start, splitter, watch, form } = self;
        if watch.is_closed() {
            return Ok(());
        }
        if start.is_compressed_with(chunk) {
            watch.measured.text_overflow = true;
            return Err(Fault::Compressed);
        }
        if matches!(form, Form::Unknown) {
            *form = form_of(chunk);
            // What a whole answer cost is not known before all of it is there.
            watch.measured.text_overflow = matches!(form, Form::Whole(_));
        }
        if let Form::Whole(body) = form {
            if body.len().saturating_add(chunk.len()) > WHOLE_BYTES_MAX {
                return Err(Fault::EventTooLarge);
            }
            body.extend_from_slice(chunk);
            return Ok(());
        }
        let read = splitter.push(chunk, |event| watch.event(event, out));
        if read.is_err() && watch.is_waiting() {
            watch.close(out);
            return Ok(());
        }
        read
    }

    /// The upstream has ended its body in good order. Without `[DONE]` that is the end of the stream if every choice is
    /// finished; then the `[DONE]` is added.
    ///
    /// # Errors
    /// [`Fault::Cut`], or what the last bytes say.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        if let Form::Whole(body) = &mut self.form {
            let body = std::mem::take(body);
            return self.finish_whole(&body, out);
        }
        let Self { splitter, watch, .. } = self;
        let last = splitter.finish(|event| watch.event(event, out));
        if last == Err(Fault::Upstream) && !watch.measured.done {
            return last;
        }
        if !watch.measured.done && !watch.is_finished() {
            return Err(Fault::Cut);
        }
        watch.close(out);
        Ok(())
    }

    /// The whole answer is there: a completion, or events that are one a line and nothing else.
    fn finish_whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Self { watch, .. } = self;
        if watch.is_closed() {
            return Ok(());
        }
        let mut whole = Watch::new(watch.wants_usage);
        let is_object = whole.whole(body);
        if !is_object && body.contains(&b'\n') {
            watch.measured.text_overflow = false;
            return watch.lines(body, out);
        }
        let events = chunks::of_whole(body, watch.wants_usage).filter(|_| whole.measured.is_completion);
        *watch = whole;
        match events {
            Some(events) => {
                out.put_slice(&events);
                watch.close(out);
                Ok(())
            }
            None => Err(if watch.measured.is_error { Fault::Upstream } else { Fault::Nonsense }),
        }
    }

    /// The caller has all that it gets.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.watch.is_closed()
    }

    /// `[DONE]` has come, and is held back for the usage, which some servers send after it. Only a moment is to be waited
    /// for that: then [`Self::close`].
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.watch.is_waiting()
    }

    /// Ends the waiting: the `[DONE]` goes to the caller.
    pub fn close(&mut self, out: &mut BytesMut) {
        self.watch.close(out);
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        let whole = if let Form::Whole(body) = &self.form { body.capacity() } else { 0 };
        self.splitter.held().saturating_add(whole).saturating_add(self.watch.measured.text.capacity())
    }

    /// What is known so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.watch.clone().judged()
    }

    /// What is known at the end.
    #[must_use]
    pub fn into_measured(self) -> Measured {
        self.watch.judged()
    }
}

/// JSON begins so that no stream of events does.
fn form_of(chunk: &[u8]) -> Form {
    match chunk.iter().find(|byte| !BEFORE_AN_ANSWER.contains(byte)) {
        None => Form::Unknown,
        Some(b'{' | b'[') => Form::Whole(Vec::new()),
        Some(_) => Form::Events,
    }
}

/// Reads usage and text off a whole answer.
#[must_use]
pub fn measure_json(body: &[u8]) -> Measured {
    let mut watch = Watch::default();
    watch.whole(body);
    watch.judged()
}

#[cfg(test)]
mod tests;
