//! A message that the model sent, on its way back to it.
//!
//! What a server answers in a message can be sent back. Clients do so member by member, with what the server added (its
//! thoughts, signatures over them) and with what their library added (what it made of the answer). The first goes on to
//! servers that may want it, and counts as prompt; the second is dropped. What is known and allowed is `check`'s.

use super::wire::{Message, Part, ToolCall};
use crate::endpoint::json::TextOr;
use crate::endpoint::schema::Json;

impl Message {
    /// Drops what nobody upstream wants, and writes an answer without a word as OpenAI does.
    pub(super) fn tidy(&mut self) {
        if self.role.as_deref() != Some("assistant") {
            return;
        }
        (self.annotations, self.parsed) = (None, None);
        for text in [&mut self.reasoning, &mut self.reasoning_content] {
            drop(text.take_if(|text| text.is_empty()));
        }
        let forms = [
            &mut self.reasoning_details,
            &mut self.thinking_blocks,
            &mut self.extra_content,
            &mut self.provider_specific_fields,
        ];
        for form in forms {
            forget_empty(form);
        }
        for call in self.tool_calls.iter_mut().flat_map(|calls| &mut calls.0) {
            call.tidy();
        }
        self.fill();
    }

    /// It holds thoughts, or what belongs to them.
    pub(super) fn has_thoughts(&self) -> bool {
        let texts = [&self.reasoning, &self.reasoning_content];
        let forms = [
            &self.reasoning_details,
            &self.thinking_blocks,
            &self.extra_content,
            &self.provider_specific_fields,
        ];
        let calls = self.tool_calls.iter().flat_map(|calls| &calls.0);
        texts.iter().any(|text| text.is_some())
            || forms.iter().any(|form| form.is_some())
            || self.parts().iter().any(Part::is_thought)
            || calls.into_iter().any(ToolCall::has_thoughts)
    }

    /// Leaves the thoughts out.
    pub(super) fn forget_thoughts(&mut self) {
        (self.reasoning, self.reasoning_content) = (None, None);
        (self.reasoning_details, self.thinking_blocks) = (None, None);
        (self.extra_content, self.provider_specific_fields) = (None, None);
        if let Some(TextOr::Other(parts)) = &mut self.content {
            parts.0.retain(|part| !part.is_thought());
        }
        for call in self.tool_calls.iter_mut().flat_map(|calls| &mut calls.0) {
            (
                call.extra_content,
                call.provider_specific_fields,
                call.thought_signature,
            ) = (None, None, None);
            if let Some(function) = &mut call.function {
                (
                    function.provider_specific_fields,
                    function.thought_signature,
                ) = (None, None);
            }
        }
        if self.role.as_deref() == Some("assistant") {
            self.fill();
        }
    }

    /// Empty lists are left out; a message of the model's has calls, a refusal or a content, if only an empty one.
    fn fill(&mut self) {
        if self
            .tool_calls
            .as_ref()
            .is_some_and(|calls| calls.0.is_empty())
        {
            self.tool_calls = None;
        }
        if matches!(&self.content, Some(TextOr::Other(parts)) if parts.0.is_empty()) {
            self.content = None;
        }
        if self.content.is_none() && self.tool_calls.is_none() && self.refusal.is_none() {
            self.content = Some(TextOr::Text(String::new()));
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        match &self.content {
            Some(TextOr::Other(parts)) => &parts.0,
            _ => &[],
        }
    }
}

impl Part {
    fn is_thought(&self) -> bool {
        self.thinking.is_some()
    }
}

impl ToolCall {
    fn tidy(&mut self) {
        self.index = None;
        forget_empty(&mut self.extra_content);
        forget_empty(&mut self.provider_specific_fields);
        if let Some(function) = &mut self.function {
            function.parsed_arguments = None;
            forget_empty(&mut function.provider_specific_fields);
        }
    }

    fn has_thoughts(&self) -> bool {
        let of_function = |function: &super::wire::CalledFunction| {
            function.provider_specific_fields.is_some() || function.thought_signature.is_some()
        };
        self.extra_content.is_some()
            || self.provider_specific_fields.is_some()
            || self.thought_signature.is_some()
            || self.function.as_ref().is_some_and(of_function)
    }
}

/// What says nothing is not sent: servers are strict about members that others invented.
fn forget_empty(form: &mut Option<Json>) {
    drop(form.take_if(|form| form.is_empty()));
}
