//! The request as it is written: every member that may be passed on, by OpenAI's names, and those that are refused by a
//! sentence of their own.
//!
//! Read strictly ([`crate::endpoint::json`]): members nobody knows are noted, and refused by `check`, which knows their path.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use crate::endpoint::json::{Ignored, List, TextOr, object};
use crate::endpoint::nested_list::{NestedEntry, NestedList};
use crate::endpoint::schema::Schema;

/// How many parts an item may have.
const PARTS_MAX: usize = 2048;
/// How many tools a request may offer.
const TOOLS_MAX: usize = 128;
/// How many values `include` may have.
const INCLUDES_MAX: usize = 16;

object! {
    /// A request for a response. The members of the last group are refused, or taken and not sent on.
    ResponsesBody {
        model = "model": String,
        instructions = "instructions": String,
        input = "input": TextOr<InputItems>,
        stream = "stream": bool,
        stream_options = "stream_options": ResponseStreamOptions,
        max_output_tokens = "max_output_tokens": i64,
        temperature = "temperature": Number,
        top_p = "top_p": Number,
        top_logprobs = "top_logprobs": i64,
        include = "include": List<String, INCLUDES_MAX>,
        reasoning = "reasoning": Reasoning,
        text = "text": TextOptions,
        tools = "tools": List<OfferedTool, TOOLS_MAX>,
        tool_choice = "tool_choice": TextOr<ChosenTool>,
        parallel_tool_calls = "parallel_tool_calls": bool,
        truncation = "truncation": String,
        prompt_cache_key = "prompt_cache_key": String,

        store = "store": bool,
        background = "background": bool,
        service_tier = "service_tier": String,
        user = "user": String,
        safety_identifier = "safety_identifier": String,
        metadata = "metadata": Ignored,
        max_tool_calls = "max_tool_calls": i64,
        previous_response_id = "previous_response_id": Ignored,
        conversation = "conversation": Ignored,
        prompt = "prompt": Ignored,
        context_management = "context_management": Ignored,
        moderation = "moderation": Ignored,
        prompt_cache_options = "prompt_cache_options": Ignored,
        prompt_cache_retention = "prompt_cache_retention": Ignored,
    }
}

/// The items of an input.
pub(super) type InputItems = NestedList<InputItem>;

object! {
    /// An item of any type. The last two are in items that OpenAI's own libraries send back; they are dropped.
    InputItem {
        kind = "type": String,
        id = "id": String,
        role = "role": String,
        status = "status": String,
        phase = "phase": String,
        content = "content": TextOr<List<ItemPart, PARTS_MAX>>,
        call_id = "call_id": String,
        name = "name": String,
        arguments = "arguments": String,
        input = "input": String,
        output = "output": TextOr<List<ItemPart, PARTS_MAX>>,
        summary = "summary": List<ItemPart, PARTS_MAX>,
        encrypted_content = "encrypted_content": String,
        parsed = "parsed": Ignored,
        parsed_arguments = "parsed_arguments": Ignored,
    }
}

impl InputItem {
    /// What it is. A message may leave that out.
    pub(super) fn kind(&self) -> Option<&str> {
        match self.kind.as_deref() {
            None if self.role.is_some() => Some("message"),
            kind => kind,
        }
    }

    /// The parts of its lists.
    pub(super) fn lists(&self) -> [(&'static str, &[ItemPart]); 3] {
        [
            ("content", parts(self.content.as_ref())),
            ("output", parts(self.output.as_ref())),
            (
                "summary",
                self.summary
                    .as_ref()
                    .map(|parts| parts.0.as_slice())
                    .unwrap_or_default(),
            ),
        ]
    }
}

impl NestedEntry for InputItem {
    /// What is in them bounds them too.
    const MOST: usize = usize::MAX;
    const EXPECTED: &str = "a string or an array";
    const COUNTED: &str = "items and parts";

    /// It and its parts.
    fn count(&self) -> usize {
        let parts = self.lists().map(|(_, parts)| parts.len());
        parts.into_iter().fold(1, usize::saturating_add)
    }
}

/// A list that servers want to see in what they said, and whose content nobody reads: it is sent empty.
#[derive(Clone, PartialEq)]
pub(super) struct EmptyList;

impl<'de> Deserialize<'de> for EmptyList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for EmptyList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq([(); 0])
    }
}

fn parts(list: Option<&TextOr<List<ItemPart, PARTS_MAX>>>) -> &[ItemPart] {
    match list {
        Some(TextOr::Other(parts)) => &parts.0,
        _ => &[],
    }
}

object! {
    /// A part of an item. The last ones are refused, or dropped.
    ItemPart {
        kind = "type": String,
        text = "text": String,
        refusal = "refusal": String,
        image_url = "image_url": String,
        detail = "detail": String,
        file_id = "file_id": Ignored,
        file_url = "file_url": Ignored,
        file_data = "file_data": Ignored,
        filename = "filename": Ignored,
        annotations = "annotations": EmptyList,
        logprobs = "logprobs": EmptyList,
        parsed = "parsed": Ignored,
    }
}

object! {
    /// How long the model thinks, and what it shows of that.
    Reasoning {
        effort = "effort": String,
        summary = "summary": String,
        generate_summary = "generate_summary": String,
        context = "context": String,
        mode = "mode": Ignored,
    }
}

object! {
    /// The shape of the answer's text.
    TextOptions {
        format = "format": TextFormat,
        verbosity = "verbosity": String,
    }
}

object! {
    /// A format of the answer: text, any JSON, or JSON by a schema.
    TextFormat {
        kind = "type": String,
        name = "name": String,
        description = "description": String,
        schema = "schema": Schema,
        strict = "strict": bool,
    }
}

object! {
    /// A tool the model may call: a function, or a custom tool, whose input is text.
    OfferedTool {
        kind = "type": String,
        name = "name": String,
        description = "description": String,
        parameters = "parameters": Schema,
        strict = "strict": bool,
        format = "format": InputFormat,
    }
}

object! {
    /// What the input of a custom tool looks like.
    InputFormat {
        kind = "type": String,
        syntax = "syntax": String,
        definition = "definition": String,
    }
}

object! {
    /// The tool that the model has to call, or those of which it may call one.
    ChosenTool {
        kind = "type": String,
        name = "name": String,
        mode = "mode": String,
        tools = "tools": List<ToolName, TOOLS_MAX>,
    }
}

object! {
    /// A tool by its name.
    ToolName {
        kind = "type": String,
        name = "name": String,
    }
}

object! {
    /// What a stream contains.
    ResponseStreamOptions {
        include_obfuscation = "include_obfuscation": bool,
    }
}

object! {
    /// What `[models.*]` may set, by the names that a chat request has, too.
    Set {
        temperature = "temperature": Number,
        top_p = "top_p": Number,
        max_tokens = "max_tokens": i64,
        max_completion_tokens = "max_completion_tokens": i64,
        max_output_tokens = "max_output_tokens": i64,
        reasoning_effort = "reasoning_effort": String,
        verbosity = "verbosity": String,
    }
}
