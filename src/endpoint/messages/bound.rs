//! How many tokens a prompt can be billed as.
//!
//! The tokenizers of Anthropic's models are not public, and neither is how a prompt is framed. So *texts* are bounded by
//! their bytes, or, more closely, as those of a vocabulary that is not known (`price::tokenizer`), and half of that on top:
//! the later models of Anthropic make up to 1.35 times as many tokens of a text as the earlier ones, which that rule
//! covers. *Fixed* is what the framing may add, by the constants below. Both bounds are the same walk over the same
//! request, so the cheap one is never below the other.

use super::image;
use super::wire::{Block, InnerBlock, Message, Request, Source, Tool, inner};
use crate::endpoint::json::{List, TextOr};
use crate::endpoint::json_text::{Shape, escapes};
use crate::model::Tokenizer;
use crate::price::tokenizer;

/// What counts texts, whatever the settings say of a model.
const TOKENIZER: Tokenizer = Tokenizer::Unknown;

/// What every request may open with. (`count_tokens` says 8 of "Hello".)
const REQUEST: u64 = 64;
/// Role and delimiters of a message, and of the system prompt.
const MESSAGE: u64 = 16;
/// The envelope of a block.
const BLOCK: u64 = 16;
/// The envelope of a call of a tool, and of its result.
const CALL: u64 = 64;
/// What is said about tools as such: up to 530 tokens, by Anthropic's page on tool use.
const TOOLS: u64 = 1024;
/// The envelope of one tool.
const TOOL: u64 = 64;
/// One of Anthropic's own client tools, whose description nobody sees: an editor is 700 tokens, by the same page.
const CLIENT_TOOL: u64 = 4096;
/// What is said about a model's thinking, or the form of its answer.
const ADVICE: u64 = 256;
/// The blanks of one level of indentation, as bytes. A count takes them for one token.
const INDENTATION: u64 = 4;

/// A prompt's weight, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PromptWeight {
    /// What the caller wrote.
    texts: u64,
    /// What framing may add, and pictures.
    fixed: u64,
}

impl PromptWeight {
    /// With bytes for tokens: a bound by itself.
    pub(super) fn in_bytes(request: &Request) -> u64 {
        let count = |text: &str| tokenizer::bytes_bound(TOKENIZER, text);
        let Self { texts, fixed } = Scale {
            count: &count,
            level: INDENTATION,
        }
        .request(request);
        texts.saturating_add(fixed)
    }

    /// By whatever `count` says of its texts, in tokens.
    fn counted(request: &Request, count: &dyn Fn(&str) -> u64) -> Self {
        Scale { count, level: 1 }.request(request)
    }

    /// The closer bound, and its margin; none where there are more than `most`.
    pub(super) fn narrow(request: &Request, most: u64) -> Option<u64> {
        tokenizer::bound_of_all(TOKENIZER, most, |count| {
            Self::counted(request, count).with_margin()
        })
    }

    /// The closer bound is at least this, however the prompt reads.
    pub(super) fn least(request: &Request) -> u64 {
        let least = |text: &str| tokenizer::least(TOKENIZER, text);
        Self::counted(request, &least).with_margin()
    }

    /// What will most likely be billed.
    pub(super) fn likely(request: &Request) -> u64 {
        let count = |text: &str| tokenizer::count(TOKENIZER, text);
        let Self { texts, fixed } = Self::counted(request, &count);
        texts.saturating_add(fixed)
    }

    const fn with_margin(self) -> u64 {
        let margin = self.texts.div_ceil(2);
        self.texts.saturating_add(self.fixed).saturating_add(margin)
    }

    const fn fixed(fixed: u64) -> Self {
        Self { texts: 0, fixed }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            texts: self.texts.saturating_add(other.texts),
            fixed: self.fixed.saturating_add(other.fixed),
        }
    }
}

fn sum(weights: impl IntoIterator<Item = PromptWeight>) -> PromptWeight {
    weights
        .into_iter()
        .fold(PromptWeight::default(), PromptWeight::plus)
}

