//! `[[upstreams]]`: the providers, their models and their keys.

use std::sync::Arc;
use std::time::Duration;

use super::UpstreamConfig;
use super::findings::{Invalid, Problem};
use super::plans::name;
use super::presets::{PRESETS, Preset};
use super::reader::Section;
use super::source::RawSettings;
use super::tree::Node;
use super::upstream_keys::{KeyRequirement, OPENAI, OPENAI_KEY, api_key, previous_key};
use super::urls::{Address, address};
use super::values::{choice, text_of};
use super::way::{authorities, headers, proxy};
use crate::dialect::{CapName, Dialect, Manner};

/// The default address of the upstream named `openai`, and the variable that moves it.
const OPENAI_URL: &str = "https://api.openai.com/v1";
const OPENAI_BASE_URL: &str = "OPENAI_BASE_URL";

/// The longest name of a beta, and how many may be listed.
const BETA_BYTES_MAX: usize = 64;
const BETAS_MAX: usize = 32;

/// How long idle connections are kept: OpenAI keeps them for longer than a minute, but many local servers close
/// them after five seconds, and a request on a closing connection fails.
const KEEP_ALIVE_OPENAI: Duration = Duration::from_mins(1);
const KEEP_ALIVE_COMPATIBLE: Duration = Duration::from_secs(4);

/// `[[upstreams]]`, in order.
pub(super) fn upstreams(
    root: &Section<'_>,
    raw: &RawSettings,
) -> Result<Vec<Arc<UpstreamConfig>>, Invalid> {
    let elements = root.elements("upstreams")?;
    if elements.is_empty() {
        let fix = "write at least one [[upstreams]], or take the key out for OpenAI";
        return Err(root.wrong("upstreams", Problem::new("is empty", fix)));
    }
    let read = |(path, node): &(String, Node)| {
        upstream(&Section::of(path.clone(), node, root.findings)?, raw)
    };
    let upstreams: Vec<_> = elements
        .iter()
        .filter_map(|element| read(element).ok().map(Arc::new))
        .collect();
    for (index, upstream) in upstreams.iter().enumerate() {
        if upstreams
            .iter()
            .take(index)
            .any(|other| other.name == upstream.name)
        {
            let problem = format!("has two upstreams named `{}`", upstream.name);
            root.wrong("upstreams", Problem::new(problem, "give each its own name"));
        }
    }
    if base_url_variable(raw).is_some() && !upstreams.iter().any(|upstream| upstream.name == OPENAI)
    {
        root.findings.warn(format!(
            "{OPENAI_BASE_URL} is set but moves nothing: no upstream is named `{OPENAI}`"
        ));
    }
    if upstreams.len() == elements.len() {
        Ok(upstreams)
    } else {
        Err(Invalid)
    }
}

/// `OPENAI_BASE_URL`, unless empty.
fn base_url_variable(raw: &RawSettings) -> Option<(&str, &super::tree::Origin)> {
    raw.variable(OPENAI_BASE_URL)
        .filter(|(value, _)| !value.is_empty())
}

