//! How many tokens the input of a request can be billed as: a walk over all of it, with [`Scale`].

use crate::endpoint::json::TextOr;
use crate::endpoint::weight::{Scale, Weight, sum};
use crate::model::Tokenizer;
use crate::price::tokenizer;

use super::wire::{ChosenTool, InputItem, ItemPart, OfferedTool, ResponsesBody, TextFormat};

/// Weighs an input with bytes for tokens.
pub(super) fn in_bytes(request: &ResponsesBody, model: &str, tokenizer: Tokenizer) -> Weight {
    Scale::in_bytes(model, tokenizer, |scale| scale.response(request))
}

/// Weighs an input by whatever `count` says of its texts, in tokens.
pub(super) fn counted(
    request: &ResponsesBody,
    model: &str,
    tokenizer: Tokenizer,
    count: &dyn Fn(&str) -> u64,
) -> Weight {
    Scale::counted(model, tokenizer, count).response(request)
}

impl Scale<'_> {
    fn response(&self, request: &ResponsesBody) -> Weight {
        let frame = self.frame();
        let around = |given: bool, weight: u64| Weight::fixed(if given { weight } else { 0 });
        let format = request.text.as_ref().and_then(|text| text.format.as_ref());
        let tools = request.tools.iter().flat_map(|list| &list.0);
        sum([
            Weight::fixed(frame.request),
            self.instructions(request.instructions.as_deref()),
            self.input(request),
            sum(tools.map(|tool| self.tool(tool))),
            around(request.tools.is_some(), frame.tools),
            around(format.is_some(), frame.format),
            format.map(|format| self.format(format)).unwrap_or_default(),
            match &request.tool_choice {
                Some(TextOr::Other(choice)) => self.choice(choice),
                _ => Weight::default(),
            },
        ])
    }

    fn instructions(&self, text: Option<&str>) -> Weight {
        text.map(|text| self.one_message().plus(self.text(text)))
            .unwrap_or_default()
    }

    /// A template may name the tool at each answer of one: any of those that were called.
    fn input(&self, request: &ResponsesBody) -> Weight {
        let items = match &request.input {
            None => return Weight::default(),
            Some(TextOr::Text(text)) => return self.one_message().plus(self.text(text)),
            Some(TextOr::Other(items)) => items.0.as_slice(),
        };
        let names = items.iter().filter_map(|item| item.name.as_deref());
        let longest = names
            .max_by_key(|name| name.len())
            .map_or(0, |name| tokenizer::bytes_bound(Tokenizer::O200k, name));
        let answers = items.iter().filter(|item| item.output.is_some()).count();
        let answers = u64::try_from(answers)
            .unwrap_or(u64::MAX)
            .saturating_mul(longest);
        sum(items.iter().map(|item| self.item(item))).plus(Weight::fixed(answers))
    }

    fn item(&self, item: &InputItem) -> Weight {
        let is_call = item.arguments.is_some() || item.input.is_some();
        let frame = if is_call {
            Weight::fixed(self.frame().tool_call)
        } else {
            self.one_message()
        };
        // An id is a name for a program; what a template of an unknown server prints, nobody knows.
        let id = item.id.as_deref().filter(|_| self.unknown);
        let texts = [id, item.call_id.as_deref(), item.name.as_deref()];
        let texts = sum(texts.into_iter().map(|text| self.optional(text)));
        let arguments = item.arguments.as_deref().unwrap_or_default();
        let arguments = if self.unknown {
            self.json(arguments)
        } else {
            self.text(arguments)
        };
        let input = self.quoted(item.input.as_deref().unwrap_or_default());
        let written = [&item.content, &item.output].map(|list| match list {
            Some(TextOr::Text(text)) if item.output.is_some() => self.quoted(text),
            Some(TextOr::Text(text)) => self.text(text),
            _ => Weight::default(),
        });
        let lists = item.lists().into_iter().flat_map(|(_, parts)| parts);
        let parts = sum(lists.map(|part| self.part_of(part, item.output.is_some())));
        // Sealed reasoning comes back as the tokens that it once was. Its bytes are more than these, as text in base64 is.
        let sealed = item.encrypted_content.as_deref().unwrap_or_default();
        let sealed = Weight::sized(u64::try_from(sealed.len()).unwrap_or(u64::MAX));
        sum([frame, texts, arguments, input, parts, sealed]).plus(sum(written))
    }

    fn part_of(&self, part: &ItemPart, is_output: bool) -> Weight {
        let text = part.text.as_deref().unwrap_or_default();
        let text = if is_output {
            self.quoted(text)
        } else {
            self.text(text)
        };
        let image = part.image_url.as_deref();
        let image = image.map(|url| self.image(url, part.detail.as_deref()));
        sum([
            Weight::fixed(self.frame().part),
            text,
            self.optional(part.refusal.as_deref()),
            image.unwrap_or_default(),
        ])
    }

    fn tool(&self, tool: &OfferedTool) -> Weight {
        let grammar = tool.format.as_ref();
        let syntax = self.optional(grammar.and_then(|format| format.syntax.as_deref()));
        let grammar = grammar.and_then(|format| format.definition.as_deref());
        sum([
            Weight::fixed(self.frame().tool),
            self.optional(tool.name.as_deref()),
            self.description(tool.description.as_deref()),
            self.schema(tool.parameters.as_ref()),
            syntax,
            self.description(grammar),
        ])
    }

    fn format(&self, format: &TextFormat) -> Weight {
        sum([
            self.optional(format.name.as_deref()),
            self.description(format.description.as_deref()),
            self.schema(format.schema.as_ref()),
        ])
    }

    fn choice(&self, choice: &ChosenTool) -> Weight {
        let allowed = choice.tools.iter().flat_map(|list| &list.0);
        let names = allowed
            .map(|tool| tool.name.as_deref())
            .chain([choice.name.as_deref()]);
        sum(names.map(|name| Weight::fixed(self.frame().tool).plus(self.optional(name))))
    }
}
