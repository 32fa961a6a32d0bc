//! The allow-list of a request: what is passed on, in which type and range.
//!
//! By Anthropic's description of its Messages API. What is not written here is refused by its path: what costs money by
//! rules of its own (tools that run at the provider, containers, other tiers), keeps state there (files by id), or cannot
//! be bounded (PDF files, citations).

use serde_json::Number;

use super::blocks;
use super::members::{cache_control, each, known, one_of, tool_name};
use super::wire::{Message, OutputConfig, Request, Thinking, Tool, ToolChoice, inner};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::TextOr;

/// The highest output cap that is taken for one.
const CAP_MAX: i64 = 1 << 31;
/// The least that a model may be given to think, as Anthropic has it.
pub(super) const BUDGET_MIN: u32 = 1024;
/// The longest sequence in `stop_sequences`, in bytes. It is no part of the prompt, so its own length bounds it.
const STOP_BYTES_MAX: usize = 1024;
/// The longest `metadata.user_id`, in bytes.
const USER_BYTES_MAX: usize = 1024;
/// The highest `top_k`.
const TOP_K_MAX: i64 = 1_000_000;
/// The most characters of a file that an editor may be asked for.
const CHARACTERS_MAX: i64 = 1 << 31;

/// Tools that Anthropic has defined and the app runs, and the names that they have to have.
const CLIENT_TOOLS: [(&str, &str); 5] = [
    ("bash_20250124", "bash"),
    ("text_editor_20250124", "str_replace_editor"),
    ("text_editor_20250429", "str_replace_based_edit_tool"),
    ("text_editor_20250728", "str_replace_based_edit_tool"),
    ("memory_20250818", "memory"),
];

/// The fields that the operator may set.
pub(super) const SETTABLE: [&str; 5] = [
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "output_config",
];

/// Checks the fields of [`SETTABLE`].
pub(super) fn settings(request: &Request) -> Checked {
    sampling(request)?;
    stops(request)?;
    output_config(request.output_config.as_ref())
}

/// Checks every member of a request but `model`.
pub(super) fn request(request: &Request) -> Checked {
    common(request)?;
    let cap = request.max_tokens.ok_or_else(|| {
        FieldError::invalid("max_tokens", "is missing: say how long the answer may be")
    })?;
    if !(1..=CAP_MAX).contains(&cap) {
        let what = "must be between 1 and 2147483648";
        return Err(FieldError::invalid("max_tokens", what));
    }
    budget_below(request.thinking.as_ref(), cap)?;
    sampling(request)?;
    stops(request)?;
    let user = request.metadata.as_ref();
    user.map_or(Ok(()), |user| {
        known(user.unknown.as_deref()).map_err(|fault| fault.under("metadata"))
    })?;
    let user = user.and_then(|user| user.user_id.as_ref());
    if user.is_some_and(|user| user.len() > USER_BYTES_MAX) {
        let what = format!("must not have more than {USER_BYTES_MAX} bytes");
        return Err(FieldError::invalid("metadata.user_id", what));
    }
    if !matches!(
        request.service_tier.as_deref(),
        None | Some("auto" | "standard_only")
    ) {
        let what = "can only be `auto` or `standard_only`";
        return Err(FieldError::unsupported("service_tier", what));
    }
    Ok(())
}

/// Checks a request to count a prompt, which has nothing that is about an answer.
pub(super) fn count(request: &Request) -> Checked {
    let of_answers = [
        ("max_tokens", request.max_tokens.is_some()),
        ("stop_sequences", request.stop_sequences.is_some()),
        ("stream", request.stream.is_some()),
        ("temperature", request.temperature.is_some()),
        ("top_p", request.top_p.is_some()),
        ("top_k", request.top_k.is_some()),
        ("metadata", request.metadata.is_some()),
        ("service_tier", request.service_tier.is_some()),
    ];
    if let Some((name, _)) = of_answers.into_iter().find(|(_, given)| *given) {
        let what = "is not supported where tokens are counted: remove it";
        return Err(FieldError::unsupported(name, what));
    }
    common(request)
}

