//! `[[upstreams]]`: who is asked for answers, and with which key.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::findings::{Complaint, Noted, complaint};
use super::load::{choice, text_of};
use super::plans::name;
use super::reader::{Section, secret};
use super::source::Gathered;
use super::tree::Node;
use super::urls::{Address, address};
use super::way::{authorities, headers, proxy};
use super::{CapName, Dialect, Manner, UpstreamConfig};

/// The upstream that the quick start's variables are about.
const OPENAI: &str = "openai";
const OPENAI_URL: &str = "https://api.openai.com/v1";
const OPENAI_KEY: &str = "OPENAI_API_KEY";
const OPENAI_BASE_URL: &str = "OPENAI_BASE_URL";
/// What ends the name of the variable that holds the key before the one in force.
pub(super) const PREVIOUS: &str = "_PREVIOUS";

/// How long idle connections are kept: OpenAI keeps them for longer than a minute, but many local servers close
/// them after five seconds, and a request on a closing connection fails.
const KEEP_ALIVE_OPENAI: Duration = Duration::from_mins(1);
const KEEP_ALIVE_COMPATIBLE: Duration = Duration::from_secs(4);

/// Servers that `preset` names.
const PRESETS: [(&str, Manner); 14] = [
    (OPENAI, OF_OPENAI),
    // Its newer models refuse `max_tokens`.
    ("azure", Manner { cap_name: CapName::MaxCompletionTokens, ..OF_OTHERS }),
    ("gemini", OF_OTHERS),
    // It refuses members that it does not know, and reports the usage of a stream without being asked.
    ("mistral", Manner { stream_usage: false, ..OF_OTHERS }),
    ("groq", OF_OTHERS),
    ("xai", OF_OTHERS),
    ("deepseek", OF_OTHERS),
    ("openrouter", OF_OTHERS),
    ("together", OF_OTHERS),
    ("ollama", OF_OTHERS),
    ("vllm", OF_OTHERS),
    ("llamacpp", OF_OTHERS),
    ("lmstudio", OF_OTHERS),
    ("compatible", OF_OTHERS),
];
const OF_OPENAI: Manner =
    Manner { dialect: Dialect::Openai, cap_name: CapName::MaxCompletionTokens, stream_usage: true };
const OF_OTHERS: Manner = Manner { dialect: Dialect::Compatible, cap_name: CapName::MaxTokens, stream_usage: true };
/// Hosts whose preset need not be said.
const HOSTS: [(&str, &str); 3] = [("openai.com", OPENAI), ("openai.azure.com", "azure"), ("api.mistral.ai", "mistral")];

/// `[[upstreams]]`, in order.
pub(super) fn upstreams(root: &Section<'_>, gathered: &Gathered) -> Result<Vec<Arc<UpstreamConfig>>, Noted> {
    let elements = root.elements("upstreams")?;
    if elements.is_empty() {
        let fix = "write at least one [[upstreams]], or take the key out for OpenAI";
        return Err(root.wrong("upstreams", complaint("is empty", fix)));
    }
    let read = |(path, node): &(String, Node)| upstream(&Section::of(path.clone(), node, root.findings)?, gathered);
    let upstreams: Vec<_> = elements.iter().filter_map(|element| read(element).ok().map(Arc::new)).collect();
    for (index, upstream) in upstreams.iter().enumerate() {
        if upstreams.iter().take(index).any(|other| other.name == upstream.name) {
            let problem = format!("has two upstreams named `{}`", upstream.name);
            root.wrong("upstreams", complaint(problem, "give each its own name"));
        }
    }
    if base_url_variable(gathered).is_some() && !upstreams.iter().any(|upstream| upstream.name == OPENAI) {
        root.findings.warn(format!("{OPENAI_BASE_URL} is set but moves nothing: no upstream is named `{OPENAI}`"));
    }
    if upstreams.len() == elements.len() { Ok(upstreams) } else { Err(Noted) }
}

/// `OPENAI_BASE_URL`, unless empty.
fn base_url_variable(gathered: &Gathered) -> Option<(&str, &super::tree::Origin)> {
    gathered.variable(OPENAI_BASE_URL).filter(|(value, _)| !value.is_empty())
}

