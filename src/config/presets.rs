//! What is known of the servers that `preset` names: their address, the variable of their key, their models, and how they want
//! requests to be written. Each key of `[[upstreams]]` overrides it.

use crate::dialect::{CapName, Dialect, Manner};

/// A provider, or a server of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// As in `preset = "…"`.
    pub name: &'static str,
    /// Its address; none where everybody has another.
    pub base_url: Option<&'static str>,
    /// The variable that holds its key; none where it needs none.
    pub api_key_env: Option<&'static str>,
    /// Names and patterns of its models; none where everybody names them as they like.
    pub models: &'static [&'static str],
    pub(super) manner: Manner,
}

const OF_OPENAI: Manner = Manner {
    dialect: Dialect::Openai,
    cap_name: CapName::MaxCompletionTokens,
    stream_usage: true,
};
const OF_OTHERS: Manner = Manner {
    dialect: Dialect::Compatible,
    cap_name: CapName::MaxTokens,
    stream_usage: true,
};
const OF_ANTHROPIC: Manner = Manner {
    dialect: Dialect::Anthropic,
    ..OF_OTHERS
};
/// Any server that speaks OpenAI's API.
const COMPATIBLE: Preset = Preset {
    name: "compatible",
    base_url: None,
    api_key_env: None,
    models: &[],
    manner: OF_OTHERS,
};

/// Every preset.
pub const PRESETS: [Preset; 15] = [
    Preset {
        name: "openai",
        base_url: Some("https://api.openai.com/v1"),
        api_key_env: Some("OPENAI_API_KEY"),
        models: &["gpt-*", "o*", "chatgpt-*", "text-embedding-*"],
        manner: OF_OPENAI,
    },
    Preset {
        name: "anthropic",
        base_url: Some("https://api.anthropic.com/v1"),
        api_key_env: Some("ANTHROPIC_API_KEY"),
        models: &["claude-*"],
        manner: OF_ANTHROPIC,
    },
    Preset {
        name: "azure",
        api_key_env: Some("AZURE_OPENAI_API_KEY"),
        // Its newer models refuse `max_tokens`.
        manner: Manner {
            cap_name: CapName::MaxCompletionTokens,
            ..OF_OTHERS
        },
        ..COMPATIBLE
    },
    Preset {
        name: "gemini",
        base_url: Some("https://generativelanguage.googleapis.com/v1beta/openai"),
        api_key_env: Some("GEMINI_API_KEY"),
        models: &["gemini-*", "gemma-*"],
        ..COMPATIBLE
    },
    Preset {
        name: "mistral",
        base_url: Some("https://api.mistral.ai/v1"),
        api_key_env: Some("MISTRAL_API_KEY"),
        models: &[
            "mistral-*",
            "ministral-*",
            "magistral-*",
            "codestral-*",
            "devstral-*",
            "pixtral-*",
            "open-*",
        ],
        // It refuses members that it does not know, and reports the usage of a stream without being asked.
        manner: Manner {
            stream_usage: false,
            ..OF_OTHERS
        },
    },
    Preset {
        name: "groq",
        base_url: Some("https://api.groq.com/openai/v1"),
        api_key_env: Some("GROQ_API_KEY"),
        models: &[
            "llama-*",
            "meta-llama/*",
            "openai/gpt-oss-*",
            "qwen/*",
            "moonshotai/*",
        ],
        ..COMPATIBLE
    },
    Preset {
        name: "xai",
        base_url: Some("https://api.x.ai/v1"),
        api_key_env: Some("XAI_API_KEY"),
        models: &["grok-*"],
        ..COMPATIBLE
    },
    Preset {
        name: "deepseek",
        base_url: Some("https://api.deepseek.com/v1"),
        api_key_env: Some("DEEPSEEK_API_KEY"),
        models: &["deepseek-*"],
        ..COMPATIBLE
    },
    Preset {
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        api_key_env: Some("OPENROUTER_API_KEY"),
        models: &["*/*"],
        ..COMPATIBLE
    },
    Preset {
        name: "together",
        base_url: Some("https://api.together.xyz/v1"),
        api_key_env: Some("TOGETHER_API_KEY"),
        models: &["*/*"],
        ..COMPATIBLE
    },
    Preset {
        name: "ollama",
        base_url: Some("http://127.0.0.1:11434/v1"),
        ..COMPATIBLE
    },
    Preset {
        name: "vllm",
        base_url: Some("http://127.0.0.1:8000/v1"),
        ..COMPATIBLE
    },
    Preset {
        name: "llamacpp",
        base_url: Some("http://127.0.0.1:8080/v1"),
        ..COMPATIBLE
    },
    Preset {
        name: "lmstudio",
        base_url: Some("http://127.0.0.1:1234/v1"),
        ..COMPATIBLE
    },
    COMPATIBLE,
];

/// Hosts whose preset is known.
const HOSTS: [(&str, &str); 3] = [
    ("openai.com", "openai"),
    ("openai.azure.com", "azure"),
    ("api.mistral.ai", "mistral"),
];

impl Preset {
    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// How a server is spoken to of which only the host is known.
    pub(super) fn of_host(is_of: impl Fn(&str) -> bool) -> Option<&'static Self> {
        let (_, name) = HOSTS.into_iter().find(|(host, _)| is_of(host))?;
        Self::named(name)
    }
}