/// What both kinds of requests have.
fn common(request: &Request) -> Checked {
    known(request.unknown.as_deref())?;
    let messages = request
        .messages
        .as_ref()
        .ok_or_else(|| FieldError::missing("messages"))?;
    not_empty(&messages.0, "messages")?;
    each(&messages.0, "messages", message)?;
    each(
        inner(request.system.as_ref()),
        "system",
        blocks::system_block,
    )?;
    tools(request)?;
    thinking(request.thinking.as_ref())?;
    output_config(request.output_config.as_ref())?;
    cache_control(request.cache_control.as_deref())
}

fn not_empty<T>(items: &[T], name: &str) -> Checked {
    if items.is_empty() {
        let what = "must not be empty: fill it or remove it";
        return Err(FieldError::invalid(name, what));
    }
    Ok(())
}

fn message(message: &Message) -> Checked {
    let role = match message.role.as_deref() {
        Some(role @ ("user" | "assistant" | "system")) => role,
        Some(_) => {
            let what = "must be `user`, `assistant` or `system`";
            return Err(FieldError::invalid("role", what));
        }
        None => return Err(FieldError::missing("role")),
    };
    // What a server answered is sent back with all that it said, also with what it left empty.
    let unknown = message.unknown.as_deref();
    known(unknown.filter(|unknown| !(role == "assistant" && unknown.is_empty)))?;
    match &message.content {
        None => Err(FieldError::missing("content")),
        Some(TextOr::Text(_)) => Ok(()),
        Some(TextOr::Other(blocks)) => {
            each(&blocks.0, "content", |block| blocks::block(block, role))
        }
    }
}

fn tools(request: &Request) -> Checked {
    if let Some(tools) = &request.tools {
        each(&tools.0, "tools", tool)?;
    }
    let choice = request.tool_choice.as_ref();
    choice.map_or(Ok(()), |choice| {
        tool_choice(choice).map_err(|fault| fault.under("tool_choice"))
    })
}

fn tool(tool: &Tool) -> Checked {
    let kind = tool.kind.as_deref().unwrap_or("custom");
    let client = CLIENT_TOOLS.into_iter().find(|(known, _)| *known == kind);
    if kind != "custom" && client.is_none() {
        let what = "must be `custom`: tools that run at the provider are not supported";
        return Err(FieldError::unsupported("type", what));
    }
    known(tool.unknown.as_deref())?;
    cache_control(tool.cache_control.as_deref())?;
    let name = tool.name.as_deref();
    let name = name.ok_or_else(|| FieldError::missing("name"))?;
    tool_name(name)?;
    let Some((_, own_name)) = client else {
        if tool.max_characters.is_some() {
            let what = "does not belong to a tool of your own: remove it";
            return Err(FieldError::invalid("max_characters", what));
        }
        let schema = tool.input_schema.as_ref();
        return schema.map_or_else(|| Err(FieldError::missing("input_schema")), |_| Ok(()));
    };
    if name != own_name {
        let what = format!("must be `{own_name}` for this type");
        return Err(FieldError::invalid("name", what));
    }
    let own = [
        ("input_schema", tool.input_schema.is_some()),
        ("description", tool.description.is_some()),
        ("input_examples", tool.input_examples.is_some()),
    ];
    if let Some((name, _)) = own.into_iter().find(|(_, given)| *given) {
        let what = "does not belong to a tool of this type: remove it";
        return Err(FieldError::invalid(name, what));
    }
    in_range("max_characters", tool.max_characters, 1..=CHARACTERS_MAX)
}

fn tool_choice(choice: &ToolChoice) -> Checked {
    known(choice.unknown.as_deref())?;
    let kind = choice.kind.as_deref();
    let kind = kind.ok_or_else(|| FieldError::missing("type"))?;
    one_of("type", Some(kind), &["auto", "any", "tool", "none"])?;
    match (&choice.name, kind == "tool") {
        (None, true) => Err(FieldError::missing("name")),
        (Some(_), false) => Err(FieldError::invalid(
            "name",
            "belongs to type `tool` only: remove it",
        )),
        (Some(name), true) => tool_name(name),
        (None, false) => Ok(()),
    }
}

