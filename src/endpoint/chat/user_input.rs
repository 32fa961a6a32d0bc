//! What the user said since the last answer of a chat. Pure.
//!
//! The last answer is the model's last message that calls no tool and that something follows: while tools are called, the
//! question is still open. What the model is said to have begun (its message at the end) is the caller's word. Texts that say
//! what the model is to do are the app's where they lead the chat, and the caller's where they stand later. Results of tools
//! are nobody's words.

use std::borrow::Cow;

use super::Order;
use super::wire::Message;
use crate::endpoint::UserInput;
use crate::endpoint::json::TextOr;

/// What the user said.
pub(super) fn of(order: &Order) -> UserInput<'_> {
    let hidden = usize::from(order.prompt_version.is_some());
    let messages: Vec<&Message> = order.messages().skip(hidden).collect();
    let mut said = UserInput {
        texts: order.prompt_values.iter().map(String::as_str).collect(),
        images: Vec::new(),
    };
    for message in since_last_answer(&messages) {
        if let Some(TextOr::Text(text)) = &message.content {
            said.texts.push(text);
            continue;
        }
        let parts = message.parts().iter();
        let texts = parts.clone().filter_map(|part| part.text.as_deref());
        said.texts.extend(texts);
        let images = parts.filter_map(|part| part.image_url.as_ref()?.url.as_deref());
        said.images.extend(images.map(Cow::Borrowed));
    }
    said
}

fn since_last_answer<'a>(messages: &[&'a Message]) -> impl Iterator<Item = &'a Message> {
    let is_models = |message: &&Message| role(message) == "assistant";
    let begun = messages
        .iter()
        .rev()
        .take_while(|message| is_models(message));
    let asked = messages.len().saturating_sub(begun.count());
    let (asked, begun) = messages.split_at_checked(asked).unwrap_or((messages, &[]));
    let is_answer = |message: &&Message| {
        let calls = message.tool_calls.as_ref().map_or(0, |calls| calls.0.len());
        is_models(message) && calls == 0
    };
    let last_answer = asked.iter().rposition(is_answer);
    let since = last_answer.map_or(0, |place| place.saturating_add(1));
    let open = asked.get(since..).unwrap_or_default();
    // Of a chat that only says what the model is to do, that is all that the caller says.
    let first = open.iter().position(|message| role(message) == "user");
    let leads =
        move |place: usize| last_answer.is_none() && first.is_some_and(|first| place < first);
    let said = open
        .iter()
        .enumerate()
        .filter(move |(place, message)| match role(message) {
            "user" => true,
            "system" | "developer" => !leads(*place),
            _ => false,
        });
    let said: Vec<&Message> = said
        .map(|(_, message)| *message)
        .chain(begun.iter().copied())
        .collect();
    said.into_iter()
}

fn role(message: &Message) -> &str {
    message.role.as_deref().unwrap_or_default()
}
