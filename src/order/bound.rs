//! How many tokens a prompt can be billed as.
//!
//! Nobody outside the provider sees the text that the model reads: messages are framed, tools and schemas are rewritten.
//! So a prompt is weighed in two parts. *Texts* are what the caller wrote: counted by the model's tokenizer, or, cheaply,
//! as bytes: every token of a byte-level vocabulary stands for at least one byte. *Fixed* is what the framing can add, by
//! the constants below. Both are the same walk over the same request, so the cheap bound is never below the other.

use crate::price::Tokenizer;
use crate::tokens;

use super::image;
use super::json_text::{Shape, escapes};
use super::schema::{Json, Schema};
use super::wire::{Function, JsonSchema, Message, Part, Request, TextOr, ToolCall};

/// What a provider's framing may add, in tokens.
struct Frame {
    /// What every request opens with, and the start of the answer.
    request: u64,
    /// Role and delimiters of a message.
    message: u64,
    /// One part of a message.
    part: u64,
    /// The envelope of a call of a tool: recipient, delimiters, its type.
    tool_call: u64,
    /// What is said around all tools.
    tools: u64,
    /// The envelope of one tool.
    tool: u64,
    /// The heading over an answer's schema.
    format: u64,
}

/// OpenAI bills 3 tokens for the start of the answer and 3 or 4 a message; the renderer that it has published (of
/// gpt-oss) opens with some 60 of its own, a call has some 12, all tools some 40, one tool some 12.
const KNOWN: Frame = Frame { request: 96, message: 16, part: 4, tool_call: 24, tools: 160, tool: 24, format: 64 };
/// Templates of open models open with up to several hundred tokens (dates, channels, a default system prompt) and some
/// print messages, parts, calls and tools as JSON: the bytes of `{"type": "text", "text": ""}, ` and its like.
const UNKNOWN: Frame =
    Frame { request: 1024, message: 32, part: 32, tool_call: 128, tools: 512, tool: 192, format: 64 };
/// For each line of a description, which may be marked as a comment.
const COMMENT: u64 = 3;
/// The blanks of one level of indentation, as bytes. A count takes them for one token: every vocabulary of 32,000 words
/// or more that was looked at knows at least runs of four blanks.
const INDENTATION: u64 = 4;

/// The margin on a count: one part in 32. Texts are counted one by one; glued to their framing, a few tokens at the seams
/// may fall otherwise. Where the tokenizer is not known, the count is that of the dearest known vocabulary.
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
        let count = |text: &str| tokens::bytes_bound(tokenizer, text);
        Scale { model, unknown: tokenizer == Tokenizer::Unknown, count: &count, level: INDENTATION }.request(request)
    }

    /// Weighs a prompt as it will most likely be billed. Takes time with the length of the prompt.
    pub(super) fn likely(request: &Request, model: &str, tokenizer: Tokenizer) -> Self {
        Self::counted(request, model, tokenizer, &|text| tokens::count(tokenizer, text))
    }

    /// Weighs a prompt by whatever `count` says of its texts, in tokens.
    pub(super) fn counted(request: &Request, model: &str, tokenizer: Tokenizer, count: &dyn Fn(&str) -> u64) -> Self {
        Scale { model, unknown: tokenizer == Tokenizer::Unknown, count, level: 1 }.request(request)
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
    /// What one level of indentation counts as.
    level: u64,
}

