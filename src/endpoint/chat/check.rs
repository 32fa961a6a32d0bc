//! The allow-list of a chat request: what is passed on, in which type and range.
//!
//! By OpenAI's description of `CreateChatCompletionRequest`. What is not written here is refused by its path. Nothing is
//! changed here; that a request passed these checks is what [`super::Order`] stands for.

use serde_json::Number;

use crate::plan::Plan;

use super::wire::{Function, Message, Part, Request, ResponseFormat, Tool, ToolCall, ToolChoice};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::{TextOr, Unknown};

/// The highest output cap that is taken for one.
const CAP_MAX: i64 = 1 << 31;
/// The longest name of a function or a schema, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The highest `temperature`.
const TEMPERATURE_MAX: f64 = 2.0;
/// The highest `presence_penalty` and `frequency_penalty`.
const PENALTY_MAX: f64 = 2.0;
/// The lowest of both.
const PENALTY_MIN: f64 = -2.0;
/// The highest bias of a token, up and down.
const BIAS_MAX: i64 = 100;
/// The longest sequence in `stop`, in bytes. It is not counted as a part of the prompt, so its own length bounds it.
const STOP_BYTES_MAX: usize = 1024;
/// The longest `user`, in bytes.
const USER_BYTES_MAX: usize = 1024;
/// The highest `top_logprobs`.
const TOP_LOGPROBS_MAX: i64 = 20;

/// The fields that the operator may set. The others belong to the app, or to what is always said anew.
pub(super) const SETTABLE: [&str; 10] = [
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "verbosity",
];

/// Checks the fields of [`SETTABLE`].
pub(super) fn settings(request: &Request) -> Checked {
    caps(request)?;
    ranges(request)?;
    words(request)?;
    stop(request)
}

/// Checks every member of a request but `model`.
pub(super) fn request(request: &Request, plan: &Plan) -> Checked {
    known(request.unknown.as_deref())?;
    messages(request)?;
    caps(request)?;
    numbers(request, plan)?;
    words(request)?;
    logprobs(request)?;
    stop(request)?;
    stream_options(request)?;
    tools(request)?;
    request
        .response_format
        .as_ref()
        .map_or(Ok(()), response_format)
        .map_err(|fault| fault.under("response_format"))?;
    free_of_charge(request)
}

pub(super) fn known(unknown: Option<&Unknown>) -> Checked {
    match unknown {
        None => Ok(()),
        Some(Unknown { name, .. }) => {
            Err(FieldError::unsupported(name, "is not supported: remove it"))
        }
    }
}

/// In a message of the model's, what says nothing may have any name: servers answer with empty members of their own, and
/// what they answer can be sent back.
fn known_or_empty(unknown: Option<&Unknown>, is_assistant: bool) -> Checked {
    known(unknown.filter(|unknown| !(is_assistant && unknown.is_empty)))
}

/// Members that are accepted as long as they say what happens anyway.
fn free_of_charge(request: &Request) -> Checked {
    if !matches!(
        request.service_tier.as_deref(),
        None | Some("auto" | "default")
    ) {
        return Err(FieldError::unsupported(
            "service_tier",
            "can only be `auto` or `default`",
        ));
    }
    if request
        .user
        .as_ref()
        .is_some_and(|user| user.len() > USER_BYTES_MAX)
    {
        return Err(FieldError::invalid(
            "user",
            format!("must not have more than {USER_BYTES_MAX} bytes"),
        ));
    }
    if request.store == Some(true) {
        return Err(FieldError::unsupported("store", "can only be false"));
    }
    let text_only = |list: &Vec<String>| matches!(list.as_slice(), [only] if only == "text");
    if request
        .modalities
        .as_ref()
        .is_some_and(|list| !text_only(&list.0))
    {
        return Err(FieldError::unsupported(
            "modalities",
            "can only be [\"text\"]",
        ));
    }
    Ok(())
}

fn messages(request: &Request) -> Checked {
    let messages = request
        .messages
        .as_ref()
        .ok_or_else(|| FieldError::missing("messages"))?;
    if messages.0.is_empty() {
        return Err(FieldError::invalid(
            "messages",
            "must have at least one message",
        ));
    }
    each(&messages.0, "messages", message)
}