fn upstream(section: &Section<'_>, gathered: &Gathered) -> Result<UpstreamConfig, Noted> {
    let name = section.parsed("name", OPENAI, name);
    let base = base_url(section, gathered);
    let models = section.texts("models");
    let manner = manner(section, base.as_ref().ok());
    let keep_alive = section.maybe_duration("keep_alive", Duration::ZERO..=Duration::from_hours(1));
    let key_variable = section.maybe("api_key_env", OPENAI_KEY, variable_name);
    let (headers, authorities) = (headers(section), authorities(section));
    let proxy = proxy(section, base.as_ref().ok(), gathered);
    section.finish();
    let (name, base, manner) = (name?, base?, manner?);
    let wanted = Wanted { name: &name, base: &base, dialect: manner.dialect, variable: key_variable? };
    let (api_key, api_key_previous) = (api_key(section, &wanted, gathered), previous_key(section, &wanted, gathered));
    let keep_alive =
        keep_alive?.unwrap_or(if is_openai_host(&base) { KEEP_ALIVE_OPENAI } else { KEEP_ALIVE_COMPATIBLE });
    let models = models?;
    section.note("models", patterns(&models))?;
    let (api_key, api_key_previous) = (api_key?, api_key_previous?);
    let headers = headers?;
    if api_key.is_some() && headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION) {
        let what = complaint("has `authorization`, and there is a key too", "write one of the two: api_key_env, or it");
        return Err(section.wrong("headers", what));
    }
    let chat_url = section.note("base_url", chat_url(&base))?;
    Ok(UpstreamConfig {
        base_url: base.text,
        chat_url,
        api_key,
        api_key_previous,
        name,
        models,
        manner,
        keep_alive,
        headers,
        proxy: proxy?.map(Arc::new),
        authorities: authorities?,
    })
}

/// How the server wants requests: by its preset or its host, and what is said of it besides. Its name says nothing: an
/// upstream that is named `openai` may be moved to any server.
fn manner(section: &Section<'_>, base: Option<&Address>) -> Result<Manner, Noted> {
    let preset = section.maybe("preset", OPENAI, |text| choice(text, &PRESETS));
    let dialect = section.maybe("dialect", "compatible", |text| {
        choice(text, &[("openai", Dialect::Openai), ("compatible", Dialect::Compatible)])
    });
    let cap_name = section.maybe("cap_name", "max_tokens", |text| {
        let names = [
            ("max_tokens", CapName::MaxTokens),
            ("max_completion_tokens", CapName::MaxCompletionTokens),
            ("both", CapName::Both),
        ];
        choice(text, &names)
    });
    let stream_usage = section.get("stream_usage").map(|_| section.flag("stream_usage")).transpose();
    let (preset, dialect) = (preset?, dialect?);
    warn_of_a_guess(section, base, preset.is_some() || dialect.is_some());
    let mut manner = preset.or_else(|| of_host(base?)).unwrap_or(OF_OTHERS);
    if let Some(dialect) = dialect.filter(|dialect| *dialect != manner.dialect) {
        manner = Manner::from(dialect);
    }
    manner.cap_name = cap_name?.unwrap_or(manner.cap_name);
    manner.stream_usage = stream_usage?.unwrap_or(manner.stream_usage);
    Ok(manner)
}

fn of_host(base: &Address) -> Option<Manner> {
    let (_, preset) = HOSTS.into_iter().find(|(host, _)| base.is_of(host))?;
    PRESETS.into_iter().find(|(name, _)| *name == preset).map(|(_, manner)| manner)
}

/// OpenAI behind a gateway cannot be told from another server. Taken for one it is not told `store: false`, which could
/// change what a request costs.
fn warn_of_a_guess(section: &Section<'_>, base: Option<&Address>, is_said: bool) {
    let is_named_openai = section.get("name").and_then(text_of) == Some(OPENAI);
    let Some(base) = base.filter(|base| is_named_openai && !is_said && !base.is_loopback()) else { return };
    if of_host(base).is_none() {
        let key = section.path_of("base_url");
        section.findings.warn(format!(
            "{key} is no host of OpenAI, so the server is taken for another one: if it is OpenAI behind a gateway, \
             write preset = \"openai\" under [[upstreams]] (TOLLGATE_UPSTREAMS__0__PRESET), otherwise preset = \"compatible\""
        ));
    }
}

/// `OPENAI_BASE_URL` moves the upstream named `openai`; any other says its own.
fn base_url(section: &Section<'_>, gathered: &Gathered) -> Result<Address, Noted> {
    let example =
        if section.get("name").and_then(text_of) == Some(OPENAI) { OPENAI_URL } else { "http://127.0.0.1:11434/v1" };
    let written = section.maybe("base_url", example, |text| address(text, example))?;
    let moved = base_url_variable(gathered).filter(|_| example == OPENAI_URL);
    let base = match (moved, written) {
        (Some((text, origin)), _) => address(text, OPENAI_URL)
            .map_err(|what| section.findings.error(section.path_of("base_url"), origin, what))?,
        (None, Some(written)) => written,
        (None, None) if example == OPENAI_URL => section.note("base_url", address(OPENAI_URL, OPENAI_URL))?,
        (None, None) => {
            let what = complaint("is missing", format!("add base_url = \"{example}\""));
            return Err(section.wrong("base_url", what));
        }
    };
    warn_about(section, &base);
    Ok(base)
}

