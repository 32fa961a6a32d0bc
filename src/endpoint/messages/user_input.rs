//! What the user said since the last answer of a conversation, as for a chat. Pure.
//!
//! The last answer is the model's last message that calls no tool and that something follows. What the model is said to
//! have begun (its message at the end) is the caller's word, and so is a system message within the conversation. `system`
//! itself is the app's, and results of tools are nobody's words.

use std::borrow::Cow;

use super::wire::{Block, InnerBlock, Message, Request, Source, inner};
use crate::endpoint::UserInput;
use crate::endpoint::json::TextOr;

/// What the user said.
pub(super) fn of(request: &Request) -> UserInput<'_> {
    let messages = request.messages.as_ref();
    let messages = messages.map_or(&[][..], |messages| messages.0.as_slice());
    let mut said = UserInput::default();
    for message in since_last_answer(messages) {
        match &message.content {
            Some(TextOr::Text(text)) => said.texts.push(text),
            _ => message
                .blocks()
                .iter()
                .for_each(|block| add(block, &mut said)),
        }
    }
    said
}

fn since_last_answer(messages: &[Message]) -> impl Iterator<Item = &Message> {
    let is_models = |message: &&Message| message.role.as_deref() == Some("assistant");
    let begun = messages.iter().rev().take_while(is_models).count();
    let asked = messages.len().saturating_sub(begun);
    let (asked, begun) = messages.split_at_checked(asked).unwrap_or((messages, &[]));
    let calls = |message: &Message| message.blocks().iter().any(|block| block.input.is_some());
    let is_answer = |message: &Message| is_models(&message) && !calls(message);
    let last = asked.iter().rposition(is_answer);
    let since = last.map_or(0, |place| place.saturating_add(1));
    let open = asked.get(since..).unwrap_or_default();
    open.iter()
        .filter(move |message| !is_models(message))
        .chain(begun)
}

fn add<'a>(block: &'a Block, said: &mut UserInput<'a>) {
    // What a tool gave.
    if block.tool_use_id.is_some() {
        return;
    }
    let texts = [&block.text, &block.title, &block.context, &block.thinking];
    said.texts
        .extend(texts.into_iter().filter_map(|text| text.as_deref()));
    add_source(block.source.as_deref(), said);
}

fn add_source<'a>(source: Option<&'a Source>, said: &mut UserInput<'a>) {
    let Some(source) = source else {
        return;
    };
    match (source.kind.as_deref(), &source.data, &source.media_type) {
        (Some("base64"), Some(data), Some(kind)) => {
            let url = format!("data:{kind};base64,{data}");
            said.images.push(Cow::Owned(url));
        }
        (Some("text"), Some(text), _) => said.texts.push(text),
        _ => {}
    }
    let url = source.url.as_deref();
    said.images.extend(url.map(Cow::Borrowed));
    if let Some(TextOr::Text(text)) = &source.content {
        said.texts.push(text);
    }
    for block in inner(source.content.as_ref()) {
        add_inner(block, said);
    }
}

fn add_inner<'a>(block: &'a InnerBlock, said: &mut UserInput<'a>) {
    said.texts.extend(block.text.as_deref());
    add_source(block.source.as_deref(), said);
}