/// Checks each item of a list and tells a fault's place in it.
fn each<T>(items: &[T], name: &str, check: impl Fn(&T) -> Checked) -> Checked {
    for (at, item) in items.iter().enumerate() {
        check(item).map_err(|fault| fault.under(format_args!("{name}[{at}]")))?;
    }
    Ok(())
}

fn message(message: &Message) -> Checked {
    let role = role(message)?;
    let is_assistant = role == "assistant";
    known_or_empty(message.unknown.as_deref(), is_assistant)?;
    if !is_assistant
        && let Some((name, _)) = of_assistants(message).into_iter().find(|(_, given)| *given)
    {
        only(true, false, name, "assistant")?;
    }
    only(
        message.tool_call_id.is_some(),
        role == "tool",
        "tool_call_id",
        "tool",
    )?;
    if role == "tool" && message.tool_call_id.is_none() {
        return Err(FieldError::missing("tool_call_id"));
    }
    if let Some(calls) = &message.tool_calls {
        each(&calls.0, "tool_calls", tool_call)?;
    }
    match &message.content {
        // Servers leave it out or empty beside calls and thoughts, and where nothing was left to be said.
        None if is_assistant => Ok(()),
        None => Err(FieldError::missing("content")),
        Some(TextOr::Text(_)) => Ok(()),
        Some(TextOr::Other(parts)) if parts.0.is_empty() && !is_assistant => {
            not_empty(&parts.0, "content")
        }
        Some(TextOr::Other(parts)) => each(&parts.0, "content", |item| part(item, role)),
    }
}