fn thinking(thinking: Option<&Thinking>) -> Checked {
    let Some(thinking) = thinking else {
        return Ok(());
    };
    let checked = || {
        known(thinking.unknown.as_deref())?;
        let kind = thinking.kind.as_deref();
        let kind = kind.ok_or_else(|| FieldError::missing("type"))?;
        let kinds = ["enabled", "adaptive", "between_tools", "disabled"];
        one_of("type", Some(kind), &kinds)?;
        let display = thinking.display.as_deref();
        one_of("display", display, &["summarized", "omitted"])?;
        match (thinking.budget_tokens, kind == "enabled") {
            (None, true) => Err(FieldError::missing("budget_tokens")),
            (Some(_), false) => Err(FieldError::invalid(
                "budget_tokens",
                "belongs to type `enabled` only: remove it",
            )),
            (Some(budget), true) if budget < i64::from(BUDGET_MIN) => Err(FieldError::invalid(
                "budget_tokens",
                format!("must be at least {BUDGET_MIN}"),
            )),
            _ => Ok(()),
        }
    };
    checked().map_err(|fault| fault.under("thinking"))
}

fn budget_below(thinking: Option<&Thinking>, cap: i64) -> Checked {
    let budget = thinking.and_then(|thinking| thinking.budget_tokens);
    if budget.is_some_and(|budget| budget >= cap) {
        let what = "must be less than `max_tokens`";
        return Err(FieldError::invalid("thinking.budget_tokens", what));
    }
    Ok(())
}

fn output_config(config: Option<&OutputConfig>) -> Checked {
    let Some(config) = config else {
        return Ok(());
    };
    let checked = || {
        known(config.unknown.as_deref())?;
        let efforts = ["low", "medium", "high", "xhigh", "max"];
        one_of("effort", config.effort.as_deref(), &efforts)?;
        let Some(format) = &config.format else {
            return Ok(());
        };
        let checked = || {
            known(format.unknown.as_deref())?;
            match format.kind.as_deref() {
                Some("json_schema") => {}
                Some(_) => return Err(FieldError::unsupported("type", "must be `json_schema`")),
                None => return Err(FieldError::missing("type")),
            }
            let schema = format.schema.as_ref();
            schema.map_or_else(|| Err(FieldError::missing("schema")), |_| Ok(()))
        };
        checked().map_err(|fault| fault.under("format"))
    };
    checked().map_err(|fault| fault.under("output_config"))
}

fn sampling(request: &Request) -> Checked {
    for (name, number) in [
        ("temperature", &request.temperature),
        ("top_p", &request.top_p),
    ] {
        let number = number.as_ref().and_then(Number::as_f64);
        if number.is_some_and(|number| !(0.0..=1.0).contains(&number)) {
            return Err(FieldError::invalid(name, "must be between 0 and 1"));
        }
    }
    in_range("top_k", request.top_k, 0..=TOP_K_MAX)
}

fn in_range(name: &str, number: Option<i64>, range: std::ops::RangeInclusive<i64>) -> Checked {
    if number.is_some_and(|number| !range.contains(&number)) {
        let what = format!("must be between {} and {}", range.start(), range.end());
        return Err(FieldError::invalid(name, what));
    }
    Ok(())
}

fn stops(request: &Request) -> Checked {
    let sequences = request.stop_sequences.iter().flat_map(|list| &list.0);
    let fits = |sequence: &String| (1..=STOP_BYTES_MAX).contains(&sequence.len());
    match sequences.into_iter().position(|sequence| !fits(sequence)) {
        None => Ok(()),
        Some(at) => Err(FieldError::invalid(
            format!("stop_sequences[{at}]"),
            format!("must have 1 to {STOP_BYTES_MAX} bytes"),
        )),
    }
}
