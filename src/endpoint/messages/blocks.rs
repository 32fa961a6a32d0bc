//! What a block may hold, by its type and by whose message it stands in.

use super::image;
use super::members::{cache_control, each, known, tool_name};
use super::wire::{Block, InnerBlock, Source, inner};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::Unknown;
use crate::endpoint::schema::Json;

/// The longest id of a call.
const ID_BYTES_MAX: usize = 256;

/// A type of block: whose messages may have it, its members, and those of them that have to be there.
struct Kind {
    name: &'static str,
    roles: &'static [&'static str],
    members: &'static [&'static str],
    needed: &'static [&'static str],
}

const KINDS: [Kind; 7] = [
    Kind {
        name: "text",
        roles: &["user", "assistant", "system"],
        members: &["text", "citations", "cache_control"],
        needed: &["text"],
    },
    Kind {
        name: "image",
        roles: &["user"],
        members: &["source", "cache_control"],
        needed: &["source"],
    },
    Kind {
        name: "document",
        roles: &["user"],
        members: &["source", "title", "context", "citations", "cache_control"],
        needed: &["source"],
    },
    Kind {
        name: "tool_use",
        roles: &["assistant"],
        members: &["id", "name", "input", "caller", "cache_control"],
        needed: &["id", "name", "input"],
    },
    Kind {
        name: "tool_result",
        roles: &["user"],
        members: &["tool_use_id", "content", "is_error", "cache_control"],
        needed: &["tool_use_id"],
    },
    Kind {
        name: "thinking",
        roles: &["assistant"],
        members: &["thinking", "signature"],
        needed: &["thinking", "signature"],
    },
    Kind {
        name: "redacted_thinking",
        roles: &["assistant"],
        members: &["data"],
        needed: &["data"],
    },
];

/// A block of a message of this role.
pub(super) fn block(block: &Block, role: &str) -> Checked {
    let given = [
        ("text", block.text.is_some()),
        ("citations", block.citations.is_some()),
        ("source", block.source.is_some()),
        ("title", block.title.is_some()),
        ("context", block.context.is_some()),
        ("id", block.id.is_some()),
        ("name", block.name.is_some()),
        ("input", block.input.is_some()),
        ("caller", block.caller.is_some()),
        ("tool_use_id", block.tool_use_id.is_some()),
        ("content", block.content.is_some()),
        ("is_error", block.is_error.is_some()),
        ("thinking", block.thinking.is_some()),
        ("signature", block.signature.is_some()),
        ("data", block.data.is_some()),
        ("cache_control", block.cache_control.is_some()),
    ];
    let unknown = block.unknown.as_deref();
    let kind = kind(block.kind.as_deref(), role, (&given, unknown))?;
    cache_control(block.cache_control.as_deref())?;
    citations(kind, block.citations.as_ref())?;
    if let Some(source) = &block.source {
        self::source(kind, source).map_err(|fault| fault.under("source"))?;
    }
    match kind {
        "tool_use" => tool_use(block),
        "tool_result" => {
            id("tool_use_id", block.tool_use_id.as_deref())?;
            each(inner(block.content.as_ref()), "content", result_block)
        }
        _ => Ok(()),
    }
}

/// A block of the system prompt.
pub(super) fn system_block(block: &InnerBlock) -> Checked {
    inner_block(block, "system").map(drop)
}

/// A block of what a tool gave.
fn result_block(block: &InnerBlock) -> Checked {
    let kind = inner_block(block, "user")?;
    let Some(source) = &block.source else {
        return Ok(());
    };
    source_of(kind, source)
}

fn inner_block<'a>(block: &'a InnerBlock, role: &str) -> Result<&'a str, FieldError> {
    let given = [
        ("text", block.text.is_some()),
        ("citations", block.citations.is_some()),
        ("source", block.source.is_some()),
        ("title", block.title.is_some()),
        ("context", block.context.is_some()),
        ("cache_control", block.cache_control.is_some()),
    ];
    let unknown = block.unknown.as_deref();
    let kind = kind(block.kind.as_deref(), role, (&given, unknown))?;
    if !matches!(kind, "text" | "image" | "document") {
        let what = format!("cannot be `{kind}` here");
        return Err(FieldError::invalid("type", what));
    }
    cache_control(block.cache_control.as_deref())?;
    citations(kind, block.citations.as_ref())?;
    Ok(kind)
}

