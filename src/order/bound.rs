//! How many tokens a prompt can be billed as.
//!
//! Nobody outside the provider sees the text that the model reads: messages are framed, tools and schemas are rewritten.
//! So a prompt is weighed in two parts. *Texts* are what the caller wrote: counted by the model's tokenizer, or, cheaply,
//! as bytes: every token of a byte-level vocabulary stands for at least one byte. *Fixed* is what the framing can add, by
//! the constants below. Both are the same walk over the same request, so the cheap bound is never below the other.

use crate::price::Tokenizer;
use crate::tokens;

use super::image;
use super::schema::{Json, Schema};
use super::wire::{Function, JsonSchema, Message, Part, Request, TextOr, ToolCall};

/// What every request may be framed with. OpenAI bills 3 tokens for the start of the answer.
const REQUEST: u64 = 64;
/// The same on a server whose template is not known: templates of open models open with up to several hundred tokens of
/// instructions of their own (dates, channels, tool protocols, a default system prompt).
const REQUEST_UNKNOWN: u64 = 1024;
/// Role and delimiters of a message. OpenAI bills 3 or 4; templates of open models use up to about ten.
const MESSAGE: u64 = 16;
/// Between two parts of a message.
const PART: u64 = 4;
/// The envelope of a call of a tool: recipient, delimiters, its type.
const TOOL_CALL: u64 = 24;
/// The frame around all tools: OpenAI's is a namespace of some 20 tokens, with parallel calls some 100.
const TOOLS: u64 = 160;
/// The envelope of one tool. OpenAI's is `type name = (_: {…}) => any;`: some 12 tokens.
const TOOL: u64 = 24;
/// The heading over an answer's schema.
const FORMAT: u64 = 64;
/// For each structural mark of a schema, beyond its own bytes. OpenAI shows a schema as a TypeScript type:
/// `{"city":{"type":"string","description":"…"}}` becomes `// …⏎city?: string,⏎`. Every member and item keeps its words;
/// what is added (a comment mark, a question mark, a `|`, a line break, indentation: blanks are few tokens) comes once for
/// each brace, bracket, comma or colon, or for each line of a description, where the JSON has a backslash.
/// References are assumed to be shown as such and not to be expanded.
const MARK: u64 = 3;
/// On unknown templates, text within JSON may be printed as JSON again, safe for HTML: one byte becomes up to six.
const ESCAPE: u64 = 5;

/// The margin on a tokenizer's count: one part in 32. Texts are counted one by one; glued to their framing, a few tokens
/// at the seams may fall otherwise.
const MARGIN_DIVISOR: u64 = 32;

/// A prompt's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// What the caller wrote, in tokens or bytes.
    texts: u64,
    /// What framing may add, in tokens.
    fixed: u64,
    /// What images are billed as at most, in tokens.
    images: u64,
    messages: u64,
}

impl Weight {
    /// Weighs a prompt with bytes for tokens.
    pub(super) fn in_bytes(request: &Request, model: &str, tokenizer: Tokenizer) -> Self {
        let scale = Scale { model, unknown: tokenizer == Tokenizer::Unknown, count: &tokens::bytes_bound };
        scale.request(request)
    }

    /// Weighs a prompt with its tokenizer. Takes time with the length of the prompt.
    pub(super) fn in_tokens(request: &Request, model: &str, tokenizer: Tokenizer) -> Self {
        Self::counted(request, model, tokenizer, &|text| tokens::count(tokenizer, text))
    }

    /// Weighs a prompt by whatever `count` says of its texts.
    pub(super) fn counted(request: &Request, model: &str, tokenizer: Tokenizer, count: &dyn Fn(&str) -> u64) -> Self {
        Scale { model, unknown: tokenizer == Tokenizer::Unknown, count }.request(request)
    }

    /// The bound, where `texts` is an upper bound by itself.
    pub(super) fn bound(self) -> u64 {
        self.texts.saturating_add(self.fixed).saturating_add(self.images)
    }

