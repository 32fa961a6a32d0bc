//! The items of an input: which are passed on, and what may stand in each.
//!
//! What a model answered can be sent back as it came: members of its items that nobody knows are taken where they say nothing.

use super::rules::{known, one_of};
use super::wire::{InputItem, InputItems, ItemPart, ResponsesBody};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::image;
use crate::endpoint::json::{TextOr, Unknown};

/// The longest name of a tool, in bytes. It was a model that wrote it.
const NAME_BYTES_MAX: usize = 256;

/// Checks every item.
pub(super) fn check(items: &InputItems) -> Checked {
    if items.0.is_empty() {
        return Err(FieldError::invalid("input", "must have at least one item"));
    }
    for (at, one) in items.0.iter().enumerate() {
        item(one).map_err(|fault| fault.under(format_args!("input[{at}]")))?;
    }
    Ok(())
}

fn item(item: &InputItem) -> Checked {
    let Some(kind) = item.kind() else {
        return Err(FieldError::missing("type"));
    };
    let (needed, allowed): (&[&str], &[&str]) = match kind {
        "message" => (&["role", "content"], &["phase"]),
        "function_call" => (&["call_id", "name", "arguments"], &[]),
        "custom_tool_call" => (&["call_id", "name", "input"], &[]),
        "function_call_output" | "custom_tool_call_output" => (&["call_id", "output"], &["name"]),
        "reasoning" => (&[], &["summary", "content", "encrypted_content"]),
        "item_reference" => {
            let what = "cannot be `item_reference`, as nothing is stored: send the item itself";
            return Err(FieldError::unsupported("type", what));
        }
        _ => {
            let what = "must be `message`, `function_call`, `function_call_output`, `custom_tool_call`, \
                        `custom_tool_call_output` or `reasoning`: nothing else is supported";
            return Err(FieldError::unsupported("type", what));
        }
    };
    members(item, kind, needed, allowed)?;
    let is_of_model = is_of_model(item);
    known_or_empty(item.unknown.as_deref(), is_of_model)?;
    let statuses = ["in_progress", "completed", "incomplete"];
    one_of("status", item.status.as_deref(), &statuses)?;
    if kind == "message" {
        let roles = ["user", "assistant", "system", "developer"];
        one_of("role", item.role.as_deref(), &roles)?;
        one_of(
            "phase",
            item.phase.as_deref(),
            &["commentary", "final_answer"],
        )?;
    }
    if item
        .name
        .as_ref()
        .is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX)
    {
        let what = format!("must be 1 to {NAME_BYTES_MAX} bytes long");
        return Err(FieldError::invalid("name", what));
    }
    for (name, list) in item.lists() {
        for (at, one) in list.iter().enumerate() {
            part(one, (kind, name, is_of_model))
                .map_err(|fault| fault.under(format_args!("{name}[{at}]")))?;
        }
    }
    Ok(())
}

/// It was the model that wrote it.
fn is_of_model(item: &InputItem) -> bool {
    match item.kind() {
        Some("message") => item.role.as_deref() == Some("assistant"),
        Some("function_call" | "custom_tool_call" | "reasoning") => true,
        _ => false,
    }
}

/// What an item of this type has to have, and what it may have beside its id and status.
fn members(item: &InputItem, kind: &str, needed: &[&str], allowed: &[&str]) -> Checked {
    let members = [
        ("role", item.role.is_some()),
        ("content", item.content.is_some()),
        ("phase", item.phase.is_some()),
        ("call_id", item.call_id.is_some()),
        ("name", item.name.is_some()),
        ("arguments", item.arguments.is_some()),
        ("input", item.input.is_some()),
        ("output", item.output.is_some()),
        ("summary", item.summary.is_some()),
        ("encrypted_content", item.encrypted_content.is_some()),
    ];
    for (name, given) in members {
        let is_needed = needed.contains(&name);
        if is_needed && !given {
            return Err(FieldError::missing(name));
        }
        if given && !is_needed && !allowed.contains(&name) {
            let what = format!("does not belong to an item of type `{kind}`: remove it");
            return Err(FieldError::invalid(name, what));
        }
    }
    Ok(())
}

fn known_or_empty(unknown: Option<&Unknown>, is_of_model: bool) -> Checked {
    known(unknown.filter(|unknown| !(is_of_model && unknown.is_empty)))
}

