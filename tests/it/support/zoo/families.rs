//! The families, a row of facts each.

use super::{Cached, Family, Place, Prompt, Reasoning, Shape, Waits};

/// What most compatible servers do.
const PLAIN: Family = Family {
    name: "",
    settings: "dialect = \"compatible\"",
    prompt: Prompt::Bytes(20),
    caps: &["max_completion_tokens", "max_tokens"],
    refuses: &[],
    refuses_by: 400,
    calls_itself: "{}",
    cached: Cached::Nested,
    reasoning: Reasoning::Inside,
    shows: &["reasoning_content"],
    usage: Place::Asked,
    done: true,
    between: "",
    before_whole: "",
    unfinished: "null",
    works_on: false,
    shape: Shape::OpenAi,
    waits: Waits::Header("17", "17"),
};

/// All that are played.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "openai",
        settings: "preset = \"openai\"",
        prompt: Prompt::Words,
        caps: &["max_completion_tokens"],
        refuses: &["max_tokens"],
        calls_itself: "{}-2026-07-18",
        shows: &[],
        ..PLAIN
    },
    Family {
        name: "azure",
        settings: "preset = \"azure\"",
        prompt: Prompt::Words,
        calls_itself: "{}-2026-07-18",
        shows: &[],
        shape: Shape::Azure,
        ..PLAIN
    },
    Family {
        name: "xai",
        settings: "preset = \"xai\"",
        reasoning: Reasoning::Beside,
        usage: Place::Last,
        shape: Shape::Xai,
        prompt: Prompt::Bytes(120),
        ..PLAIN
    },
    Family {
        name: "gemini",
        settings: "preset = \"gemini\"",
        cached: Cached::Never,
        reasoning: Reasoning::InTotal,
        shows: &[],
        usage: Place::Every,
        works_on: true,
        shape: Shape::Google,
        waits: Waits::Body("39.2s", "40"),
        ..PLAIN
    },
    Family {
        name: "deepseek",
        settings: "preset = \"deepseek\"",
        caps: &["max_tokens"],
        cached: Cached::HitAndMiss,
        usage: Place::Last,
        between: ": keep-alive\n\n",
        before_whole: "\n\n\n",
        ..PLAIN
    },
    Family {
        name: "moonshot",
        caps: &["max_tokens"],
        cached: Cached::Top,
        reasoning: Reasoning::Unnamed,
        usage: Place::Choice,
        waits: Waits::Header("1.9", "2"),
        ..PLAIN
    },
    Family {
        name: "mistral",
        settings: "preset = \"mistral\"",
        caps: &["max_tokens"],
        refuses: &["stream_options", "max_completion_tokens"],
        refuses_by: 422,
        reasoning: Reasoning::Unnamed,
        shows: &[],
        usage: Place::Last,
        shape: Shape::Mistral,
        ..PLAIN
    },
    Family {
        name: "groq",
        settings: "preset = \"groq\"",
        shows: &["reasoning"],
        usage: Place::XGroq,
        works_on: true,
        waits: Waits::Header("7.66", "8"),
        ..PLAIN
    },
    Family {
        name: "openrouter",
        settings: "preset = \"openrouter\"",
        calls_itself: "vendor/{}",
        shows: &["reasoning"],
        usage: Place::Own,
        between: ": OPENROUTER PROCESSING\n\n",
        works_on: true,
        shape: Shape::Numbered,
        ..PLAIN
    },
    Family {
        name: "vertex",
        calls_itself: "google/{}",
        cached: Cached::Never,
        reasoning: Reasoning::Beside,
        shows: &[],
        usage: Place::Last,
        works_on: true,
        shape: Shape::Google,
        waits: Waits::Body("0.5s", "1"),
        ..PLAIN
    },
    Family {
        name: "anthropic",
        prompt: Prompt::Bytes(180),
        cached: Cached::CacheRead,
        reasoning: Reasoning::Unnamed,
        shows: &[],
        shape: Shape::Anthropic,
        ..PLAIN
    },
    Family {
        name: "ollama",
        settings: "preset = \"ollama\"",
        caps: &["max_tokens"],
        prompt: Prompt::Bytes(60),
        cached: Cached::Never,
        reasoning: Reasoning::Unnamed,
        shows: &["reasoning"],
        shape: Shape::Numbered,
        ..PLAIN
    },
    Family {
        name: "vllm",
        settings: "preset = \"vllm\"",
        prompt: Prompt::Bytes(300),
        reasoning: Reasoning::Unnamed,
        shows: &["reasoning", "reasoning_content"],
        usage: Place::Every,
        shape: Shape::Vllm,
        ..PLAIN
    },
    Family {
        name: "llamacpp",
        settings: "preset = \"llamacpp\"",
        caps: &["max_tokens"],
        calls_itself: "gpt-3.5-turbo",
        cached: Cached::Never,
        reasoning: Reasoning::Unnamed,
        shape: Shape::Numbered,
        ..PLAIN
    },
    Family {
        name: "lmstudio",
        settings: "preset = \"lmstudio\"",
        caps: &["max_tokens"],
        cached: Cached::Never,
        reasoning: Reasoning::Unnamed,
        usage: Place::Never,
        done: false,
        shape: Shape::Text,
        ..PLAIN
    },
    Family {
        name: "together",
        settings: "preset = \"together\"",
        ..PLAIN
    },
];