fn upstream(section: &Section<'_>, raw: &RawSettings) -> Result<UpstreamConfig, Invalid> {
    let said = section.maybe("preset", OPENAI, |text| {
        choice(text, &PRESETS.map(|preset| (preset.name, preset)))
    });
    let preset = said.as_ref().ok().copied().flatten();
    let name = match preset {
        Some(preset) => section
            .maybe("name", OPENAI, name)
            .map(|name| name.unwrap_or_else(|| preset.name.to_owned())),
        None => section.parsed("name", OPENAI, name),
    };
    let base = base_url(section, raw, preset);
    let models = models(section, preset);
    let manner = manner(section, base.as_ref().ok(), preset);
    let keep_alive = section.maybe_duration("keep_alive", Duration::ZERO..=Duration::from_hours(1));
    let key_variable = section.maybe("api_key_env", OPENAI_KEY, variable_name);
    let (headers, authorities) = (headers(section), authorities(section));
    let anthropic_beta = anthropic_beta(section);
    let proxy = proxy(section, base.as_ref().ok(), raw);
    section.finish();
    let (_, name, base, manner) = (said?, name?, base?, manner?);
    let requirement = KeyRequirement {
        name: &name,
        base: &base,
        dialect: manner.dialect,
        preset,
        variable: key_variable?,
    };
    let (api_key, api_key_previous) = (
        api_key(section, &requirement, raw),
        previous_key(section, &requirement, raw),
    );
    let keep_alive = keep_alive?.unwrap_or(if is_openai_host(&base) {
        KEEP_ALIVE_OPENAI
    } else {
        KEEP_ALIVE_COMPATIBLE
    });
    let models = models?;
    section.note("models", patterns(&models))?;
    let (api_key, api_key_previous) = (api_key?, api_key_previous?);
    let headers = headers?;
    if api_key.is_some()
        && headers
            .iter()
            .any(|(name, _)| *name == key_header(manner.dialect))
    {
        let what = Problem::new(
            format!(
                "has `{}`, and there is a key too",
                key_header(manner.dialect)
            ),
            "write one of the two: api_key_env, or it",
        );
        return Err(section.wrong("headers", what));
    }
    let base_uri = section.note("base_url", base_uri(&base))?;
    Ok(UpstreamConfig {
        base_url: base.text,
        base_uri,
        api_key,
        api_key_previous,
        name,
        models,
        manner,
        keep_alive,
        anthropic_beta: anthropic_beta?,
        headers,
        proxy: proxy?.map(Arc::new),
        authorities: authorities?,
    })
}

/// How the server wants requests: by its preset or its host, and what is said of it besides. Its name says nothing: an
/// upstream that is named `openai` may be moved to any server.
fn manner(
    section: &Section<'_>,
    base: Option<&Address>,
    preset: Option<Preset>,
) -> Result<Manner, Invalid> {
    let dialect = section.maybe("dialect", "compatible", |text| {
        choice(
            text,
            &[
                ("openai", Dialect::Openai),
                ("compatible", Dialect::Compatible),
                ("anthropic", Dialect::Anthropic),
            ],
        )
    });
    let cap_name = section.maybe("cap_name", "max_tokens", |text| {
        let names = [
            ("max_tokens", CapName::MaxTokens),
            ("max_completion_tokens", CapName::MaxCompletionTokens),
            ("both", CapName::Both),
        ];
        choice(text, &names)
    });
    let stream_usage = section
        .get("stream_usage")
        .map(|_| section.flag("stream_usage"))
        .transpose();
    let dialect = dialect?;
    warn_of_a_guess(section, base, preset.is_some() || dialect.is_some());
    let known = preset.map(|preset| preset.manner);
    let mut manner = known
        .or_else(|| of_host(base?))
        .unwrap_or_else(|| Dialect::Compatible.into());
    if let Some(dialect) = dialect.filter(|dialect| *dialect != manner.dialect) {
        manner = Manner::from(dialect);
    }
    manner.cap_name = cap_name?.unwrap_or(manner.cap_name);
    manner.stream_usage = stream_usage?.unwrap_or(manner.stream_usage);
    Ok(manner)
}

/// The header that carries the key.
const fn key_header(dialect: Dialect) -> http::HeaderName {
    match dialect {
        Dialect::Anthropic => http::HeaderName::from_static("x-api-key"),
        Dialect::Openai | Dialect::Compatible => http::header::AUTHORIZATION,
    }
}

/// Names of betas that may be asked for: what each of them costs is the operator's to know.
fn anthropic_beta(section: &Section<'_>) -> Result<Vec<String>, Invalid> {
    let names = section.texts("anthropic_beta")?;
    let is_plain = |name: &String| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=BETA_BYTES_MAX).contains(&name.len()) && name.bytes().all(known)
    };
    if names.len() <= BETAS_MAX && names.iter().all(is_plain) {
        return Ok(names);
    }
    let problem = "holds something that is no name of a beta, or too many";
    let fix = "write them as Anthropic does: anthropic_beta = [\"context-1m-2025-08-07\"]";
    Err(section.wrong("anthropic_beta", Problem::new(problem, fix)))
}

