//! The request as it is written: every member that may be passed on, by OpenAI's names.
//!
//! Read strictly: an object is an object (never an array of its values), a known member stands once. Members nobody knows
//! are noted and refused by `check`, which knows their path; their values are skipped. `null` is the same as absent. What
//! is written out again is what was understood, never the caller's bytes.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use super::schema::{Json, Schema};

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
/// How many messages, parts, tools and calls a request may have, all together. Three bytes of a body (`{},`) may become a
/// hundred in memory, so what bounds the bytes does not bound this.
const ITEMS_MAX: usize = 8192;
/// How many tokens `logit_bias` may name, as OpenAI has it.
const BIASES_MAX: usize = 300;

/// Members that OpenAI knows and that are not passed on: clients send them as `null`, which says nothing.
const MAY_BE_NULL: [&str; 13] = [
    "audio",
    "function_call",
    "functions",
    "metadata",
    "moderation",
    "prediction",
    "prompt_cache_breakpoint",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "web_search_options",
    "include_obfuscation",
];

thread_local! {
    /// The way to what could not be read, the innermost first. Empty but between a fault and the end of its reading. (A
    /// library that keeps the way as it reads copies every name, of good bodies too, and has all of this compiled twice.)
    static WAY: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// How many items of lists this reading has met.
    static ITEMS: Cell<usize> = const { Cell::new(0) };
}

/// Notes a step on the way to a fault.
fn at<T, E>(read: Result<T, E>, step: impl FnOnce() -> String) -> Result<T, E> {
    if read.is_err() {
        WAY.with_borrow_mut(|way| way.push(step()));
    }
    read
}

impl Request {
    /// Reads a request, or says what is wrong and where: a path as `messages[0].content`, empty for the whole.
    pub(super) fn read<'de, R: serde_json::de::Read<'de>>(
        reader: &mut serde_json::Deserializer<R>,
    ) -> Result<Self, (serde_json::Error, String)> {
        WAY.take();
        ITEMS.set(0);
        Self::deserialize(reader).map_err(|error| {
            let joined = |path: String, step: String| {
                let joint = if path.is_empty() || step.starts_with('[') { "" } else { "." };
                path + joint + &step
            };
            (error, WAY.take().into_iter().rev().fold(String::new(), joined))
        })
    }
}

/// Defines an object of the API: for each member its field, its name on the wire and its type. All are optional here;
/// `unknown` is the first member that is not among them.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $wire:literal: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Serialize)]
        pub(super) struct $name {
            $(#[serde(rename = $wire, skip_serializing_if = "Option::is_none")]
            pub(super) $field: Option<$kind>,)+
            #[serde(skip)]
            pub(super) unknown: Option<Box<Unknown>>,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;

                impl<'de> Visitor<'de> for Members {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut unknown = None;
                        $(let mut $field: Slot<$kind> = Slot::Empty;)+
                        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
                            match name.as_ref() {
                                $($wire => read_member(&mut $field, $wire, &mut map)?,)+
                                _ => read_unknown(&mut unknown, name, &mut map)?,
                            }
                        }
                        Ok($name { $($field: $field.into_value(),)+ unknown })
                    }
                }

                deserializer.deserialize_map(Members)
            }
        }
    };
}

object! {
    /// A chat request.
    Request {
        model = "model": String,
        messages = "messages": List<Message, MESSAGES_MAX>,
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
                Ok(Word(known.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The name of a member, where it stands in the caller's bytes unless it is written with escapes.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// A member while its object is read. `null` counts as given, so that it cannot stand beside a value.
enum Slot<T> {
    Empty,
    Given(Option<T>),
}

impl<T> Slot<T> {
    fn into_value(self) -> Option<T> {
        match self {
            Self::Empty => None,
            Self::Given(value) => value,
        }
    }
}

fn read_member<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Slot<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if matches!(slot, Slot::Given(_)) {
        return Err(A::Error::duplicate_field(name));
    }
    *slot = Slot::Given(at(map.next_value(), || name.to_owned())?);
    Ok(())
}

fn read_unknown<'de, A: MapAccess<'de>>(
    unknown: &mut Option<Box<Unknown>>,
    name: Cow<'_, str>,
    map: &mut A,
) -> Result<(), A::Error> {
    let value: Option<Said> = map.next_value()?;
    let is_null = value.is_none();
    let is_empty = value.is_none_or(|Said(anything)| !anything);
    let says_nothing = is_null && MAY_BE_NULL.contains(&name.as_ref());
    if !says_nothing && unknown.as_ref().is_none_or(|first| first.is_empty && !is_empty) {
        *unknown = Some(Box::new(Unknown { name: name.into_owned(), is_empty }));
    }
    Ok(())
}

/// A member that nobody knows: the first with content, or else the first.
#[derive(Clone, PartialEq)]
pub(super) struct Unknown {
    pub(super) name: String,
    /// Its value says nothing: `null`, `false`, an empty text, or a list or object of nothing but nulls.
    pub(super) is_empty: bool,
}

/// Whether a value says anything. It is not kept.
struct Said(bool);

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Said, E> {
        Ok(Said(false))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Said, E> {
        Ok(Said(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Said, E> {
        Ok(Said(true))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Said, E> {
        Ok(Said(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Said, E> {
        Ok(Said(true))
    }

    fn visit_str<E>(self, text: &str) -> Result<Said, E> {
        Ok(Said(!text.is_empty()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Said, A::Error> {
        let mut said = false;
        while let Some(item) = seq.next_element::<Option<IgnoredAny>>()? {
            said |= item.is_some();
        }
        Ok(Said(said))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        let mut said = false;
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Option<IgnoredAny>>()? {
            said |= value.is_some();
        }
        Ok(Said(said))
    }
}

/// An array of at most `MOST` items; the rest of a longer one is not even read.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct List<T, const MOST: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

struct Items<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
    type Value = List<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = at(seq.next_element(), || format!("[{}]", items.len()))? {
            if items.len() >= MOST {
                return Err(A::Error::custom(format_args!("must be within an array of at most {MOST} items")));
            }
            count_item()?;
            items.push(item);
        }
        // A vector that has grown may be half empty.
        items.shrink_to_fit();
        Ok(List(items))
    }
}

/// Counts an item against [`ITEMS_MAX`].
fn count_item<E: Error>() -> Result<(), E> {
    let count = ITEMS.get().saturating_add(1);
    ITEMS.set(count);
    if count > ITEMS_MAX {
        let what = "must be within a request of at most";
        return Err(E::custom(format_args!("{what} {ITEMS_MAX} messages, parts, tools and calls together")));
    }
    Ok(())
}

/// A value that is taken and not kept.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub(super) struct Ignored(IgnoredAny);

/// It is never written: whatever holds one drops it first.
impl Serialize for Ignored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
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
            let token = name.parse::<u32>().ok().filter(|token| token.to_string() == name);
            let token =
                token.ok_or_else(|| A::Error::custom("must have the ids of tokens for names, such as \"1234\""))?;
            if biases.len() >= BIASES_MAX {
                return Err(A::Error::custom(format_args!("must name at most {BIASES_MAX} tokens")));
            }
            if biases.insert(token, at(map.next_value(), || name)?).is_some() {
                return Err(A::Error::custom("must not have a token twice"));
            }
        }
        Ok(Biases(biases))
    }
}

/// A string, or something with a structure.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum TextOr<T> {
    /// A string.
    Text(String),
    /// The other.
    Other(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or the array or object described for it")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(seq)).map(TextOr::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Other)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