impl Scale<'_> {
    fn frame(&self) -> &'static Frame {
        if self.unknown { &UNKNOWN } else { &KNOWN }
    }

    fn request(&self, request: &Request) -> Weight {
        let frame = self.frame();
        let functions = || request.tools.iter().flat_map(|list| &list.0).filter_map(|tool| tool.function.as_ref());
        let tools = sum(functions().map(|function| self.function(function)));
        let schema = request.response_format.as_ref().and_then(|format| format.json_schema.as_ref());
        sum([
            Weight::fixed(frame.request),
            self.messages(request),
            tools,
            Weight::fixed(if request.tools.is_some() { frame.tools } else { 0 }),
            Weight::fixed(if request.response_format.is_some() { frame.format } else { 0 }),
            schema.map(|schema| self.json_schema(schema)).unwrap_or_default(),
            self.tool_choice(request),
        ])
    }

    /// A template may name the function at each answer of a tool: any of those that were called.
    fn messages(&self, request: &Request) -> Weight {
        let messages = || request.messages.iter().flat_map(|list| &list.0);
        let calls = messages().flat_map(|message| &message.tool_calls).flat_map(|list| &list.0);
        let names = calls.filter_map(|call| call.function.as_ref()?.name.as_deref());
        let longest = names.max_by_key(|name| name.len()).map_or(0, |name| tokens::bytes_bound(Tokenizer::O200k, name));
        let answers = messages().filter(|message| is_tool(message)).count();
        let answers = u64::try_from(answers).unwrap_or(u64::MAX).saturating_mul(longest);
        sum(messages().map(|message| self.message(message))).plus(Weight::fixed(answers))
    }

    fn message(&self, message: &Message) -> Weight {
        let frame = Weight { messages: 1, ..Weight::fixed(self.frame().message) };
        let is_tool = is_tool(message);
        let content = match &message.content {
            None => Weight::default(),
            Some(TextOr::Text(text)) if is_tool => self.quoted(text),
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
        let framed = |text: &String| self.text(text).plus(Weight::fixed(self.frame().message));
        let texts = sum(texts.into_iter().flatten().map(framed));
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
        form.map(|form| self.json(form.text()).plus(Weight::fixed(self.frame().message))).unwrap_or_default()
    }

    fn part(&self, part: &Part, is_tool: bool) -> Weight {
        let text = part.text.as_deref().unwrap_or_default();
        let text = if is_tool { self.quoted(text) } else { self.text(text) };
        let images = part.image_url.as_ref().map_or(0, |image| image::tokens_max(self.model, !self.unknown, image));
        let image = Weight { images, ..Weight::default() };
        let thoughts = self.form(part.thinking.as_ref()).plus(self.optional(part.signature.as_deref()));
        sum([Weight::fixed(self.frame().part), text, self.optional(part.refusal.as_deref()), image, thoughts])
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
        let arguments = if self.unknown { self.json(arguments) } else { self.text(arguments) };
        sum([Weight::fixed(self.frame().tool_call), texts, name, forms, arguments])
    }

    fn function(&self, function: &Function) -> Weight {
        let name = self.optional(function.name.as_deref());
        let description = self.description(function.description.as_deref());
        sum([Weight::fixed(self.frame().tool), name, description, self.schema(function.parameters.as_ref())])
    }

    fn json_schema(&self, format: &JsonSchema) -> Weight {
        let name = self.optional(format.name.as_deref());
        sum([name, self.description(format.description.as_deref()), self.schema(format.schema.as_ref())])
    }

    fn tool_choice(&self, request: &Request) -> Weight {
        match &request.tool_choice {
            Some(TextOr::Other(choice)) => {
                let name = choice.function.as_ref().and_then(|function| function.name.as_deref());
                Weight::fixed(self.frame().tool).plus(self.optional(name))
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
        let lines = text.bytes().filter(|byte| *byte == b'\n').count();
        let lines = u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1);
        self.quoted(text).plus(Weight::fixed(lines.saturating_mul(COMMENT)))
    }

    fn schema(&self, schema: Option<&Schema>) -> Weight {
        schema.map(|schema| self.json(schema.text())).unwrap_or_default()
    }

    /// JSON that is printed anew. OpenAI's renderer shows the description of an object twice: beside its name, and within.
    fn json(&self, text: &str) -> Weight {
        let mut again = Weight::default();
        let shape = Shape::of(text, &mut |description| again = again.plus(self.text(description)));
        if !self.unknown {
            return sum([self.text(text), again, Weight::fixed(shape.known)]);
        }
        let indentation = shape.levels.saturating_mul(self.level);
        let longer = [shape.gaps, indentation, shape.longer].into_iter().fold(0, u64::saturating_add);
        self.text(text).plus(Weight::fixed(longer))
    }

    /// Text that an unknown template may print within JSON.
    fn quoted(&self, text: &str) -> Weight {
        let escapes = if self.unknown { escapes(text) } else { 0 };
        self.text(text).plus(Weight::fixed(escapes))
    }
}

fn is_tool(message: &Message) -> bool {
    message.role.as_deref() == Some("tool")
}