fn chat_url(base: &Address) -> Result<http::Uri, Complaint> {
    let url = format!("{}/chat/completions", base.text);
    url.parse().map_err(|_| complaint("is not a URL that a path fits behind", format!("write it like {OPENAI_URL}")))
}

fn warn_about(section: &Section<'_>, base: &Address) {
    let key = section.path_of("base_url");
    if !base.is_https && !base.is_loopback() {
        section.findings.warn(format!("{key} is plain http: the key and every prompt cross the network readable"));
    }
    if base.path.is_empty() {
        section.findings.warn(format!("{key} has no path: most servers expect {}/v1", base.text));
    }
}

fn is_openai_host(base: &Address) -> bool {
    base.is_of("openai.com")
}

fn variable_name(text: &str) -> Result<String, Complaint> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    // Whoever writes the key itself here must not see it in a log.
    Err(complaint(
        "is not the name of a variable",
        "write the name of the variable that holds the key, not the key itself",
    ))
}

fn patterns(models: &[String]) -> Result<(), Complaint> {
    let fix = "list names or patterns, such as models = [\"gpt-*\"]";
    match models.iter().find(|model| model.trim().is_empty()) {
        None if !models.is_empty() => Ok(()),
        None => Err(complaint("is empty or missing", fix)),
        Some(_) => Err(complaint("holds an empty name", fix)),
    }
}

/// What decides whether an upstream needs a key.
struct Wanted<'a> {
    name: &'a str,
    base: &'a Address,
    dialect: Dialect,
    variable: Option<String>,
}

/// The operator's key. An error where one is needed and there is none.
fn api_key(section: &Section<'_>, wanted: &Wanted<'_>, gathered: &Gathered) -> Result<Option<SecretString>, Noted> {
    let is_openai = wanted.dialect == Dialect::Openai;
    let (variable, needed) = match &wanted.variable {
        Some(variable) => (variable.as_str(), true),
        None if is_openai || wanted.name == OPENAI => (OPENAI_KEY, is_openai && !wanted.base.is_loopback()),
        None => return Ok(None),
    };
    match gathered.variable(variable) {
        Some((text, origin)) => {
            let path = format!("{} ({variable})", section.path_of("api_key_env"));
            let read = match gathered.unreadable(variable) {
                Some(what) => Err(what),
                None if text.is_empty() && needed => {
                    Err(complaint("is an empty secret", format!("set {variable} to the key of `{}`", wanted.name)))
                }
                None => key(text),
            };
            read.map(Some).map_err(|what| section.findings.error(path, origin, what))
        }
        None if needed => {
            let fix = format!("set {variable} in the environment or in .env to the key of `{}`", wanted.name);
            let what = complaint(format!("needs a key, and {variable} is not set"), fix);
            Err(section.findings.error(section.path_of("api_key_env"), &gathered.place, what))
        }
        None => Ok(None),
    }
}

/// The key before the one in force, while a rotation goes on. An empty variable is as good as none.
fn previous_key(
    section: &Section<'_>,
    wanted: &Wanted<'_>,
    gathered: &Gathered,
) -> Result<Option<SecretString>, Noted> {
    let known = (wanted.name == OPENAI || wanted.dialect == Dialect::Openai).then_some(OPENAI_KEY);
    let Some(variable) = wanted.variable.as_deref().or(known) else { return Ok(None) };
    let variable = format!("{variable}{PREVIOUS}");
    let said = gathered.variable(&variable).filter(|(text, _)| !text.is_empty());
    let Some((text, origin)) = said else { return Ok(None) };
    key(text).map(Some).map_err(|what| section.findings.error(variable, origin, what))
}

/// A key that can stand in a header.
fn key(text: &str) -> Result<SecretString, Complaint> {
    let key = secret(text)?;
    if key.expose_secret().chars().all(|letter| letter.is_ascii_graphic()) {
        return Ok(key);
    }
    Err(complaint(
        "holds a space, a line break or a letter beyond ASCII",
        "copy the key again, without anything around it",
    ))
}
