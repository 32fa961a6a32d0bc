//! The allow-list of a request for a response: what is passed on, in which type and range.
//!
//! By OpenAI's description of `CreateResponse`. What is not written here is refused by its path. The items have a file of
//! their own.

use super::rules::{in_range, known, named, one_of, only, range};
use super::wire::{ResponsesBody, Set, TextFormat};
use super::{items, tools};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::TextOr;

/// The smallest output cap, as OpenAI has it.
pub(super) const CAP_MIN: u32 = 16;
/// The highest output cap that is taken for one.
const CAP_MAX: i64 = 1 << 31;
/// The longest name of a schema, in bytes.
const SCHEMA_NAME_BYTES_MAX: usize = 64;
/// The highest `temperature`.
const TEMPERATURE_MAX: f64 = 2.0;
/// The highest `top_logprobs`.
const TOP_LOGPROBS_MAX: i64 = 20;
/// The longest `user`, `safety_identifier` and `prompt_cache_key`, in bytes.
const USER_BYTES_MAX: usize = 1024;
/// What `include` may ask for.
pub(super) const SEALED_REASONING: &str = "reasoning.encrypted_content";
/// The same.
pub(super) const LOGPROBS: &str = "message.output_text.logprobs";

/// The fields that the operator may set.
pub(super) const SETTABLE: [&str; 7] = [
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "reasoning_effort",
    "verbosity",
];

/// Checks the fields of [`SETTABLE`].
pub(super) fn settings(set: &Set) -> Checked {
    for (name, cap) in [
        ("max_tokens", set.max_tokens),
        ("max_completion_tokens", set.max_completion_tokens),
        ("max_output_tokens", set.max_output_tokens),
    ] {
        in_range(name, cap, 1..=CAP_MAX)?;
    }
    range("temperature", set.temperature.as_ref(), TEMPERATURE_MAX)?;
    range("top_p", set.top_p.as_ref(), 1.0)?;
    effort("reasoning_effort", set.reasoning_effort.as_deref())?;
    verbosity(set.verbosity.as_deref())
}

/// Checks every member of a request but `model`.
pub(super) fn request(request: &ResponsesBody) -> Checked {
    known(request.unknown.as_deref())?;
    refused(request)?;
    match &request.input {
        None => return Err(FieldError::missing("input")),
        Some(TextOr::Text(text)) if text.is_empty() => {
            return Err(FieldError::invalid("input", "must not be empty"));
        }
        Some(TextOr::Text(_)) => {}
        Some(TextOr::Other(list)) => items::check(list)?,
    }
    numbers(request)?;
    words(request)?;
    reasoning(request)?;
    text(request)?;
    tools::check(request)
}

/// What keeps state elsewhere, or costs money by rules of its own; and what says what happens anyway.
fn refused(request: &ResponsesBody) -> Checked {
    let resend = "is not supported, as nothing is stored: send the earlier items again in `input`";
    let costs = "is not supported: remove it";
    let members = [
        (
            "previous_response_id",
            request.previous_response_id.is_some(),
            resend,
        ),
        ("conversation", request.conversation.is_some(), resend),
        ("prompt", request.prompt.is_some(), costs),
        (
            "context_management",
            request.context_management.is_some(),
            costs,
        ),
        ("moderation", request.moderation.is_some(), costs),
        (
            "prompt_cache_options",
            request.prompt_cache_options.is_some(),
            costs,
        ),
        (
            "prompt_cache_retention",
            request.prompt_cache_retention.is_some(),
            costs,
        ),
        ("store", request.store == Some(true), "can only be false"),
        (
            "background",
            request.background == Some(true),
            "can only be false",
        ),
    ];
    if let Some((name, _, what)) = members.into_iter().find(|(_, given, _)| *given) {
        return Err(FieldError::unsupported(name, what));
    }
    let tier = request.service_tier.as_deref();
    if !matches!(tier, None | Some("auto" | "default")) {
        return Err(FieldError::unsupported(
            "service_tier",
            "can only be `auto` or `default`",
        ));
    }
    for (name, text) in [
        ("user", &request.user),
        ("safety_identifier", &request.safety_identifier),
        ("prompt_cache_key", &request.prompt_cache_key),
    ] {
        if text
            .as_ref()
            .is_some_and(|text| text.len() > USER_BYTES_MAX)
        {
            let what = format!("must not have more than {USER_BYTES_MAX} bytes");
            return Err(FieldError::invalid(name, what));
        }
    }
    Ok(())
}

