//! What the user said since the last answer of a conversation. Pure.
//!
//! The last answer is the model's last message that is followed by somebody else's: before a call of a tool the question is
//! still open. What the model is said to have begun (its messages at the end) is the caller's word. Texts that say what the
//! model is to do are the app's where they lead the conversation, and the caller's where they stand later. Results of tools
//! are nobody's words.

use std::borrow::Cow;

use super::wire::{InputItem, ResponsesBody};
use crate::endpoint::UserInput;
use crate::endpoint::json::TextOr;

/// What the user said.
pub(super) fn of(request: &ResponsesBody) -> UserInput<'_> {
    let mut said = UserInput::default();
    let items = match &request.input {
        Some(TextOr::Text(text)) => {
            said.texts.push(text);
            return said;
        }
        Some(TextOr::Other(items)) => items.0.as_slice(),
        None => return said,
    };
    let begun = items
        .iter()
        .rev()
        .take_while(|item| is_models(item))
        .count();
    let asked = items.len().saturating_sub(begun);
    let is_answer =
        |pair: &[InputItem]| matches!(pair, [first, next] if is_models(first) && is_others(next));
    let answered = items.windows(2).rposition(is_answer);
    let since = answered.map_or(0, |place| place.saturating_add(1));
    let first = items.iter().position(|item| role(item) == "user");
    for (place, item) in items.iter().enumerate().skip(since) {
        let leads = answered.is_none() && first.is_some_and(|first| place < first);
        let is_said = match role(item) {
            "user" => true,
            "system" | "developer" => !leads,
            "assistant" => place >= asked,
            _ => false,
        };
        if is_said {
            add(item, &mut said);
        }
    }
    said
}

fn add<'a>(item: &'a InputItem, said: &mut UserInput<'a>) {
    if let Some(TextOr::Text(text)) = &item.content {
        said.texts.push(text);
    }
    for (_, parts) in item.lists() {
        for part in parts {
            said.texts.extend(part.text.as_deref());
            said.texts.extend(part.refusal.as_deref());
            let image = part.image_url.as_deref();
            said.images.extend(image.map(Cow::Borrowed));
        }
    }
}

fn role(item: &InputItem) -> &str {
    item.role.as_deref().unwrap_or_default()
}

fn is_models(item: &InputItem) -> bool {
    role(item) == "assistant"
}

fn is_others(item: &InputItem) -> bool {
    !matches!(role(item), "assistant" | "")
}