    /// The bound, where `texts` is a count.
    pub(super) fn bound_with_margin(self) -> u64 {
        self.bound().saturating_add(self.texts.div_ceil(MARGIN_DIVISOR))
    }

    /// What will most likely be billed: OpenAI's framing is 3 tokens a message and 3 for the answer.
    pub(super) fn estimate(self) -> u64 {
        let framing = self.messages.saturating_add(1).saturating_mul(3);
        self.texts.saturating_add(self.images).saturating_add(framing)
    }

    fn fixed(fixed: u64) -> Self {
        Self { fixed, ..Self::default() }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            texts: self.texts.saturating_add(other.texts),
            fixed: self.fixed.saturating_add(other.fixed),
            images: self.images.saturating_add(other.images),
            messages: self.messages.saturating_add(other.messages),
        }
    }
}

fn sum(weights: impl IntoIterator<Item = Weight>) -> Weight {
    weights.into_iter().fold(Weight::default(), Weight::plus)
}

/// Walks a request. Everything that may end up in the prompt is on this path.
struct Scale<'a> {
    model: &'a str,
    /// The template that frames the prompt is not known.
    unknown: bool,
    count: &'a dyn Fn(&str) -> u64,
}

impl Scale<'_> {
    fn request(&self, request: &Request) -> Weight {
        let frame = Weight::fixed(if self.unknown { REQUEST_UNKNOWN } else { REQUEST });
        let messages = sum(request.messages.iter().flat_map(|list| &list.0).map(|message| self.message(message)));
        let functions = || request.tools.iter().flat_map(|list| &list.0).filter_map(|tool| tool.function.as_ref());
        let tools = sum(functions().map(|function| self.function(function)));
        let around_tools = Weight::fixed(if request.tools.is_some() { TOOLS } else { 0 });
        let schema = request.response_format.as_ref().and_then(|format| format.json_schema.as_ref());
        let format = Weight::fixed(if request.response_format.is_some() { FORMAT } else { 0 });
        sum([
            frame,
            messages,
            tools,
            around_tools,
            format,
            schema.map(|schema| self.json_schema(schema)).unwrap_or_default(),
        ])
        .plus(self.tool_choice(request))
    }

    fn message(&self, message: &Message) -> Weight {
        let frame = Weight { messages: 1, ..Weight::fixed(MESSAGE) };
        let is_tool = message.role.as_deref() == Some("tool");
        let content = match &message.content {
            None => Weight::default(),
            Some(TextOr::Text(text)) if is_tool => self.json_text(text),
            Some(TextOr::Text(text)) => self.text(text),
            Some(TextOr::Other(parts)) => sum(parts.0.iter().map(|part| self.part(part, is_tool))),
        };
        let names = [&message.name, &message.refusal, &message.tool_call_id];
        let names = sum(names.into_iter().map(|name| self.optional(name.as_deref())));
        let calls = sum(message.tool_calls.iter().flat_map(|list| &list.0).map(|call| self.tool_call(call)));
        sum([frame, content, names, calls, self.thoughts(message)])
    }

    /// What a server thought and gets back, each with a frame of its own.
    fn thoughts(&self, message: &Message) -> Weight {
        let texts = [&message.reasoning, &message.reasoning_content];
        let texts = sum(texts.into_iter().flatten().map(|text| self.text(text).plus(Weight::fixed(MESSAGE))));
        let forms = [
            &message.reasoning_details,
            &message.thinking_blocks,
            &message.extra_content,
            &message.provider_specific_fields,
        ];
        texts.plus(sum(forms.into_iter().map(|form| self.form(form.as_ref()))))
    }

    /// JSON of a server's own.
    fn form(&self, form: Option<&Json>) -> Weight {
        form.map(|form| self.document(form.text()).plus(Weight::fixed(MESSAGE))).unwrap_or_default()
    }

    fn part(&self, part: &Part, is_tool: bool) -> Weight {
        let text = part.text.as_deref().unwrap_or_default();
        let text = if is_tool { self.json_text(text) } else { self.text(text) };
        let images = part.image_url.as_ref().map_or(0, |image| image::tokens_max(self.model, image));
        let image = Weight { images, ..Weight::default() };
        let thoughts = self.form(part.thinking.as_ref()).plus(self.optional(part.signature.as_deref()));
        sum([Weight::fixed(PART), text, self.optional(part.refusal.as_deref()), image, thoughts])
    }

    fn tool_call(&self, call: &ToolCall) -> Weight {
        let function = call.function.as_ref();
        let name = self.optional(function.and_then(|function| function.name.as_deref()));
        let arguments = function.and_then(|function| function.arguments.as_deref()).unwrap_or_default();
        let of_function = function.and_then(|function| function.provider_specific_fields.as_ref());
        let forms = [call.extra_content.as_ref(), call.provider_specific_fields.as_ref(), of_function];
        let forms = sum(forms.into_iter().map(|form| self.form(form)));
        let of_function = function.and_then(|function| function.thought_signature.as_deref());
        let texts = [call.id.as_deref(), call.thought_signature.as_deref(), of_function];
        let texts = sum(texts.into_iter().map(|text| self.optional(text)));
        sum([Weight::fixed(TOOL_CALL), texts, name, forms, self.json_text(arguments)])
    }

    fn function(&self, function: &Function) -> Weight {
        let name = self.optional(function.name.as_deref());
        let description = self.description(function.description.as_deref());
        sum([Weight::fixed(TOOL), name, description, self.schema(function.parameters.as_ref())])
    }

    fn json_schema(&self, format: &JsonSchema) -> Weight {
        let name = self.optional(format.name.as_deref());
        sum([name, self.description(format.description.as_deref()), self.schema(format.schema.as_ref())])
    }

    fn tool_choice(&self, request: &Request) -> Weight {
        match &request.tool_choice {
            Some(TextOr::Other(choice)) => {
                let name = choice.function.as_ref().and_then(|function| function.name.as_deref());
                Weight::fixed(TOOL).plus(self.optional(name))
            }
            _ => Weight::default(),
        }
    }

    fn text(&self, text: &str) -> Weight {
        Weight { texts: (self.count)(text), ..Weight::default() }
    }

    fn optional(&self, text: Option<&str>) -> Weight {
        text.map(|text| self.text(text)).unwrap_or_default()
    }

    /// Text of which each line may be marked as a comment.
    fn description(&self, text: Option<&str>) -> Weight {
        let text = text.unwrap_or_default();
        let lines = occurrences(text, |byte| byte == b'\n').saturating_add(1);
        self.json_text(text).plus(Weight::fixed(lines.saturating_mul(MARK)))
    }

    fn schema(&self, schema: Option<&Schema>) -> Weight {
        schema.map(|schema| self.document(schema.text())).unwrap_or_default()
    }

    /// JSON that may be written anew in another form.
    fn document(&self, json: &str) -> Weight {
        let marks = occurrences(json, |byte| matches!(byte, b'{' | b'[' | b',' | b':' | b'\\'));
        self.json_text(json).plus(Weight::fixed(marks.saturating_mul(MARK)))
    }

    /// Text that an unknown template may print within JSON.
    fn json_text(&self, text: &str) -> Weight {
        let is_escaped =
            |byte: u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | b'\'');
        let escapes = if self.unknown { occurrences(text, is_escaped).saturating_mul(ESCAPE) } else { 0 };
        self.text(text).plus(Weight::fixed(escapes))
    }
}

fn occurrences(text: &str, of: impl Fn(u8) -> bool) -> u64 {
    u64::try_from(text.bytes().filter(|byte| of(*byte)).count()).unwrap_or(u64::MAX)
}