/// Bytes of what is never counted closer: signed or encrypted thoughts, of which each byte stands for at most a byte.
fn bytes(text: Option<&str>) -> PromptWeight {
    let bytes = text.map_or(0, str::len);
    PromptWeight::fixed(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Walks a request. Everything that may end up in the prompt is on this path.
struct Scale<'a> {
    count: &'a dyn Fn(&str) -> u64,
    /// What one level of indentation counts as.
    level: u64,
}

impl Scale<'_> {
    fn request(&self, request: &Request) -> PromptWeight {
        let messages = request.messages.iter().flat_map(|messages| &messages.0);
        let tools = request.tools.iter().flat_map(|tools| &tools.0);
        let has_tools = request
            .tools
            .as_ref()
            .is_some_and(|tools| !tools.0.is_empty());
        let choice = request.tool_choice.as_ref();
        let format = request
            .output_config
            .as_ref()
            .and_then(|config| config.format.as_ref());
        let schema = format.and_then(|format| format.schema.as_ref());
        let said = [
            Some(REQUEST),
            request.system.as_ref().map(|_| MESSAGE),
            has_tools.then_some(TOOLS),
            request.thinking.as_ref().map(|_| ADVICE),
            format.map(|_| ADVICE),
        ];
        sum([
            sum(said.into_iter().flatten().map(PromptWeight::fixed)),
            self.system(request),
            sum(messages.map(|message| self.message(message))),
            sum(tools.map(|tool| self.tool(tool))),
            self.optional(choice.and_then(|choice| choice.name.as_deref())),
            schema
                .map(|schema| self.json(schema.text()))
                .unwrap_or_default(),
        ])
    }

    fn system(&self, request: &Request) -> PromptWeight {
        match &request.system {
            None => PromptWeight::default(),
            Some(TextOr::Text(text)) => self.text(text),
            Some(TextOr::Other(blocks)) => {
                let texts = blocks.0.iter().map(|block| {
                    let text = self.optional(block.text.as_deref());
                    text.plus(PromptWeight::fixed(BLOCK))
                });
                sum(texts)
            }
        }
    }

    fn message(&self, message: &Message) -> PromptWeight {
        let text = match &message.content {
            Some(TextOr::Text(text)) => self.text(text),
            _ => PromptWeight::default(),
        };
        let blocks = message.blocks().iter().map(|block| self.block(block));
        sum([PromptWeight::fixed(MESSAGE), text, sum(blocks)])
    }

    fn block(&self, block: &Block) -> PromptWeight {
        let texts = [&block.text, &block.title, &block.context, &block.thinking];
        let names = [&block.id, &block.name, &block.tool_use_id];
        let is_call = block.input.is_some() || block.tool_use_id.is_some();
        let input = block.input.as_ref().map(|input| self.json(input.text()));
        sum([
            PromptWeight::fixed(if is_call { CALL } else { BLOCK }),
            sum(texts.map(|text| self.optional(text.as_deref()))),
            sum(names.map(|name| self.optional(name.as_deref()))),
            bytes(block.signature.as_deref()),
            bytes(block.data.as_deref()),
            input.unwrap_or_default(),
            self.content(block.content.as_ref()),
            self.source(block.source.as_deref()),
        ])
    }

    /// A text, or blocks.
    fn content<const MOST: usize>(
        &self,
        content: Option<&TextOr<List<InnerBlock, MOST>>>,
    ) -> PromptWeight {
        let text = match content {
            Some(TextOr::Text(text)) => self.quoted(text),
            _ => PromptWeight::default(),
        };
        let blocks = inner(content).iter().map(|block| self.inner_block(block));
        text.plus(sum(blocks))
    }

    fn inner_block(&self, block: &InnerBlock) -> PromptWeight {
        let text = block.text.as_deref().map(|text| self.quoted(text));
        sum([
            PromptWeight::fixed(BLOCK),
            text.unwrap_or_default(),
            self.optional(block.title.as_deref()),
            self.optional(block.context.as_deref()),
            self.source(block.source.as_deref()),
        ])
    }

    /// A picture, or the text of a document.
    fn source(&self, source: Option<&Source>) -> PromptWeight {
        let Some(source) = source else {
            return PromptWeight::default();
        };
        match source.kind.as_deref() {
            Some("text") => self.optional(source.data.as_deref()),
            Some("content") => self.content(source.content.as_ref()),
            _ => PromptWeight::fixed(image::tokens_max(source)),
        }
    }

    fn tool(&self, tool: &Tool) -> PromptWeight {
        let Some(schema) = &tool.input_schema else {
            return PromptWeight::fixed(CLIENT_TOOL);
        };
        let examples = tool.input_examples.iter().flat_map(|examples| &examples.0);
        sum([
            PromptWeight::fixed(TOOL),
            self.optional(tool.name.as_deref()),
            tool.description
                .as_deref()
                .map(|text| self.quoted(text))
                .unwrap_or_default(),
            self.json(schema.text()),
            sum(examples.map(|example| self.json(example.text()))),
        ])
    }

    fn text(&self, text: &str) -> PromptWeight {
        PromptWeight {
            texts: (self.count)(text),
            fixed: 0,
        }
    }

    fn optional(&self, text: Option<&str>) -> PromptWeight {
        text.map(|text| self.text(text)).unwrap_or_default()
    }

    /// JSON that is printed anew.
    fn json(&self, text: &str) -> PromptWeight {
        let shape = Shape::of(text, &mut |_| ());
        let indentation = shape.levels.saturating_mul(self.level);
        let longer = [shape.gaps, indentation, shape.longer]
            .into_iter()
            .fold(0, u64::saturating_add);
        self.text(text).plus(PromptWeight::fixed(longer))
    }

    /// Text that may be printed within JSON.
    fn quoted(&self, text: &str) -> PromptWeight {
        self.text(text).plus(PromptWeight::fixed(escapes(text)))
    }
}
