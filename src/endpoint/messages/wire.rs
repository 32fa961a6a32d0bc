//! The request as it is written: every member that may be passed on, by Anthropic's names.
//!
//! Read strictly ([`crate::endpoint::json`]): members nobody knows are noted, and refused by `check`, which knows their path.

use serde_json::Number;

use crate::endpoint::json::{List, TextOr, object};
use crate::endpoint::nested_list::{NestedEntry, NestedList};
use crate::endpoint::schema::{Json, Schema};

/// How many messages a request may have.
const MESSAGES_MAX: usize = 2048;
/// How many blocks a message may have.
const BLOCKS_MAX: usize = 1024;
/// How many blocks the result of a tool, or a document, may have.
const INNER_BLOCKS_MAX: usize = 64;
/// How many sequences `stop_sequences` may have.
const STOPS_MAX: usize = 64;
/// How many tools a request may offer.
const TOOLS_MAX: usize = 128;
/// How many examples a tool may have.
const EXAMPLES_MAX: usize = 64;

object! {
    /// A request.
    Request {
        model = "model": String,
        system = "system": TextOr<List<InnerBlock, BLOCKS_MAX>>,
        messages = "messages": Conversation,
        tools = "tools": List<Tool, TOOLS_MAX>,
        tool_choice = "tool_choice": ToolChoice,
        thinking = "thinking": Thinking,
        output_config = "output_config": OutputConfig,
        cache_control = "cache_control": Box<CacheControl>,
        max_tokens = "max_tokens": i64,
        stop_sequences = "stop_sequences": List<String, STOPS_MAX>,
        stream = "stream": bool,
        temperature = "temperature": Number,
        top_p = "top_p": Number,
        top_k = "top_k": i64,
        metadata = "metadata": Metadata,
        service_tier = "service_tier": String,
    }
}

object! {
    /// A message.
    Message {
        role = "role": String,
        content = "content": TextOr<List<Block, BLOCKS_MAX>>,
    }
}

object! {
    /// A block of a message, of any type. `caller` says in an answer that the model called a tool itself.
    Block {
        kind = "type": String,
        text = "text": String,
        citations = "citations": Json,
        source = "source": Box<Source>,
        title = "title": String,
        context = "context": String,
        id = "id": String,
        name = "name": String,
        input = "input": Json,
        caller = "caller": Json,
        tool_use_id = "tool_use_id": String,
        content = "content": TextOr<List<InnerBlock, INNER_BLOCKS_MAX>>,
        is_error = "is_error": bool,
        thinking = "thinking": String,
        signature = "signature": String,
        data = "data": String,
        cache_control = "cache_control": Box<CacheControl>,
    }
}

object! {
    /// A block within another, or of the system prompt.
    InnerBlock {
        kind = "type": String,
        text = "text": String,
        citations = "citations": Json,
        source = "source": Box<Source>,
        title = "title": String,
        context = "context": String,
        cache_control = "cache_control": Box<CacheControl>,
    }
}

object! {
    /// Where a picture or a document is, or it itself.
    Source {
        kind = "type": String,
        media_type = "media_type": String,
        data = "data": String,
        url = "url": String,
        content = "content": TextOr<List<InnerBlock, INNER_BLOCKS_MAX>>,
    }
}

object! {
    /// That the prompt up to here is to be kept by the provider, and for how long.
    CacheControl {
        kind = "type": String,
        ttl = "ttl": String,
    }
}

object! {
    /// A tool the model may call, and the app runs.
    Tool {
        kind = "type": String,
        name = "name": String,
        description = "description": String,
        input_schema = "input_schema": Schema,
        input_examples = "input_examples": List<Json, EXAMPLES_MAX>,
        strict = "strict": bool,
        eager_input_streaming = "eager_input_streaming": bool,
        max_characters = "max_characters": i64,
        cache_control = "cache_control": Box<CacheControl>,
    }
}

object! {
    /// Whether the model has to call a tool, and which.
    ToolChoice {
        kind = "type": String,
        name = "name": String,
        disable_parallel_tool_use = "disable_parallel_tool_use": bool,
    }
}

object! {
    /// Whether the model thinks before it answers, and how much.
    Thinking {
        kind = "type": String,
        budget_tokens = "budget_tokens": i64,
        display = "display": String,
    }
}

object! {
    /// How much the model is to spend on an answer, and its form.
    OutputConfig {
        effort = "effort": String,
        format = "format": Format,
    }
}

object! {
    /// The form of an answer.
    Format {
        kind = "type": String,
        schema = "schema": Schema,
    }
}

object! {
    /// Who asks.
    Metadata {
        user_id = "user_id": String,
    }
}

impl Message {
    /// Its blocks, where it is not one text.
    pub(super) fn blocks(&self) -> &[Block] {
        match &self.content {
            Some(TextOr::Other(blocks)) => &blocks.0,
            _ => &[],
        }
    }
}

/// The blocks of a content that is not one text.
pub(super) fn inner<const MOST: usize>(
    content: Option<&TextOr<List<InnerBlock, MOST>>>,
) -> &[InnerBlock] {
    match content {
        Some(TextOr::Other(blocks)) => &blocks.0,
        _ => &[],
    }
}

impl NestedEntry for Message {
    const MOST: usize = MESSAGES_MAX;
    const EXPECTED: &str = "an array";
    const COUNTED: &str = "messages and blocks";

    /// It, its blocks and theirs.
    fn count(&self) -> usize {
        let blocks = self.blocks().iter();
        let items = blocks.map(|block| inner(block.content.as_ref()).len().saturating_add(1));
        items.fold(1, usize::saturating_add)
    }
}

/// The messages.
pub(super) type Conversation = NestedList<Message>;