fn numbers(request: &ResponsesBody) -> Checked {
    in_range(
        "max_output_tokens",
        request.max_output_tokens,
        i64::from(CAP_MIN)..=CAP_MAX,
    )?;
    in_range("max_tool_calls", request.max_tool_calls, 1..=CAP_MAX)?;
    in_range("top_logprobs", request.top_logprobs, 0..=TOP_LOGPROBS_MAX)?;
    range("temperature", request.temperature.as_ref(), TEMPERATURE_MAX)?;
    range("top_p", request.top_p.as_ref(), 1.0)
}

fn words(request: &ResponsesBody) -> Checked {
    one_of(
        "truncation",
        request.truncation.as_deref(),
        &["auto", "disabled"],
    )?;
    let includes = request.include.iter().flat_map(|list| &list.0);
    for (at, include) in includes.enumerate() {
        if !matches!(include.as_str(), SEALED_REASONING | LOGPROBS) {
            let what = format!("can only be `{SEALED_REASONING}` or `{LOGPROBS}`");
            return Err(FieldError::unsupported(format!("include[{at}]"), what));
        }
    }
    let Some(options) = &request.stream_options else {
        return Ok(());
    };
    known(options.unknown.as_deref()).map_err(|fault| fault.under("stream_options"))?;
    if request.stream != Some(true) {
        let what = "needs `stream` to be true";
        return Err(FieldError::invalid("stream_options", what));
    }
    Ok(())
}

fn effort(name: &str, word: Option<&str>) -> Checked {
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    one_of(name, word, &efforts)
}

fn verbosity(word: Option<&str>) -> Checked {
    one_of("verbosity", word, &["low", "medium", "high"])
}

fn reasoning(request: &ResponsesBody) -> Checked {
    let Some(reasoning) = &request.reasoning else {
        return Ok(());
    };
    let checked = || {
        known(reasoning.unknown.as_deref())?;
        if reasoning.mode.is_some() {
            return Err(FieldError::unsupported(
                "mode",
                "is not supported: remove it",
            ));
        }
        effort("effort", reasoning.effort.as_deref())?;
        let summaries = ["auto", "concise", "detailed"];
        one_of("summary", reasoning.summary.as_deref(), &summaries)?;
        one_of(
            "generate_summary",
            reasoning.generate_summary.as_deref(),
            &summaries,
        )?;
        let contexts = ["auto", "current_turn", "all_turns"];
        one_of("context", reasoning.context.as_deref(), &contexts)
    };
    checked().map_err(|fault| fault.under("reasoning"))
}

fn text(request: &ResponsesBody) -> Checked {
    let Some(text) = &request.text else {
        return Ok(());
    };
    let checked = || {
        known(text.unknown.as_deref())?;
        verbosity(text.verbosity.as_deref())?;
        let format = text.format.as_ref().map_or(Ok(()), format);
        format.map_err(|fault| fault.under("format"))
    };
    checked().map_err(|fault| fault.under("text"))
}

fn format(format: &TextFormat) -> Checked {
    known(format.unknown.as_deref())?;
    let members = [
        ("name", format.name.is_some()),
        ("description", format.description.is_some()),
        ("schema", format.schema.is_some()),
        ("strict", format.strict.is_some()),
    ];
    match format.kind.as_deref() {
        Some("json_schema") => {
            if format.schema.is_none() {
                return Err(FieldError::missing("schema"));
            }
            named(format.name.as_deref(), SCHEMA_NAME_BYTES_MAX)
        }
        Some("text" | "json_object") => only(&members, "json_schema"),
        Some(_) => {
            let what = "must be `text`, `json_object` or `json_schema`";
            Err(FieldError::unsupported("type", what))
        }
        None => Err(FieldError::missing("type")),
    }
}
