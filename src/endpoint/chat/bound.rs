//! How many tokens the prompt of a chat can be billed as: a walk over all of it, with [`Scale`].

use crate::endpoint::json::TextOr;
use crate::endpoint::weight::{Scale, Weight, sum};
use crate::model::Tokenizer;
use crate::price::tokenizer;

use super::wire::{Function, JsonSchema, Message, Part, Request, ToolCall};

/// Weighs a prompt with bytes for tokens.
pub(super) fn in_bytes(request: &Request, model: &str, tokenizer: Tokenizer) -> Weight {
    Scale::in_bytes(model, tokenizer, |scale| scale.request(request))
}

/// Weighs a prompt as it will most likely be billed. Takes time with the length of the prompt.
pub(super) fn likely(request: &Request, model: &str, tokenizer: Tokenizer) -> Weight {
    counted(request, model, tokenizer, &|text| {
        tokenizer::count(tokenizer, text)
    })
}

/// Weighs a prompt by whatever `count` says of its texts, in tokens.
pub(super) fn counted(
    request: &Request,
    model: &str,
    tokenizer: Tokenizer,
    count: &dyn Fn(&str) -> u64,
) -> Weight {
    Scale::counted(model, tokenizer, count).request(request)
}

impl Scale<'_> {
    fn request(&self, request: &Request) -> Weight {
        let frame = self.frame();
        let functions = || {
            request
                .tools
                .iter()
                .flat_map(|list| &list.0)
                .filter_map(|tool| tool.function.as_ref())
        };
        let tools = sum(functions().map(|function| self.function(function)));
        let schema = request
            .response_format
            .as_ref()
            .and_then(|format| format.json_schema.as_ref());
        sum([
            Weight::fixed(frame.request),
            self.messages(request),
            tools,
            Weight::fixed(if request.tools.is_some() {
                frame.tools
            } else {
                0
            }),
            Weight::fixed(if request.response_format.is_some() {
                frame.format
            } else {
                0
            }),
            schema
                .map(|schema| self.json_schema(schema))
                .unwrap_or_default(),
            self.tool_choice(request),
        ])
    }

    /// A template may name the function at each answer of a tool: any of those that were called.
    fn messages(&self, request: &Request) -> Weight {
        let messages = || request.messages.iter().flat_map(|list| &list.0);
        let calls = messages()
            .flat_map(|message| &message.tool_calls)
            .flat_map(|list| &list.0);
        let names = calls.filter_map(|call| call.function.as_ref()?.name.as_deref());
        let longest = names
            .max_by_key(|name| name.len())
            .map_or(0, |name| tokenizer::bytes_bound(Tokenizer::O200k, name));
        let answers = messages().filter(|message| is_tool(message)).count();
        let answers = u64::try_from(answers)
            .unwrap_or(u64::MAX)
            .saturating_mul(longest);
        sum(messages().map(|message| self.message(message))).plus(Weight::fixed(answers))
    }

    fn message(&self, message: &Message) -> Weight {
        let frame = self.one_message();
        let is_tool = is_tool(message);
        let content = match &message.content {
            None => Weight::default(),
            Some(TextOr::Text(text)) if is_tool => self.quoted(text),
            Some(TextOr::Text(text)) => self.text(text),
            Some(TextOr::Other(parts)) => sum(parts.0.iter().map(|part| self.part(part, is_tool))),
        };
        let names = [&message.name, &message.refusal, &message.tool_call_id];
        let names = sum(names.into_iter().map(|name| self.optional(name.as_deref())));
        let calls = sum(message
            .tool_calls
            .iter()
            .flat_map(|list| &list.0)
            .map(|call| self.tool_call(call)));
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

    fn part(&self, part: &Part, is_tool: bool) -> Weight {
        let text = part.text.as_deref().unwrap_or_default();
        let text = if is_tool {
            self.quoted(text)
        } else {
            self.text(text)
        };
        let image = part.image_url.as_ref();
        let image = image.map(|image| {
            let url = image.url.as_deref().unwrap_or_default();
            self.image(url, image.detail.as_deref())
        });
        let thoughts = self
            .form(part.thinking.as_ref())
            .plus(self.optional(part.signature.as_deref()));
        sum([
            Weight::fixed(self.frame().part),
            text,
            self.optional(part.refusal.as_deref()),
            image.unwrap_or_default(),
            thoughts,
        ])
    }

    fn tool_call(&self, call: &ToolCall) -> Weight {
        let function = call.function.as_ref();
        let name = self.optional(function.and_then(|function| function.name.as_deref()));
        let arguments = function
            .and_then(|function| function.arguments.as_deref())
            .unwrap_or_default();
        let of_function = function.and_then(|function| function.provider_specific_fields.as_ref());
        let forms = [
            call.extra_content.as_ref(),
            call.provider_specific_fields.as_ref(),
            of_function,
        ];
        let forms = sum(forms.into_iter().map(|form| self.form(form)));
        let of_function = function.and_then(|function| function.thought_signature.as_deref());
        let texts = [
            call.id.as_deref(),
            call.thought_signature.as_deref(),
            of_function,
        ];
        let texts = sum(texts.into_iter().map(|text| self.optional(text)));
        let arguments = if self.unknown {
            self.json(arguments)
        } else {
            self.text(arguments)
        };
        sum([
            Weight::fixed(self.frame().tool_call),
            texts,
            name,
            forms,
            arguments,
        ])
    }

    fn function(&self, function: &Function) -> Weight {
        let name = self.optional(function.name.as_deref());
        let description = self.description(function.description.as_deref());
        sum([
            Weight::fixed(self.frame().tool),
            name,
            description,
            self.schema(function.parameters.as_ref()),
        ])
    }

    fn json_schema(&self, format: &JsonSchema) -> Weight {
        let name = self.optional(format.name.as_deref());
        sum([
            name,
            self.description(format.description.as_deref()),
            self.schema(format.schema.as_ref()),
        ])
    }

    fn tool_choice(&self, request: &Request) -> Weight {
        match &request.tool_choice {
            Some(TextOr::Other(choice)) => {
                let name = choice
                    .function
                    .as_ref()
                    .and_then(|function| function.name.as_deref());
                Weight::fixed(self.frame().tool).plus(self.optional(name))
            }
            _ => Weight::default(),
        }
    }
}

fn is_tool(message: &Message) -> bool {
    message.role.as_deref() == Some("tool")
}
