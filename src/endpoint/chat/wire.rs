//! The request as it is written: every member that may be passed on, by OpenAI's names.
//!
//! Read strictly ([`crate::endpoint::json`]): members nobody knows are noted, and refused by `check`, which knows their path.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

use crate::endpoint::json::{Ignored, List, TextOr, object};
use crate::endpoint::nested_list::{NestedEntry, NestedList};
use crate::endpoint::schema::{Json, Schema};

/// How many messages a request may have.
const MESSAGES_MAX: usize = 2048;
/// How many parts a message may have.
const PARTS_MAX: usize = 2048;
/// How many sequences `stop` may have.
const STOPS_MAX: usize = 4;
/// How many tools a request may offer.
const TOOLS_MAX: usize = 128;
/// How many calls of tools a message may hold.
const TOOL_CALLS_MAX: usize = 128;
/// How many modalities are read.
const MODALITIES_MAX: usize = 8;
/// How many tokens `logit_bias` may name, as OpenAI has it.
const BIASES_MAX: usize = 300;

object! {
    /// A chat request.
    Request {
        model = "model": String,
        messages = "messages": Messages,
        stream = "stream": bool,
        stream_options = "stream_options": StreamOptions,
        temperature = "temperature": Number,
        top_p = "top_p": Number,
        n = "n": i64,
        stop = "stop": TextOr<List<String, STOPS_MAX>>,
        max_tokens = "max_tokens": i64,
        max_completion_tokens = "max_completion_tokens": i64,
        presence_penalty = "presence_penalty": Number,
        frequency_penalty = "frequency_penalty": Number,
        logit_bias = "logit_bias": Biases,
        logprobs = "logprobs": bool,
        top_logprobs = "top_logprobs": i64,
        seed = "seed": i64,
        response_format = "response_format": ResponseFormat,
        tools = "tools": List<Tool, TOOLS_MAX>,
        tool_choice = "tool_choice": TextOr<ToolChoice>,
        parallel_tool_calls = "parallel_tool_calls": bool,
        reasoning_effort = "reasoning_effort": String,
        verbosity = "verbosity": String,
        service_tier = "service_tier": String,
        store = "store": bool,
        modalities = "modalities": List<String, MODALITIES_MAX>,
        user = "user": String,
    }
}

/// The messages.
pub(super) type Messages = NestedList<Message>;

object! {
    /// A message of any role. The last two are in messages that OpenAI's own libraries send back; they are dropped.
    Message {
        role = "role": Word,
        content = "content": TextOr<List<Part, PARTS_MAX>>,
        name = "name": String,
        refusal = "refusal": String,
        tool_calls = "tool_calls": List<ToolCall, TOOL_CALLS_MAX>,
        tool_call_id = "tool_call_id": String,
        reasoning = "reasoning": String,
        reasoning_content = "reasoning_content": String,
        reasoning_details = "reasoning_details": Json,
        thinking_blocks = "thinking_blocks": Json,
        extra_content = "extra_content": Json,
        provider_specific_fields = "provider_specific_fields": Json,
        annotations = "annotations": Ignored,
        parsed = "parsed": Ignored,
    }
}

impl NestedEntry for Message {
    const MOST: usize = MESSAGES_MAX;
    const EXPECTED: &str = "an array";
    const COUNTED: &str = "messages, parts and calls";

    /// It, its parts and its calls.
    fn count(&self) -> usize {
        let parts = match &self.content {
            Some(TextOr::Other(parts)) => parts.0.len(),
            _ => 0,
        };
        let calls = self.tool_calls.as_ref().map_or(0, |calls| calls.0.len());
        parts.saturating_add(calls).saturating_add(1)
    }
}

object! {
    /// A part of a message's content. The last three are Mistral's and Anthropic's way to tell of thoughts.
    Part {
        kind = "type": Word,
        text = "text": String,
        refusal = "refusal": String,
        // Rare, and larger than all the rest of a part.
        image_url = "image_url": Box<ImageUrl>,
        thinking = "thinking": Json,
        signature = "signature": Box<str>,
        closed = "closed": bool,
    }
}

object! {
    /// Where an image is, or the image itself.
    ImageUrl {
        url = "url": String,
        detail = "detail": String,
    }
}

object! {
    /// A call of a tool that the model made earlier. `index` is a mark of streams and is dropped.
    ToolCall {
        id = "id": String,
        kind = "type": Word,
        function = "function": CalledFunction,
        extra_content = "extra_content": Json,
        provider_specific_fields = "provider_specific_fields": Json,
        thought_signature = "thought_signature": String,
        index = "index": Ignored,
    }
}

object! {
    /// The function of a call, and its arguments as the model wrote them. What a library made of them is dropped.
    CalledFunction {
        name = "name": String,
        arguments = "arguments": String,
        provider_specific_fields = "provider_specific_fields": Json,
        thought_signature = "thought_signature": String,
        parsed_arguments = "parsed_arguments": Ignored,
    }
}

object! {
    /// A tool the model may call.
    Tool {
        kind = "type": Word,
        function = "function": Function,
    }
}

object! {
    /// A function the model may call.
    Function {
        name = "name": String,
        description = "description": String,
        parameters = "parameters": Schema,
        strict = "strict": bool,
    }
}

object! {
    /// The function the model has to call.
    ToolChoice {
        kind = "type": Word,
        function = "function": FunctionName,
    }
}

object! {
    /// A function by its name.
    FunctionName {
        name = "name": String,
    }
}

object! {
    /// The shape of the answer.
    ResponseFormat {
        kind = "type": Word,
        json_schema = "json_schema": JsonSchema,
    }
}

object! {
    /// A JSON Schema for the answer.
    JsonSchema {
        name = "name": String,
        description = "description": String,
        schema = "schema": Schema,
        strict = "strict": bool,
    }
}

object! {
    /// What a stream contains.
    StreamOptions {
        include_usage = "include_usage": bool,
    }
}

impl Message {
    /// What the model is to do.
    pub(super) fn system(text: String) -> Self {
        Self {
            role: Some(Word(Cow::Borrowed("system"))),
            content: Some(TextOr::Text(text)),
            ..Self::default()
        }
    }
}

/// One of the API's own words, which takes no memory of its own, or whatever stands in its place.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Word(Cow<'static, str>);

impl Word {
    const KNOWN: [&'static str; 11] = [
        "user",
        "assistant",
        "system",
        "tool",
        "text",
        "developer",
        "function",
        "image_url",
        "refusal",
        "json_schema",
        "json_object",
    ];
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
                let known = Word::KNOWN.into_iter().find(|known| *known == text);
                Ok(Word(known.map_or_else(
                    || Cow::Owned(text.to_owned()),
                    Cow::Borrowed,
                )))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// By the id of a token. Its name is a number in quotes, which the parser would take for broken JSON where it is none.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Biases(pub(super) BTreeMap<u32, i64>);

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ByToken)
    }
}

struct ByToken;

impl<'de> Visitor<'de> for ByToken {
    type Value = Biases;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
        let mut biases = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            // As it is written again: neither `+5` nor `05`.
            let token = name
                .parse::<u32>()
                .ok()
                .filter(|token| token.to_string() == name);
            let token = token.ok_or_else(|| {
                A::Error::custom("must have the ids of tokens for names, such as \"1234\"")
            })?;
            if biases.len() >= BIASES_MAX {
                return Err(A::Error::custom(format_args!(
                    "must name at most {BIASES_MAX} tokens"
                )));
            }
            if biases.insert(token, map.next_value()?).is_some() {
                return Err(A::Error::custom("must not have a token twice"));
            }
        }
        Ok(Biases(biases))
    }
}
