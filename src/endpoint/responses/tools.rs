//! The tools of a request: functions, and custom tools, whose input is text. Both run in the app.

use super::rules::{known, named, one_of, only};
use super::wire::{ChosenTool, InputFormat, OfferedTool, ResponsesBody, ToolName};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::TextOr;

/// The longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 128;

pub(super) fn check(request: &ResponsesBody) -> Checked {
    for (at, offered) in request.tools.iter().flat_map(|list| &list.0).enumerate() {
        tool(offered).map_err(|fault| fault.under(format_args!("tools[{at}]")))?;
    }
    match &request.tool_choice {
        Some(TextOr::Text(mode)) => {
            let modes = ["none", "auto", "required"];
            one_of("tool_choice", Some(mode.as_str()), &modes)
        }
        Some(TextOr::Other(choice)) => {
            tool_choice(choice).map_err(|fault| fault.under("tool_choice"))
        }
        None => Ok(()),
    }
}

/// Hosted tools cost money by rules of their own, or reach further than this server sees.
fn tool(tool: &OfferedTool) -> Checked {
    let members = [
        ("parameters", tool.parameters.is_some()),
        ("strict", tool.strict.is_some()),
    ];
    match kind_of_tool(tool.kind.as_deref())? {
        "custom" => only(&members, "function")?,
        _ => only(&[("format", tool.format.is_some())], "custom")?,
    }
    known(tool.unknown.as_deref())?;
    named(tool.name.as_deref(), NAME_BYTES_MAX)?;
    let format = tool.format.as_ref().map_or(Ok(()), input_format);
    format.map_err(|fault| fault.under("format"))
}

fn kind_of_tool(kind: Option<&str>) -> Result<&str, FieldError> {
    match kind {
        Some(kind @ ("function" | "custom")) => Ok(kind),
        Some(_) => {
            let what = "can only be `function` or `custom`";
            Err(FieldError::unsupported("type", what))
        }
        None => Err(FieldError::missing("type")),
    }
}

fn input_format(format: &InputFormat) -> Checked {
    known(format.unknown.as_deref())?;
    match format.kind.as_deref() {
        Some("text") => only(
            &[
                ("syntax", format.syntax.is_some()),
                ("definition", format.definition.is_some()),
            ],
            "grammar",
        ),
        Some("grammar") => {
            one_of("syntax", format.syntax.as_deref(), &["lark", "regex"])?;
            let is_whole = format.syntax.is_some() && format.definition.is_some();
            let missing = if format.syntax.is_none() {
                "syntax"
            } else {
                "definition"
            };
            if is_whole {
                Ok(())
            } else {
                Err(FieldError::missing(missing))
            }
        }
        Some(_) => Err(FieldError::unsupported(
            "type",
            "must be `text` or `grammar`",
        )),
        None => Err(FieldError::missing("type")),
    }
}

fn tool_choice(choice: &ChosenTool) -> Checked {
    known(choice.unknown.as_deref())?;
    match choice.kind.as_deref() {
        Some("function" | "custom") => {
            let members = [
                ("mode", choice.mode.is_some()),
                ("tools", choice.tools.is_some()),
            ];
            only(&members, "allowed_tools")?;
            named(choice.name.as_deref(), NAME_BYTES_MAX)
        }
        Some("allowed_tools") => {
            one_of("mode", choice.mode.as_deref(), &["auto", "required"])?;
            let allowed = choice.tools.iter().flat_map(|list| &list.0);
            for (at, tool) in allowed.enumerate() {
                tool_name(tool).map_err(|fault| fault.under(format_args!("tools[{at}]")))?;
            }
            Ok(())
        }
        Some(_) => {
            let what = "can only be `function`, `custom` or `allowed_tools`";
            Err(FieldError::unsupported("type", what))
        }
        None => Err(FieldError::missing("type")),
    }
}

fn tool_name(tool: &ToolName) -> Checked {
    known(tool.unknown.as_deref())?;
    kind_of_tool(tool.kind.as_deref())?;
    named(tool.name.as_deref(), NAME_BYTES_MAX)
}