fn of_host(base: &Address) -> Option<Manner> {
    Preset::of_host(|host| base.is_of(host)).map(|preset| preset.manner)
}

/// OpenAI behind a gateway looks like any other server. If it is treated as another server, `store: false` is not sent, which could
/// change what a request costs.
fn warn_of_a_guess(section: &Section<'_>, base: Option<&Address>, is_said: bool) {
    let is_named_openai = section.get("name").and_then(text_of) == Some(OPENAI);
    let Some(base) = base.filter(|base| is_named_openai && !is_said && !base.is_loopback()) else {
        return;
    };
    if of_host(base).is_none() {
        let key = section.path_of("base_url");
        section.findings.warn(format!(
            "{key} is no host of OpenAI, so the server is taken for another one: if it is OpenAI behind a gateway, \
             write preset = \"openai\" under [[upstreams]] (TOLLGATE_UPSTREAMS__0__PRESET), otherwise preset = \"compatible\""
        ));
    }
}

/// `OPENAI_BASE_URL` moves the upstream named `openai`; others have their own `base_url`, or their preset's.
fn base_url(
    section: &Section<'_>,
    raw: &RawSettings,
    preset: Option<Preset>,
) -> Result<Address, Invalid> {
    let name = section.get("name").and_then(text_of);
    let is_openai = name.or(preset.map(|preset| preset.name)) == Some(OPENAI);
    let own = preset.and_then(|preset| preset.base_url);
    let own = own.or(is_openai.then_some(OPENAI_URL));
    let example = own.unwrap_or("http://127.0.0.1:11434/v1");
    let written = section.maybe("base_url", example, |text| address(text, example))?;
    let moved = base_url_variable(raw).filter(|_| is_openai);
    let base = match (moved, written, own) {
        (Some((text, origin)), _, _) => address(text, OPENAI_URL).map_err(|what| {
            section
                .findings
                .error(section.path_of("base_url"), origin, what)
        })?,
        (None, Some(written), _) => written,
        (None, None, Some(own)) => section.note("base_url", address(own, own))?,
        (None, None, None) => {
            let what = Problem::new("is missing", format!("add base_url = \"{example}\""));
            return Err(section.wrong("base_url", what));
        }
    };
    warn_about(section, &base);
    Ok(base)
}

/// The models that are written, or else those of the preset.
fn models(section: &Section<'_>, preset: Option<Preset>) -> Result<Vec<String>, Invalid> {
    let written = section.texts("models")?;
    if section.get("models").is_some() {
        return Ok(written);
    }
    let of_preset = preset.into_iter().flat_map(|preset| preset.models);
    Ok(of_preset.copied().map(str::to_owned).collect())
}

fn base_uri(base: &Address) -> Result<http::Uri, Problem> {
    base.text.parse().map_err(|_| {
        Problem::new(
            "is not a URL that a path fits behind",
            format!("write it like {OPENAI_URL}"),
        )
    })
}

fn warn_about(section: &Section<'_>, base: &Address) {
    let key = section.path_of("base_url");
    if !base.is_https && !base.is_loopback() {
        section.findings.warn(format!(
            "{key} is plain http: the key and every prompt cross the network readable"
        ));
    }
    if base.path.is_empty() {
        section.findings.warn(format!(
            "{key} has no path: most servers expect {}/v1",
            base.text
        ));
    }
}

fn is_openai_host(base: &Address) -> bool {
    base.is_of("openai.com")
}

fn variable_name(text: &str) -> Result<String, Problem> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    // Somebody may write the key itself here: it must not get into a log.
    Err(Problem::new(
        "is not the name of a variable",
        "write the name of the variable that holds the key, not the key itself",
    ))
}

fn patterns(models: &[String]) -> Result<(), Problem> {
    let fix = "list names or patterns, such as models = [\"gpt-*\"]";
    match models.iter().find(|model| model.trim().is_empty()) {
        None if !models.is_empty() => Ok(()),
        None => Err(Problem::new("is empty or missing", fix)),
        Some(_) => Err(Problem::new("holds an empty name", fix)),
    }
}