fn part(part: &ItemPart, (item, list, is_of_model): (&str, &str, bool)) -> Checked {
    for (name, given) in [
        ("file_id", part.file_id.is_some()),
        ("file_url", part.file_url.is_some()),
        ("file_data", part.file_data.is_some()),
    ] {
        if given {
            let what = "is not supported: send text, or an image as a data: URL in `image_url`";
            return Err(FieldError::unsupported(name, what));
        }
    }
    let kind = part
        .kind
        .as_deref()
        .ok_or_else(|| FieldError::missing("type"))?;
    let (allowed, member) = match (item, list) {
        ("reasoning", "summary") => (kind == "summary_text", "text"),
        ("reasoning", _) => (kind == "reasoning_text", "text"),
        _ => match kind {
            "input_text" => (true, "text"),
            "input_image" => (!is_of_model, "image_url"),
            "output_text" => (is_of_model, "text"),
            "refusal" => (is_of_model, "refusal"),
            _ => (false, "text"),
        },
    };
    if !allowed {
        let what = if item == "reasoning" {
            "must be `reasoning_text` in `content`, and `summary_text` in `summary`"
        } else {
            "must be `input_text` or `input_image`; in what the model said, `output_text` or `refusal`: nothing else is \
             supported"
        };
        return Err(FieldError::unsupported("type", what));
    }
    known_or_empty(part.unknown.as_deref(), is_of_model)?;
    for (name, given) in [
        ("text", part.text.is_some()),
        ("refusal", part.refusal.is_some()),
        ("image_url", part.image_url.is_some()),
    ] {
        match (given, name == member) {
            (false, true) => return Err(FieldError::missing(name)),
            (true, false) => {
                let what = format!("does not belong to a part of type `{kind}`: remove it");
                return Err(FieldError::invalid(name, what));
            }
            _ => {}
        }
    }
    if part.detail.is_some() && member != "image_url" {
        let what = "belongs to a part of type `input_image` only: remove it";
        return Err(FieldError::invalid("detail", what));
    }
    image::check_detail(part.detail.as_deref())
}

/// Checks every image, writes those inline in one form, and drops what is accepted and not passed on.
pub(super) fn prepare(request: &mut ResponsesBody) -> Checked {
    let Some(TextOr::Other(items)) = &mut request.input else {
        return Ok(());
    };
    for (at, item) in items.0.iter_mut().enumerate() {
        (item.parsed, item.parsed_arguments) = (None, None);
        let lists = [("content", &mut item.content), ("output", &mut item.output)];
        for (list, parts) in lists {
            let Some(TextOr::Other(parts)) = parts else {
                continue;
            };
            for (place, part) in parts.0.iter_mut().enumerate() {
                part.tidy()
                    .map_err(|fault| fault.under(format_args!("input[{at}].{list}[{place}]")))?;
            }
        }
    }
    Ok(())
}

impl ItemPart {
    fn tidy(&mut self) -> Checked {
        (self.filename, self.parsed) = (None, None);
        match &mut self.image_url {
            Some(url) => image::check_url(url, "image_url"),
            None => Ok(()),
        }
    }
}

impl InputItem {
    /// Reasoning of which the provider kept the content: it cannot be sent to one that stores nothing.
    pub(super) fn is_reasoning_by_id(&self) -> bool {
        self.kind() == Some("reasoning") && self.encrypted_content.is_none()
    }
}

/// The images of a request: the path of each, its URL and its detail.
pub(super) fn images(
    request: &ResponsesBody,
) -> impl Iterator<Item = (String, &str, Option<&str>)> {
    let items = match &request.input {
        Some(TextOr::Other(items)) => items.0.as_slice(),
        _ => &[],
    };
    let parts = items.iter().enumerate().flat_map(|(at, item)| {
        item.lists().into_iter().flat_map(move |(list, parts)| {
            let parts = parts.iter().enumerate();
            parts.map(move |(place, part)| (format!("input[{at}].{list}[{place}]"), part))
        })
    });
    parts.filter_map(|(path, part)| {
        let url = part.image_url.as_deref()?;
        Some((format!("{path}.image_url"), url, part.detail.as_deref()))
    })
}