/// The type of a block with these members.
fn kind<'a>(
    said: Option<&'a str>,
    role: &str,
    (given, unknown): (&[(&str, bool)], Option<&Unknown>),
) -> Result<&'a str, FieldError> {
    let said = said.ok_or_else(|| FieldError::missing("type"))?;
    let Some(kind) = KINDS.iter().find(|kind| kind.name == said) else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let what = format!("must be one of: {}", names.join(", "));
        return Err(FieldError::unsupported("type", what));
    };
    if !kind.roles.contains(&role) {
        let what = format!("cannot be `{said}` in a message of role `{role}`");
        return Err(FieldError::invalid("type", what));
    }
    // What a server answered is sent back with all that it said, also with what it left empty.
    known(unknown.filter(|unknown| !(role == "assistant" && unknown.is_empty)))?;
    for (name, given) in given {
        match (*given, kind.members.contains(name)) {
            (false, _) if kind.needed.contains(name) => return Err(FieldError::missing(*name)),
            (true, false) => {
                let what = format!("does not belong to a block of type `{said}`: remove it");
                return Err(FieldError::invalid(*name, what));
            }
            _ => {}
        }
    }
    Ok(said)
}

/// A document that is quoted is cut into sentences and marked by the provider, by rules that are not known.
fn citations(kind: &str, citations: Option<&Json>) -> Checked {
    let Some(citations) = citations else {
        return Ok(());
    };
    let (is_off, what) = if kind == "document" {
        let is_off = citations.text() == r#"{"enabled":false}"# || citations.is_empty();
        (is_off, "can only be {\"enabled\": false}")
    } else {
        (citations.is_empty(), "must be empty: remove it")
    };
    if is_off {
        Ok(())
    } else {
        Err(FieldError::unsupported("citations", what))
    }
}

fn tool_use(block: &Block) -> Checked {
    id("id", block.id.as_deref())?;
    tool_name(block.name.as_deref().unwrap_or_default())?;
    let input = block.input.as_ref().map(Json::text);
    if !input.is_some_and(|input| input.starts_with('{')) {
        return Err(FieldError::invalid("input", "must be an object"));
    }
    let caller = block.caller.as_ref().map(Json::text);
    if !matches!(caller, None | Some(r#"{"type":"direct"}"#)) {
        let what = "can only be {\"type\": \"direct\"}";
        return Err(FieldError::unsupported("caller", what));
    }
    Ok(())
}

fn id(name: &str, id: Option<&str>) -> Checked {
    if id.is_some_and(|id| (1..=ID_BYTES_MAX).contains(&id.len())) {
        return Ok(());
    }
    let what = format!("must have 1 to {ID_BYTES_MAX} bytes");
    Err(FieldError::invalid(name, what))
}

fn source_of(kind: &str, source: &Source) -> Checked {
    self::source(kind, source).map_err(|fault| fault.under("source"))
}

/// A picture, or a document whose text is there.
fn source(kind: &str, source: &Source) -> Checked {
    known(source.unknown.as_deref())?;
    let said = source.kind.as_deref();
    let said = said.ok_or_else(|| FieldError::missing("type"))?;
    if said == "file" {
        let what = "cannot be `file`: files that the provider keeps are not supported";
        return Err(FieldError::unsupported("type", what));
    }
    let members: &[&str] = match (kind, said) {
        ("image", "base64") | ("document", "text") => &["media_type", "data"],
        ("image", "url") => &["url"],
        ("document", "content") => &["content"],
        ("image", _) => {
            let what = "must be `base64` or `url`";
            return Err(FieldError::unsupported("type", what));
        }
        _ => {
            let what = "must be `text` or `content`: send the text of a PDF";
            return Err(FieldError::unsupported("type", what));
        }
    };
    let given = [
        ("media_type", source.media_type.is_some()),
        ("data", source.data.is_some()),
        ("url", source.url.is_some()),
        ("content", source.content.is_some()),
    ];
    for (name, given) in given {
        match (given, members.contains(&name)) {
            (false, true) => return Err(FieldError::missing(name)),
            (true, false) => {
                let what = format!("does not belong to a source of type `{said}`: remove it");
                return Err(FieldError::invalid(name, what));
            }
            _ => {}
        }
    }
    if kind == "image" {
        return image::check(source);
    }
    if said == "text" && source.media_type.as_deref() != Some("text/plain") {
        return Err(FieldError::invalid("media_type", "must be `text/plain`"));
    }
    each(inner(source.content.as_ref()), "content", |block| {
        let kind = inner_block(block, "user")?;
        match (kind, &block.source) {
            ("image", Some(source)) => source_of("image", source),
            ("text", _) => Ok(()),
            _ => Err(FieldError::invalid("type", "must be `text` or `image`")),
        }
    })
}