/// What only the model's messages have, and whether this one has it.
fn of_assistants(message: &Message) -> [(&'static str, bool); 10] {
    [
        ("tool_calls", message.tool_calls.is_some()),
        ("refusal", message.refusal.is_some()),
        ("reasoning", message.reasoning.is_some()),
        ("reasoning_content", message.reasoning_content.is_some()),
        ("reasoning_details", message.reasoning_details.is_some()),
        ("thinking_blocks", message.thinking_blocks.is_some()),
        ("extra_content", message.extra_content.is_some()),
        (
            "provider_specific_fields",
            message.provider_specific_fields.is_some(),
        ),
        ("annotations", message.annotations.is_some()),
        ("parsed", message.parsed.is_some()),
    ]
}

fn role(message: &Message) -> Result<&str, FieldError> {
    match message.role.as_deref() {
        Some(role @ ("developer" | "system" | "user" | "assistant" | "tool")) => Ok(role),
        Some("function") => Err(FieldError::unsupported(
            "role",
            "cannot be `function`: use `tool` and `tool_call_id`",
        )),
        Some(_) => Err(FieldError::invalid(
            "role",
            "must be `developer`, `system`, `user`, `assistant` or `tool`",
        )),
        None => Err(FieldError::missing("role")),
    }
}

fn only(given: bool, allowed: bool, name: &str, role: &str) -> Checked {
    if given && !allowed {
        return Err(FieldError::invalid(
            name,
            format!("belongs to messages of role `{role}` only: remove it"),
        ));
    }
    Ok(())
}

fn not_empty<T>(items: &[T], name: &str) -> Checked {
    if items.is_empty() {
        Err(FieldError::invalid(
            name,
            "must not be empty: fill it or remove it",
        ))
    } else {
        Ok(())
    }
}

fn part(part: &Part, role: &str) -> Checked {
    let kind = part
        .kind
        .as_deref()
        .ok_or_else(|| FieldError::missing("type"))?;
    let allowed = match kind {
        "text" => true,
        "refusal" | "thinking" => role == "assistant",
        "image_url" => role == "user",
        _ => {
            return Err(FieldError::unsupported(
                "type",
                "must be `text` or `image_url`: nothing else is supported",
            ));
        }
    };
    if !allowed {
        return Err(FieldError::invalid(
            "type",
            format!("cannot be `{kind}` in a message of role `{role}`"),
        ));
    }
    known_or_empty(part.unknown.as_deref(), role == "assistant")?;
    let members = [
        ("text", part.text.is_some()),
        ("refusal", part.refusal.is_some()),
        ("image_url", part.image_url.is_some()),
        ("thinking", part.thinking.is_some()),
    ];
    for (name, given) in [
        ("signature", part.signature.is_some()),
        ("closed", part.closed.is_some()),
    ] {
        if given && kind != "thinking" {
            return Err(FieldError::invalid(
                name,
                "belongs to a part of type `thinking` only: remove it",
            ));
        }
    }
    for (name, given) in members {
        match (given, name == kind) {
            (false, true) => return Err(FieldError::missing(name)),
            (true, false) => {
                return Err(FieldError::invalid(
                    name,
                    format!("does not belong to a part of type `{kind}`: remove it"),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn tool_call(call: &ToolCall) -> Checked {
    is_function(call.kind.as_deref())?;
    known_or_empty(call.unknown.as_deref(), true)?;
    call.id.as_ref().ok_or_else(|| FieldError::missing("id"))?;
    let function = call
        .function
        .as_ref()
        .ok_or_else(|| FieldError::missing("function"))?;
    let checked = || {
        known_or_empty(function.unknown.as_deref(), true)?;
        function_name(function.name.as_deref())?;
        function
            .arguments
            .as_ref()
            .map_or_else(|| Err(FieldError::missing("arguments")), |_| Ok(()))
    };
    checked().map_err(|fault| fault.under("function"))
}

fn tools(request: &Request) -> Checked {
    if let Some(tools) = &request.tools {
        not_empty(&tools.0, "tools")?;
        each(&tools.0, "tools", tool)?;
    }
    match &request.tool_choice {
        Some(TextOr::Text(mode)) if !matches!(mode.as_str(), "none" | "auto" | "required") => {
            Err(FieldError::invalid(
                "tool_choice",
                "must be `none`, `auto`, `required` or a function",
            ))
        }
        Some(TextOr::Other(choice)) => {
            tool_choice(choice).map_err(|fault| fault.under("tool_choice"))
        }
        _ => Ok(()),
    }
}

fn tool(tool: &Tool) -> Checked {
    is_function(tool.kind.as_deref())?;
    known(tool.unknown.as_deref())?;
    let described = tool
        .function
        .as_ref()
        .ok_or_else(|| FieldError::missing("function"))?;
    function(described).map_err(|fault| fault.under("function"))
}

fn function(function: &Function) -> Checked {
    known(function.unknown.as_deref())?;
    function_name(function.name.as_deref())
}

fn tool_choice(choice: &ToolChoice) -> Checked {
    is_function(choice.kind.as_deref())?;
    known(choice.unknown.as_deref())?;
    let function = choice
        .function
        .as_ref()
        .ok_or_else(|| FieldError::missing("function"))?;
    let checked =
        known(function.unknown.as_deref()).and_then(|()| function_name(function.name.as_deref()));
    checked.map_err(|fault| fault.under("function"))
}

/// Hosted tools cost money by rules of their own.
fn is_function(kind: Option<&str>) -> Checked {
    match kind {
        Some("function") => Ok(()),
        Some(_) => Err(FieldError::unsupported("type", "can only be `function`")),
        None => Err(FieldError::missing("type")),
    }
}

fn function_name(name: Option<&str>) -> Checked {
    let name = name.ok_or_else(|| FieldError::missing("name"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(FieldError::invalid(
            "name",
            format!("must be 1 to {NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, `_` and `-`"),
        ));
    }
    Ok(())
}

fn response_format(format: &ResponseFormat) -> Checked {
    let schema = match (format.kind.as_deref(), &format.json_schema) {
        (Some("text" | "json_object"), None) => return known(format.unknown.as_deref()),
        (Some("text" | "json_object"), Some(_)) => {
            return Err(FieldError::invalid(
                "json_schema",
                "belongs to type `json_schema` only: remove it",
            ));
        }
        (Some("json_schema"), Some(schema)) => schema,
        (Some("json_schema"), None) => return Err(FieldError::missing("json_schema")),
        (Some(_), _) => {
            return Err(FieldError::unsupported(
                "type",
                "must be `text`, `json_object` or `json_schema`",
            ));
        }
        (None, _) => return Err(FieldError::missing("type")),
    };
    known(format.unknown.as_deref())?;
    let checked =
        known(schema.unknown.as_deref()).and_then(|()| function_name(schema.name.as_deref()));
    checked.map_err(|fault| fault.under("json_schema"))
}

fn caps(request: &Request) -> Checked {
    let caps = [
        ("max_tokens", request.max_tokens),
        ("max_completion_tokens", request.max_completion_tokens),
    ];
    for (name, cap) in caps {
        if cap.is_some_and(|cap| !(1..=CAP_MAX).contains(&cap)) {
            return Err(FieldError::invalid(
                name,
                "must be between 1 and 2147483648",
            ));
        }
    }
    match (request.max_tokens, request.max_completion_tokens) {
        (Some(old), Some(new)) if old != new => Err(FieldError::invalid(
            "max_completion_tokens",
            "differs from `max_tokens`: send one of them",
        )),
        _ => Ok(()),
    }
}

fn ranges(request: &Request) -> Checked {
    let ranges = [
        ("temperature", &request.temperature, 0.0, TEMPERATURE_MAX),
        ("top_p", &request.top_p, 0.0, 1.0),
        (
            "presence_penalty",
            &request.presence_penalty,
            PENALTY_MIN,
            PENALTY_MAX,
        ),
        (
            "frequency_penalty",
            &request.frequency_penalty,
            PENALTY_MIN,
            PENALTY_MAX,
        ),
    ];
    for (name, number, least, most) in ranges {
        let number = number.as_ref().and_then(Number::as_f64);
        if number.is_some_and(|number| !(least..=most).contains(&number)) {
            return Err(FieldError::invalid(
                name,
                format!("must be between {least} and {most}"),
            ));
        }
    }
    Ok(())
}

fn numbers(request: &Request, plan: &Plan) -> Checked {
    ranges(request)?;
    let choices = i64::from(plan.max_choices.max(1));
    if request.n.is_some_and(|n| !(1..=choices).contains(&n)) {
        let what = if choices == 1 {
            "can only be 1 in this plan".to_owned()
        } else {
            format!("must be between 1 and {choices} in this plan")
        };
        return Err(FieldError::invalid("n", what));
    }
    let biases = request.logit_bias.iter().flat_map(|biases| &biases.0);
    match biases
        .into_iter()
        .find(|(_, bias)| !(-BIAS_MAX..=BIAS_MAX).contains(*bias))
    {
        Some((token, _)) => Err(FieldError::invalid(
            format!("logit_bias.{token}"),
            format!("must be between -{BIAS_MAX} and {BIAS_MAX}"),
        )),
        None => Ok(()),
    }
}

fn words(request: &Request) -> Checked {
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    one_of(
        "reasoning_effort",
        request.reasoning_effort.as_deref(),
        &efforts,
    )?;
    one_of(
        "verbosity",
        request.verbosity.as_deref(),
        &["low", "medium", "high"],
    )
}

fn one_of(name: &str, word: Option<&str>, words: &[&str]) -> Checked {
    match word {
        Some(word) if !words.contains(&word) => Err(FieldError::invalid(
            name,
            format!("must be one of: {}", words.join(", ")),
        )),
        _ => Ok(()),
    }
}

fn logprobs(request: &Request) -> Checked {
    let Some(top) = request.top_logprobs else {
        return Ok(());
    };
    if !(0..=TOP_LOGPROBS_MAX).contains(&top) {
        return Err(FieldError::invalid(
            "top_logprobs",
            format!("must be between 0 and {TOP_LOGPROBS_MAX}"),
        ));
    }
    if request.logprobs != Some(true) {
        return Err(FieldError::invalid(
            "top_logprobs",
            "needs `logprobs` to be true",
        ));
    }
    Ok(())
}

fn stop(request: &Request) -> Checked {
    let is_short = |sequence: &String| sequence.len() <= STOP_BYTES_MAX;
    let sequences = match &request.stop {
        None => return Ok(()),
        Some(TextOr::Text(only)) => std::slice::from_ref(only),
        Some(TextOr::Other(sequences)) => &sequences.0,
    };
    not_empty(sequences, "stop")?;
    match sequences.iter().position(|sequence| !is_short(sequence)) {
        None => Ok(()),
        Some(_) => Err(FieldError::invalid(
            "stop",
            format!("must not have a sequence of more than {STOP_BYTES_MAX} bytes"),
        )),
    }
}

fn stream_options(request: &Request) -> Checked {
    let Some(options) = &request.stream_options else {
        return Ok(());
    };
    known(options.unknown.as_deref()).map_err(|fault| fault.under("stream_options"))?;
    if request.stream != Some(true) {
        return Err(FieldError::invalid(
            "stream_options",
            "needs `stream` to be true",
        ));
    }
    Ok(())
}
