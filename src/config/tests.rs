//! Settings at the door: files and variables in, a config or complaints out.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::*;
use crate::dialect::{CapName, Dialect, Manner};
use crate::plan::{Limit, Per, Unit};

const SECRET: &str = "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa";
const KEY: &str = "sk-canary-operator-key";

/// A working directory of its own, gone at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-config-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The quick start's variables, with `more` over them.
pub(super) fn env(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let quick = [("JWT_SECRET", SECRET), ("OPENAI_API_KEY", KEY)];
    quick
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn load_all(
    toml: &str,
    dot_env: &str,
    env: BTreeMap<String, String>,
) -> Result<Config, ConfigErrors> {
    let dir = Dir::new();
    if !toml.is_empty() {
        dir.write("tollgate.toml", toml);
    }
    if !dot_env.is_empty() {
        dir.write(".env", dot_env);
    }
    Config::load(&Sources {
        file: None,
        env,
        directory: dir.0.clone(),
    })
}

fn load(toml: &str, more: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    load_all(toml, "", env(more))
}

fn good(toml: &str, more: &[(&str, &str)]) -> Config {
    load(toml, more).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The one complaint about these settings, as people see it.
pub(super) fn complaint(toml: &str, more: &[(&str, &str)]) -> String {
    let Err(errors) = load(toml, more) else {
        panic!("accepted: {toml} {more:?}")
    };
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.0[0].to_string()
}

#[test]
fn two_variables_are_enough() {
    let config = good("", &[]);
    assert_eq!(config.server.bind, "0.0.0.0:8080");
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(
        config.store.url.sqlite().unwrap().file_name().unwrap(),
        "tollgate.db"
    );
    assert_eq!(config.auth.issuer, "");
    assert_eq!(config.auth.plan_claim, ["app_metadata", "plan"]);
    assert_eq!(config.ceiling, Some(MicroUsd(50_000_000)));
    assert_eq!(config.file, None);
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.name.as_str(), upstream.base_url.as_str()),
        ("openai", "https://api.openai.com/v1")
    );
    assert_eq!(
        (upstream.manner.dialect, upstream.keep_alive),
        (Dialect::Openai, Duration::from_mins(1))
    );
    assert_eq!(upstream.api_key.as_ref().unwrap().expose_secret(), KEY);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let free = &config.plans.default;
    let models = [
        "gpt-6-luna",
        "gpt-4o-mini",
        "gpt-3.5-turbo",
        "gpt-4.1-mini",
        "gpt-4.1-nano",
        "gpt-5-mini",
        "gpt-5-nano",
    ];
    assert_eq!(free.models, models);
    assert_eq!(free.reasoning_effort_max, Some(crate::model::Effort::None));
    assert_eq!(
        (
            free.max_output_tokens,
            free.max_input_tokens,
            free.max_choices
        ),
        (1024, 32000, 1)
    );
    assert_eq!(free.concurrent_requests, Some(2));
    let limit = Limit::of_all;
    let expected = [
        limit(Per::Minute, Unit::Requests, 10),
        limit(Per::Day, Unit::Requests, 50),
        limit(Per::Month, Unit::CostUsd, 500_000),
    ];
    assert_eq!(free.limits, expected);
}

#[test]
fn the_example_file_means_exactly_the_defaults() {
    let (from_file, from_nothing) = (good(EXAMPLE, &[]), good("", &[]));
    let told = |config: &Config| {
        let store = config
            .store
            .url
            .sqlite()
            .unwrap()
            .file_name()
            .map(std::ffi::OsStr::to_owned);
        format!(
            "{:?} {:?} {store:?} {:?} {:?} {:?} {:?} {:?}",
            config.server,
            config.auth,
            config.store.lease,
            config.directory,
            config.proxy,
            config.ceiling,
            (&config.upstreams, &config.plans)
        )
    };
    assert_eq!(told(&from_file), told(&from_nothing));
    assert_eq!(from_file.prices, from_nothing.prices);
    assert!(from_file.file.is_some());
}

#[test]
fn every_key_that_can_be_written_stands_in_the_example_file() {
    let findings = findings::Findings::default();
    let everything = format!("{EXAMPLE}\n[prices.x]\nfree = true\n[models.x]\nuse = [\"gpt-4o\"]");
    let dir = Dir::new();
    dir.write("tollgate.toml", &everything);
    let sources = Sources {
        file: None,
        env: env(&[]),
        directory: dir.0.clone(),
    };
    assert!(load::read(&sources, &findings).is_ok());
    let known: BTreeSet<String> = findings
        .known()
        .iter()
        .filter_map(|key| key.rsplit('.').next())
        .map(str::to_owned)
        .collect();
    assert!(known.len() > 50, "{known:?}");
    let prices = [
        "input",
        "cached_input",
        "cache_write",
        "cache_write_1h",
        "output",
        "image_input",
        "cached_image_input",
        "image_output",
        "audio_input",
        "audio_output",
        "minute",
        "characters",
        "image",
        "long",
        "above",
        "reasoning",
        "tokenizer",
        "free",
    ];
    for key in known
        .iter()
        .map(String::as_str)
        .chain(prices)
        .filter(|key| !["x", "ceiling", "free"].contains(key))
    {
        let stands = EXAMPLE.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ', '[']);
            line.split(['=', ']', '.'])
                .next()
                .is_some_and(|name| name.trim() == key)
                || EXAMPLE.contains(&format!("{key} ="))
                || EXAMPLE.contains(&format!(".{key}]"))
        });
        let in_words =
            EXAMPLE.contains(&format!("{key}, ")) || EXAMPLE.contains(&format!(", {key}."));
        assert!(
            stands || in_words,
            "{key} is missing in tollgate.example.toml"
        );
    }
}

#[test]
fn the_later_source_wins() {
    let file = "[server]\nopen_requests_max = 1\nbody_timeout = \"1s\"\nheader_timeout = \"1s\"\nshutdown_grace = \"1s\"";
    let dot_env = "TOLLGATE_SERVER__BODY_TIMEOUT=2s\nTOLLGATE_SERVER__HEADER_TIMEOUT='2s'\n";
    let config = load_all(
        file,
        dot_env,
        env(&[("TOLLGATE_SERVER__HEADER_TIMEOUT", "3s")]),
    )
    .unwrap();
    let server = config.server;
    assert_eq!(server.shutdown_grace, Duration::from_secs(1));
    assert_eq!(server.body_timeout, Duration::from_secs(2));
    assert_eq!(server.header_timeout, Duration::from_secs(3));
    assert_eq!(
        (server.open_requests_max, server.body_bytes_max),
        (1, 8 << 20)
    );
}

#[test]
fn a_log_level_is_a_word_or_says_more_of_a_part() {
    for level in [
        "info",
        "OFF",
        "warn,tollgate=debug",
        "info, tollgate::proxy = trace",
    ] {
        let read = good(&format!("[server]\nlog_level = \"{level}\""), &[])
            .server
            .log_level;
        assert_eq!(read, level.replace(' ', ""));
    }
}

#[test]
fn a_dot_env_file_is_read_and_not_put_into_the_environment() {
    let dot_env = format!(
        "# mine\nexport JWT_SECRET='{SECRET}'\nOPENAI_API_KEY=\"{KEY}\"\nPORT=9\nTOLLGATE_DOT_ENV_CANARY_OF_OTHERS_=1"
    );
    let dot_env = dot_env.replace("TOLLGATE_DOT_ENV_CANARY_OF_OTHERS_", "DOT_ENV_CANARY");
    let config = load_all("", &dot_env, BTreeMap::new()).unwrap();
    assert_eq!(config.server.bind, "0.0.0.0:9");
    assert_eq!(
        config.upstreams[0]
            .api_key
            .as_ref()
            .unwrap()
            .expose_secret(),
        KEY
    );
    assert!(std::env::var_os("DOT_ENV_CANARY").is_none());
}

#[test]
fn a_broken_dot_env_is_refused_without_repeating_its_lines() {
    for (line, what) in [
        ("JWT_SECRET='canary-unclosed", "quote"),
        ("JWT_SECRET=a canary", "white space"),
    ] {
        let Err(errors) = load_all("", &format!("PORT=1\n\n{line}\n"), env(&[])) else {
            panic!("accepted")
        };
        let told = errors.to_string();
        assert!(
            told.contains(".env") && told.contains("line 3") && told.contains("JWT_SECRET"),
            "{told}"
        );
        assert!(told.contains(what) && told.contains("Fix: "), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
}

#[test]
fn a_line_of_another_program_stops_nothing_but_who_asks_for_it() {
    let dot_env = "APP_NAME=My App\nif true; then\nMSG='tis\nGROQ_KEY=a canary\nPORT=9\n";
    assert_eq!(
        load_all("", dot_env, env(&[])).unwrap().server.bind,
        "0.0.0.0:9"
    );
    let upstream = "[[upstreams]]\nname = \"g\"\nbase_url = \"https://x.y/v1\"\nmodels = [\"*\"]\napi_key_env = \"GROQ_KEY\"";
    let told = load_all(upstream, dot_env, env(&[]))
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("GROQ_KEY in line 4") && told.contains("white space"),
        "{told}"
    );
    assert!(!told.contains("canary"), "{told}");
}

#[test]
fn a_dollar_in_a_dot_env_is_a_dollar() {
    let secret = "Zf3kP0s9ZQm1xT7vB2nR8cJ5$mQp1R$Tw5${HOME}";
    for written in [
        secret.to_owned(),
        format!("'{secret}'"),
        format!("\"{secret}\""),
    ] {
        let config = load_all(
            "",
            &format!("\u{FEFF}JWT_SECRET={written}\r\nOPENAI_API_KEY={KEY}\r\n"),
            BTreeMap::new(),
        );
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.auth.jwt_secret.unwrap().expose_secret(), secret);
    }
}

#[test]
fn a_private_supabase_may_be_plain_http_and_is_warned_about() {
    for (url, warnings) in [
        ("http://localhost:54321", 0),
        ("http://kong:8000", 1),
        ("http://host.docker.internal:54321", 1),
        ("http://192.168.1.5:8000", 1),
    ] {
        let config = good("", &[("SUPABASE_URL", url)]);
        assert_eq!(
            config.warnings.len(),
            warnings,
            "{url}: {:?}",
            config.warnings
        );
    }
}

#[test]
fn every_key_is_a_variable_of_whatever_type_the_key_wants() {
    let config = good(
        "",
        &[
            ("TOLLGATE_SERVER__OPEN_REQUESTS_MAX", "7"),
            (
                "TOLLGATE_SERVER__CORS_ORIGINS",
                r#"["https://a.example", "https://b.example"]"#,
            ),
            ("tollgate_proxy__on_disconnect", "abort"),
            ("TOLLGATE_CEILING__COST_USD_PER_DAY", "12"),
            ("TOLLGATE_STORE", r#"{ lease = "30s" }"#),
            ("TOLLGATE_PLANS__FREE__MAX_OUTPUT_TOKENS", "2048"),
            (
                "TOLLGATE_PLANS__FREE__LIMITS",
                r#"[{ per = "day", tokens = 5 }]"#,
            ),
            (
                "TOLLGATE_PLANS__PRO",
                r#"{ models = ["my-model"], limits = [{ per = "day", cost_usd = "1" }] }"#,
            ),
            ("TOLLGATE_PRICES__MY-MODEL__INPUT", "1"),
            ("TOLLGATE_PRICES__MY-MODEL__OUTPUT", "2.5"),
            ("TOLLGATE_PRICES__MY-MODEL__REASONING", "true"),
            (
                "TOLLGATE_PRICES__MY-MODEL__LONG",
                r#"{ above = 5, input = "3", output = "4" }"#,
            ),
            ("TOLLGATE_UPSTREAMS__0__MODELS", "gpt-*,my-model"),
        ],
    );
    assert_eq!(config.server.open_requests_max, 7);
    assert_eq!(
        config.server.cors_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.proxy.on_disconnect, OnDisconnect::Abort);
    assert_eq!(config.ceiling, Some(MicroUsd(12_000_000)));
    assert_eq!(config.store.lease, Duration::from_secs(30));
    assert_eq!(config.store.keep_requests, Duration::from_hours(24 * 400));
    let free = &config.plans.by_name["free"];
    assert_eq!(
        (
            free.max_output_tokens,
            free.limits.len(),
            free.limits[0].amount
        ),
        (2048, 1, 5)
    );
    assert_eq!(config.plans.by_name["pro"].models, ["my-model"]);
    let price = &config.prices.models["my-model"];
    assert!(price.reasoning && price.long.as_ref().unwrap().above == 5);
    assert_eq!(config.upstreams[0].models, ["gpt-*", "my-model"]);
}

#[test]
fn a_variable_finds_names_in_any_case() {
    let file = "[prices.Llama-3]\ninput = \"1\"\noutput = \"1\"";
    let config = good(file, &[("TOLLGATE_PRICES__LLAMA-3__OUTPUT", "2")]);
    assert_eq!(
        config.prices.models["Llama-3"].rates.output,
        crate::price::Rate(2_000_000)
    );
    assert!(!config.prices.models.contains_key("llama-3"));
}

#[test]
fn sections_are_filled_in_one_by_one() {
    let plans = "[plans.starter]\ndefault = true\nmodels = [\"gpt-4o\"]\nlimits = [{ per = \"day\", requests = 1 }]";
    let config = good(plans, &[]);
    assert_eq!(config.plans.by_name.keys().collect::<Vec<_>>(), ["starter"]);
    assert_eq!(
        (
            config.plans.default.max_output_tokens,
            config.plans.default.concurrent_requests
        ),
        (1024, None)
    );
    assert_eq!(config.upstreams.len(), 1);
    let whole = r#"{ only = { default = true, models = ["gpt-4o"], limits = [] } }"#;
    let config = good("", &[("TOLLGATE_PLANS", whole)]);
    assert_eq!(config.plans.by_name.keys().collect::<Vec<_>>(), ["only"]);
    assert!(
        config.warnings[0].contains("plans.only.limits"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_model_is_kept_under_its_canonical_name_once() {
    let plans =
        "[plans.free]\ndefault = true\nmodels = [\"gpt-4o-2024-08-06\", \"gpt-4o\"]\nlimits = []";
    assert_eq!(good(plans, &[]).plans.default.models, ["gpt-4o"]);
}

#[test]
fn names_of_the_operators_come_from_the_file_and_from_variables() {
    let file = "plans.free.default = true\nplans.free.models = [\"fast\", \"gpt-4o\", \"fast\"]\n\
                [models.fast]\nuse = [\"gpt-4.1-2025-04-14\", \"gpt-4o-mini\"]\n\
                set = { temperature = 1_0.0e-1, stop = [\"END\"] }\n\
                [models.\"gpt-4o\"]\nuse = [\"gpt-4o\"]";
    let more = [
        ("TOLLGATE_MODELS__FAST__DEFAULTS__SEED", "7"),
        ("TOLLGATE_MODELS__SLOW", "{ use = [\"gpt-4\"] }"),
        ("TOLLGATE_MODELS__SLOW__SET", "{ verbosity = \"low\" }"),
        ("TOLLGATE_MODELS__SMALL__USE", "gpt-4o-mini, gpt-4"),
    ];
    let config = good(file, &more);
    let aliases = config.models.aliases();
    let fast = &aliases["fast"];
    assert_eq!(fast.candidates, ["gpt-4.1", "gpt-4o-mini"]);
    assert_eq!(
        fast.set.as_deref(),
        Some("{\"stop\":[\"END\"],\"temperature\":1.0}")
    );
    assert_eq!(fast.defaults.as_deref(), Some("{\"seed\":7}"));
    assert_eq!(
        aliases["slow"].set.as_deref(),
        Some("{\"verbosity\":\"low\"}")
    );
    assert_eq!(aliases["small"].candidates, ["gpt-4o-mini", "gpt-4"]);
    assert_eq!(config.plans.default.models, ["fast", "gpt-4o"]);
    let entry = |name| config.prices.entry(name, &config.models);
    assert_eq!(entry("fast"), Some("fast"));
    assert_eq!(entry("gpt-4o-2024-08-06"), Some("gpt-4o"));
    assert_eq!((entry("Fast"), entry("gpt-99")), (None, None));
    let of = |entry| config.models.candidates(entry).collect::<Vec<_>>();
    assert_eq!(of("fast"), ["gpt-4.1", "gpt-4o-mini"]);
    assert_eq!((of("gpt-4o"), of("other")), (vec!["gpt-4o"], vec!["other"]));
}

#[test]
fn the_end_of_a_model_is_told_sixty_days_ahead_for_every_plan_that_leads_to_it() {
    let file = "plans.free.default = true\nplans.free.models = [\"fast\", \"gpt-4o\"]\n\
                plans.pro.models = [\"gpt-4o\", \"gpt-5\"]\n[models.fast]\nuse = [\"gpt-4o\"]";
    let ends = |config: &Config, now: &str| {
        let now = crate::clock::Timestamp::parse(now).unwrap();
        let told = config.model_ends(now).into_iter();
        told.map(|end| end.to_string()).collect::<Vec<_>>()
    };
    let config = good(file, &[]);
    assert_eq!(ends(&config, "2026-10-11T23:59:59Z"), [""; 0]);
    let gpt_5 = |when: &str| {
        format!("gpt-5 (pro) is shut down {when}: gpt-6.1-sol takes its place, at its own price")
    };
    assert_eq!(
        ends(&config, "2026-10-13T00:00:00Z"),
        [gpt_5("on 2026-12-11, in 59 days")]
    );
    assert_eq!(
        ends(&config, "2026-12-10T12:00:00Z"),
        [
            gpt_5("on 2026-12-11, tomorrow"),
            "gpt-4o (free, pro) is shut down on 2027-01-14, in 35 days: gpt-6-luna takes its place, at its own price"
                .to_owned()
        ]
    );
    assert_eq!(ends(&config, "2026-12-11T23:59:59Z")[0], gpt_5("today"));
    let prompt = "[prompts.sum]\nmodel = \"gpt-5-mini\"\nsystem = \"Sum it up.\"";
    let config = good(&format!("{file}\n{prompt}"), &[]);
    let told = ends(&config, "2026-12-10T12:00:00Z").join("\n");
    assert!(
        told.contains("gpt-5-mini (prompt/sum) is shut down"),
        "{told}"
    );
    let config = good(file, &[]);
    // What is replaced is no news any more; what nothing replaces is.
    assert_eq!(ends(&config, "2026-12-12T00:00:00Z").len(), 1);
    let alone = "[[upstreams]]\nname = \"openai\"\nmodels = [\"gpt-4o\", \"gpt-5\"]\n";
    let nothing = "nothing takes its place; name another under [models.\"gpt-5\"] use = […]";
    assert_eq!(
        ends(
            &good(&format!("{file}\n{alone}"), &[]),
            "2027-03-01T00:00:00Z"
        )[0],
        format!("gpt-5 (pro) was shut down on 2026-12-11: {nothing}")
    );
    // Another server may serve it for ever.
    let elsewhere = [("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")];
    assert_eq!(
        ends(&good(file, &elsewhere), "2026-12-10T12:00:00Z"),
        [""; 0]
    );
}

#[test]
fn the_base_url_variable_moves_the_openai_upstream_whose_name_says_nothing_of_the_server() {
    let moved = |toml: &str| {
        let mut env = env(&[("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")]);
        env.remove("OPENAI_API_KEY");
        load_all(toml, "", env)
            .unwrap_or_else(|errors| panic!("{errors}"))
            .upstreams
            .remove(0)
    };
    for toml in ["", EXAMPLE] {
        let upstream = moved(toml);
        assert_eq!(upstream.base_url, "http://127.0.0.1:9/v1");
        assert_eq!(
            (upstream.manner, upstream.keep_alive),
            (Dialect::Compatible.into(), Duration::from_secs(4))
        );
        assert!(upstream.api_key.is_none());
    }
    let europe = good("", &[("OPENAI_BASE_URL", "https://eu.api.openai.com/v1")])
        .upstreams
        .remove(0);
    assert_eq!(europe.keep_alive, Duration::from_mins(1));
    let near_miss = good("", &[("OPENAI_BASE_URL", "https://notopenai.com/v1")])
        .upstreams
        .remove(0);
    assert_eq!(
        (near_miss.keep_alive, near_miss.manner.dialect),
        (Duration::from_secs(4), Dialect::Compatible)
    );
    assert_eq!(europe.manner, Dialect::Openai.into());
    let other =
        "[[upstreams]]\nname = \"local\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]";
    let config = good(other, &[("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")]);
    assert_eq!(config.upstreams[0].base_url, "http://127.0.0.1:1/v1");
    assert!(
        config.upstreams[0].api_key.is_none(),
        "OpenAI's key is not for other servers"
    );
    assert!(
        config.warnings[0].contains("OPENAI_BASE_URL"),
        "{:?}",
        config.warnings
    );
}

/// The first upstream of a file that says this of it.
fn upstream(said: &str, env: &[(&str, &str)]) -> UpstreamConfig {
    let base = if said.contains("base_url") {
        ""
    } else {
        "base_url = \"https://llm.internal/v1\"\n"
    };
    let toml = format!("[[upstreams]]\nname = \"a\"\nmodels = [\"*\"]\n{base}{said}");
    let toml = toml.replace(
        "name = \"a\"",
        "name = \"a\"\napi_key_env = \"OPENAI_API_KEY\"",
    );
    UpstreamConfig::clone(&good(&toml, env).upstreams[0])
}

#[test]
fn an_upstream_is_spoken_to_as_its_preset_its_host_or_its_keys_say() {
    let manner = |said: &str| upstream(said, &[]).manner;
    let compatible = Manner::from(Dialect::Compatible);
    assert_eq!(manner(""), compatible);
    assert_eq!(manner("preset = \"openai\""), Dialect::Openai.into());
    assert_eq!(
        manner("base_url = \"https://api.openai.com/v1\""),
        Dialect::Openai.into()
    );
    assert_eq!(
        manner("base_url = \"https://api.openai.com.evil.example/v1\""),
        compatible
    );
    let azure = Manner {
        cap_name: CapName::MaxCompletionTokens,
        ..compatible
    };
    assert_eq!(
        manner("base_url = \"https://x.openai.azure.com/openai/v1\""),
        azure
    );
    assert_eq!(manner("preset = \"azure\""), azure);
    assert_eq!(
        manner("preset = \"mistral\""),
        Manner {
            stream_usage: false,
            ..compatible
        }
    );
    assert_eq!(
        manner("preset = \"mistral\"\nstream_usage = true"),
        compatible
    );
    assert_eq!(
        manner("stream_usage = false"),
        Manner {
            stream_usage: false,
            ..compatible
        }
    );
    assert_eq!(
        manner("cap_name = \"both\""),
        Manner {
            cap_name: CapName::Both,
            ..compatible
        }
    );
    assert_eq!(
        manner("preset = \"openai\"\ndialect = \"compatible\""),
        compatible
    );
    let with_name = Manner {
        cap_name: CapName::MaxTokens,
        ..Dialect::Openai.into()
    };
    assert_eq!(
        manner("dialect = \"openai\"\ncap_name = \"max_tokens\""),
        with_name
    );
    for preset in [
        "gemini",
        "groq",
        "xai",
        "deepseek",
        "openrouter",
        "together",
        "ollama",
        "vllm",
        "llamacpp",
        "lmstudio",
    ] {
        assert_eq!(
            manner(&format!("preset = {preset:?}")),
            compatible,
            "{preset}"
        );
    }
}

#[test]
fn a_preset_is_enough_and_every_key_overrides_it() {
    let keys: Vec<(&str, &str)> = PRESETS
        .iter()
        .filter_map(|preset| Some((preset.api_key_env?, "sk-canary-of-a-preset")))
        .collect();
    let free = "[prices.m]\nfree = true\n[plans.free]\ndefault = true\nmodels = [\"m\"]\n\
                limits = [{ per = \"day\", requests = 1 }]\n";
    let with = |lines: &str, env: &[(&str, &str)]| {
        let rest = "[[upstreams]]\nname = \"rest\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"m\"]\n";
        load(&format!("{free}[[upstreams]]\n{lines}\n{rest}"), env)
    };
    for preset in PRESETS {
        let mut lines = format!("preset = \"{}\"\n", preset.name);
        if preset.base_url.is_none() {
            lines += "base_url = \"https://llm.internal/v1\"\n";
        }
        if preset.models.is_empty() {
            lines += "models = [\"its-*\"]\n";
        }
        let config = with(&lines, &keys).unwrap_or_else(|errors| panic!("{errors}"));
        let upstream = &config.upstreams[0];
        assert_eq!(upstream.name, preset.name);
        assert_eq!(
            upstream.base_url,
            preset.base_url.unwrap_or("https://llm.internal/v1")
        );
        assert_eq!(upstream.manner, preset.manner);
        assert_eq!(upstream.api_key.is_some(), preset.api_key_env.is_some());
        assert!(preset.models.is_empty() || upstream.models == preset.models);
    }
    let moved = "preset = \"gemini\"\nname = \"mine\"\nbase_url = \"http://127.0.0.1:2/v1\"\nmodels = [\"g\"]\n\
                 cap_name = \"both\"\napi_key_env = \"OTHER\"";
    let upstream = with(moved, &[("OTHER", "sk-of-another")])
        .unwrap()
        .upstreams[0]
        .clone();
    assert_eq!(
        (upstream.name.as_str(), upstream.base_url.as_str()),
        ("mine", "http://127.0.0.1:2/v1")
    );
    assert_eq!(upstream.models, ["g"]);
    assert_eq!(upstream.manner.cap_name, CapName::Both);
    assert_eq!(
        upstream.api_key.as_ref().unwrap().expose_secret(),
        "sk-of-another"
    );
    // Its key is needed where it lives, and elsewhere only taken.
    let told = with("preset = \"gemini\"", &[]).unwrap_err().to_string();
    assert!(
        told.contains("set GEMINI_API_KEY in the environment"),
        "{told}"
    );
    let elsewhere = "preset = \"gemini\"\nbase_url = \"http://127.0.0.1:2/v1\"";
    assert!(with(elsewhere, &[]).unwrap().upstreams[0].api_key.is_none());
    // The one before it, while it is replaced.
    let two = [
        ("GEMINI_API_KEY", "sk-new"),
        ("GEMINI_API_KEY_PREVIOUS", "sk-old"),
    ];
    let upstream = with("preset = \"gemini\"", &two).unwrap().upstreams[0].clone();
    assert!(upstream.api_key_previous.is_some());
    let nameless = with(
        "base_url = \"http://127.0.0.1:2/v1\"\nmodels = [\"g\"]",
        &[],
    );
    assert!(
        nameless
            .unwrap_err()
            .to_string()
            .contains("upstreams[0].name")
    );
    let azure = with("preset = \"azure\"\nmodels = [\"g\"]", &keys);
    assert!(
        azure
            .unwrap_err()
            .to_string()
            .contains("upstreams[0].base_url")
    );
    let ollama = with("preset = \"ollama\"", &keys);
    assert!(
        ollama
            .unwrap_err()
            .to_string()
            .contains("upstreams[0].models")
    );
}

#[test]
fn a_moved_openai_is_taken_for_another_server_and_that_is_said() {
    let warned = |toml: &str, url: &str| {
        let warnings = good(toml, &[("OPENAI_BASE_URL", url)]).warnings;
        warnings
            .iter()
            .any(|warning| warning.contains("preset = \"openai\""))
    };
    assert!(warned("", "https://gateway.example/v1"));
    assert!(
        !warned("", "http://127.0.0.1:11434/v1") && !warned("", "https://eu.api.openai.com/v1")
    );
    let said = "[[upstreams]]\nname = \"openai\"\nmodels = [\"*\"]\npreset = \"openai\"";
    assert!(!warned(said, "https://gateway.example/v1"));
}

#[test]
fn the_way_to_an_upstream_goes_through_a_proxy_as_curl_has_it() {
    let through = |said: &str, env: &[(&str, &str)]| {
        upstream(said, env)
            .proxy
            .as_ref()
            .map(|proxy| proxy.address.authority().unwrap().to_string())
    };
    let (proxy, other) = (Some("p.internal:3128".to_owned()), Some("q:1".to_owned()));
    assert_eq!(through("", &[]), None);
    assert_eq!(through("proxy = \"http://p.internal:3128\"", &[]), proxy);
    for name in ["HTTPS_PROXY", "https_proxy"] {
        assert_eq!(
            through("", &[(name, "http://us:er@p.internal:3128")]),
            proxy
        );
        assert_eq!(through("", &[(name, "p.internal:3128")]), proxy);
        assert_eq!(through("", &[(name, "")]), None);
        assert_eq!(
            through(
                "proxy = \"http://q:1\"",
                &[(name, "http://p.internal:3128")]
            ),
            other
        );
        assert_eq!(
            through("proxy = \"\"", &[(name, "http://p.internal:3128")]),
            None
        );
        assert_eq!(
            through(
                "base_url = \"http://llm.internal/v1\"",
                &[(name, "http://p.internal:3128")]
            ),
            None
        );
    }
    for (except, goes) in [
        ("*", false),
        ("llm.internal", false),
        (".internal", false),
        ("internal", false),
        ("a, LLM.internal ,b", false),
        ("a llm.internal. b", false),
        ("m.internal", true),
        ("llm.internal.example", true),
        ("", true),
    ] {
        let env = [
            ("HTTPS_PROXY", "http://p.internal:3128"),
            ("NO_PROXY", except),
        ];
        assert_eq!(through("", &env).is_some(), goes, "{except}");
    }
    let by_address = "base_url = \"https://10.1.2.3/v1\"";
    for (except, goes) in [
        ("10.0.0.0/8", false),
        ("10.1.2.3", false),
        ("*", false),
        ("a, *", false),
        ("10.1.2.4", true),
        ("192.168.0.0/16", true),
    ] {
        let env = [
            ("https_proxy", "http://p.internal:3128"),
            ("no_proxy", except),
        ];
        assert_eq!(through(by_address, &env).is_some(), goes, "{except}");
    }
}

#[test]
fn port_changes_the_port_and_nothing_else() {
    let bound = |file: &str, env: &[(&str, &str)]| good(file, env).server.bind;
    assert_eq!(bound("", &[("PORT", "9")]), "0.0.0.0:9");
    for (said, expected) in [
        ("[::]:1", "[::]:9"),
        ("127.0.0.1:1", "127.0.0.1:9"),
        ("[::1]", "[::1]:9"),
        ("localhost", "localhost:9"),
    ] {
        assert_eq!(
            bound(&format!("[server]\nbind = \"{said}\""), &[("PORT", "9")]),
            expected
        );
        assert_eq!(
            bound("", &[("PORT", "9"), ("TOLLGATE_SERVER__BIND", said)]),
            expected
        );
    }
    assert_eq!(
        bound("[server]\nbind = \"[::]:1\"", &[("PORT", "")]),
        "[::]:1"
    );
}

#[test]
fn empty_variables_are_unset_unless_they_are_secrets() {
    let config = good(
        "",
        &[
            ("SUPABASE_URL", ""),
            ("PORT", ""),
            ("DATABASE_URL", ""),
            ("OPENAI_BASE_URL", ""),
        ],
    );
    assert_eq!(
        (config.auth.supabase_url, config.server.bind.as_str()),
        (None, "0.0.0.0:8080")
    );
    for secret in [
        "JWT_SECRET",
        "OPENAI_API_KEY",
        "SUPABASE_SERVICE_KEY",
        "TOLLGATE_ADMIN_TOKEN",
    ] {
        let told = complaint("", &[(secret, "")]);
        assert!(
            told.contains(secret) && told.contains("empty secret"),
            "{told}"
        );
    }
}

#[test]
fn supabase_local_secret_goes_with_a_local_supabase_only() {
    const LOCAL: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
    let config = good(
        "",
        &[
            ("JWT_SECRET", LOCAL),
            ("SUPABASE_URL", "http://127.0.0.1:54321/"),
        ],
    );
    assert_eq!(
        config.auth.supabase_url.as_deref(),
        Some("http://127.0.0.1:54321")
    );
    assert_eq!(config.auth.issuer, "http://127.0.0.1:54321/auth/v1");
    for elsewhere in ["https://x.supabase.co", "https://127.0.0.1.example.com", ""] {
        let told = complaint("", &[("JWT_SECRET", LOCAL), ("SUPABASE_URL", elsewhere)]);
        assert!(
            told.contains("auth.jwt_secret") && told.contains("local Supabase"),
            "{told}"
        );
    }
}

#[test]
fn an_open_admin_listener_needs_a_token() {
    let open = "[server]\nadmin_bind = \"0.0.0.0:9090\"";
    let told = good(open, &[]).server.admin_unguarded.unwrap().to_string();
    for word in [
        "server.admin_bind",
        "tollgate.toml:2",
        "TOLLGATE_ADMIN_TOKEN",
        "tollgate admin-token create",
    ] {
        assert!(told.contains(word), "{told}");
    }
    for guarded in [
        good(open, &[("TOLLGATE_ADMIN_TOKEN", "some-token")]),
        good("", &[]),
    ] {
        assert_eq!(guarded.server.admin_unguarded, None);
    }
    let short = good(open, &[("TOLLGATE_ADMIN_TOKEN", "some-token")]);
    assert!(short.server.admin_token.is_some() && short.warnings[0].contains("server.admin_token"));
    assert!(
        good(open, &[("TOLLGATE_ADMIN_TOKEN", "3mXkQ9wL0vT7cR2p")])
            .warnings
            .is_empty()
    );
    assert_eq!(
        good("", &[("TOLLGATE_SERVER__ADMIN_BIND", "")])
            .server
            .admin_bind,
        None
    );
    assert!(
        good("", &[]).server.admin_bind_is_default && !good(open, &[]).server.admin_bind_is_default
    );
    assert!(
        !good("", &[("TOLLGATE_SERVER__ADMIN_BIND", "127.0.0.1:9091")])
            .server
            .admin_bind_is_default
    );
    assert!(
        good("[server]\nadmin_bind = \"[::1]:9090\"", &[])
            .server
            .admin_bind
            .is_some()
    );
}

#[test]
fn a_named_file_must_exist() {
    let dir = Dir::new();
    dir.write("other.toml", "[server]\nbind = \"127.0.0.1:1\"");
    let at = |file: &str| Sources {
        file: Some(file.into()),
        env: env(&[]),
        directory: dir.0.clone(),
    };
    assert_eq!(
        Config::load(&at("other.toml")).unwrap().server.bind,
        "127.0.0.1:1"
    );
    let told = Config::load(&at("missing.toml")).unwrap_err().to_string();
    assert!(
        told.contains("missing.toml") && told.contains("--config"),
        "{told}"
    );
}

#[test]
fn a_folder_may_be_named_in_place_of_a_file_and_may_be_empty() {
    let dir = Dir::new();
    std::fs::create_dir(dir.0.join("settings")).unwrap();
    dir.write("tollgate.toml", "not [ read");
    dir.write(".env", "PORT=7\n");
    let sources = Sources {
        file: Some("settings".into()),
        env: env(&[]),
        directory: dir.0.clone(),
    };
    assert_eq!(Config::load(&sources).unwrap().server.bind, "0.0.0.0:8080");
    dir.write("settings/tollgate.toml", "[store]\nlease = \"77s\"\n");
    dir.write("settings/.env", "PORT=8\n");
    let config = Config::load(&sources).unwrap();
    assert_eq!(
        (config.server.bind.as_str(), config.store.lease.as_secs()),
        ("0.0.0.0:8", 77)
    );
    let told = load_all("", "TOLLGATE_CONFIG=settings\n", env(&[]))
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("TOLLGATE_CONFIG") && told.contains("does nothing in a file"),
        "{told}"
    );
    assert!(
        load("", &[("TOLLGATE_CONFIG", "anything")]).is_ok(),
        "`from_process` has read it"
    );
}

#[test]
fn a_file_that_a_container_cannot_read_is_told_with_the_fix() {
    let dir = Dir::new();
    std::fs::create_dir(dir.0.join("tollgate.toml")).unwrap();
    let sources = Sources {
        file: None,
        env: env(&[]),
        directory: dir.0.clone(),
    };
    let told = Config::load(&sources).unwrap_err().to_string();
    assert!(told.contains("Docker makes a folder"), "{told}");
    dir.write(".env", "");
    let denied = std::io::ErrorKind::PermissionDenied.into();
    let told = files::unreadable(&dir.0.join(".env"), &denied).fix;
    assert!(
        told.contains("runs as (uid ") && told.contains("mode 6"),
        "{told}"
    );
}

#[test]
fn where_the_server_listens_is_known_though_the_settings_are_wrong() {
    let dir = Dir::new();
    let bind = |toml: &str, more: &[(&str, &str)]| {
        dir.write("tollgate.toml", toml);
        Sources {
            file: None,
            env: more
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
            directory: dir.0.clone(),
        }
        .bind()
    };
    assert_eq!(bind("[plans", &[]), "0.0.0.0:8080");
    assert_eq!(bind("[plans", &[("PORT", "8083")]), "0.0.0.0:8083");
    assert_eq!(
        bind("[server]\nbind = \"127.0.0.1:7\"\nbidn = 7\n", &[]),
        "127.0.0.1:7"
    );
}

#[test]
fn the_ledger_is_known_only_where_nothing_unreadable_may_name_another() {
    let dir = Dir::new();
    let ledger = |toml: &str, more: &[(&str, &str)]| {
        dir.write("tollgate.toml", toml);
        let env = more
            .iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect();
        Sources {
            file: None,
            env,
            directory: dir.0.clone(),
        }
        .ledger()
        .map(|url| url.to_string())
    };
    assert!(ledger("[plans", &[]).unwrap().ends_with("data/tollgate.db"));
    assert!(
        ledger(
            "[store]\nurl = \"sqlite:x.db\"\n[plans.free]\nlmits = 1",
            &[]
        )
        .unwrap()
        .ends_with("x.db")
    );
    assert_eq!(ledger("[store\nurl = \"sqlite:x.db\"\n", &[]), None);
    assert!(
        ledger("[plans", &[("DATABASE_URL", "postgres://u:p@h/d")])
            .unwrap()
            .to_lowercase()
            .contains("postgres")
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_line() {
    let file = "[server]\nbind = 5\nbody_timeout = \"never\"\n[store]\nlease = \"1s\"\n[plans.free]\nmodels = [\"nope\"]\n";
    let errors = load(
        file,
        &[
            ("TOLLGATE_PROXY__IDLE_TIMEOUT", "x"),
            ("TOLLGATE_PORT", "1"),
            ("PORT", ""),
        ],
    )
    .unwrap_err();
    let told = errors.to_string();
    let lines = [
        "tollgate.toml:2",
        "tollgate.toml:3",
        "tollgate.toml:5",
        "tollgate.toml:7",
        "TOLLGATE_PROXY__IDLE_TIMEOUT",
        "TOLLGATE_PORT",
    ];
    for words in lines {
        assert!(told.contains(words), "{words} in {told}");
    }
    assert!(told.starts_with("6 settings are wrong"), "{told}");
}

#[test]
fn no_secret_is_ever_shown() {
    let secrets = [
        ("JWT_SECRET", SECRET),
        ("OPENAI_API_KEY", KEY),
        ("SUPABASE_SERVICE_KEY", "canary-service"),
        ("TOLLGATE_ADMIN_TOKEN", "canary-admin"),
    ];
    let reached = [
        ("SUPABASE_URL", "https://x.supabase.co"),
        ("DATABASE_URL", "postgres://u:canary-url@x/y"),
    ];
    let shown = format!("{:?}", good("", &[&secrets[..], &reached[..1]].concat()))
        + &format!("{:?}", good("", &[&secrets[..], &reached].concat()));
    for secret in secrets
        .map(|(_, secret)| secret)
        .iter()
        .chain(&["canary-url"])
    {
        assert!(!shown.contains(secret), "{shown}");
    }
    for (toml, more) in [
        ("", ("JWT_SECRET", "canary-short")),
        ("", ("OPENAI_API_KEY", "canary key")),
        ("", ("OPENAI_BASE_URL", "https://user:canary@x/v1")),
        ("", ("SUPABASE_URL", "https://user:canary@x")),
        (
            "",
            ("DATABASE_URL", "postgres://user:canary@x/y?sslmode=canary"),
        ),
        ("", ("SUPABASE_SERVICE_KEY", "sb_publishable_canary")),
        ("[auth]\njwt_secrets = \"canary\"", ("PORT", "1")),
        ("[auth]\njwt_secret = \"canary", ("PORT", "1")),
        (
            "[[upstreams]]\nname = \"openai\"\nmodels = [\"*\"]\napi_key = \"canary\"",
            ("PORT", "1"),
        ),
        (
            "[[upstreams]]\nname = \"openai\"\nmodels = [\"*\"]\napi_key_env = \"sk-canary\"",
            ("PORT", "1"),
        ),
    ] {
        let told = complaint(toml, &[more]);
        assert!(!told.contains("canary"), "{told}");
    }
}

#[test]
fn variables_of_a_kubernetes_service_are_left_alone() {
    let config = good(
        "",
        &[
            ("TOLLGATE_SERVICE_HOST", "10.0.0.1"),
            ("TOLLGATE_SERVICE_PORT", "80"),
            ("TOLLGATE_PORT", "tcp://10.0.0.1:80"),
            ("TOLLGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ],
    );
    assert_eq!(config.server.bind, "0.0.0.0:8080");
}

#[test]
fn models_are_matched_by_pattern() {
    for (pattern, name, fits) in [
        ("gpt-*", "gpt-4o", true),
        ("gpt-*", "gpt-", true),
        ("gpt-*", "ggpt-4", false),
        ("o*", "o3-mini", true),
        ("*", "", true),
        ("a*a", "a", false),
        ("*-4-*-mini", "gpt-4-x-4-mini", true),
        ("gpt-4o", "gpt-4o-mini", false),
    ] {
        assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
    }
}

#[test]
fn the_demo_needs_nothing_and_keeps_to_itself() {
    let demo = |url: Option<&str>, key: Option<&str>| {
        let upstream = DemoUpstream {
            url: url.map(str::to_owned),
            api_key: key.map(SecretString::from),
            model: None,
        };
        Config::for_demo(("127.0.0.1:8080", ""), &upstream)
    };
    let local = demo(Some("http://127.0.0.1:9/v1"), None).unwrap();
    assert_eq!(
        (local.store.url.sqlite(), local.server.admin_bind),
        (Some(std::path::Path::new("data/demo.db")), None)
    );
    assert_eq!(local.plans.default.name, "free");
    let models = &local.plans.default.models;
    assert_eq!(models.last().unwrap(), "text-embedding-3-small");
    assert_eq!(models, &local.plans.by_name["free"].models);
    let secret = |config: &Config| {
        config
            .auth
            .jwt_secret
            .as_ref()
            .unwrap()
            .expose_secret()
            .to_owned()
    };
    let openai = demo(None, Some(KEY)).unwrap();
    assert_eq!(openai.upstreams[0].base_url, "https://api.openai.com/v1");
    assert!(
        secret(&openai).len() == 64 && secret(&openai) != secret(&demo(None, Some(KEY)).unwrap())
    );
    assert!(
        demo(None, None)
            .unwrap_err()
            .to_string()
            .contains("OPENAI_API_KEY")
    );
}

#[test]
fn the_demo_serves_a_local_model_by_its_own_name_for_free() {
    let url = Some("http://127.0.0.1:9/v1".to_owned());
    let upstream = DemoUpstream {
        url,
        api_key: None,
        model: Some("llama3.2:1b".to_owned()),
    };
    let config = Config::for_demo(("127.0.0.1:8080", ""), &upstream)
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.plans.default.models, ["llama3.2:1b"]);
    assert!(
        config.upstreams[0].serves("llama3.2:1b")
            && config.upstreams[0].manner.dialect == Dialect::Compatible
    );
    assert_eq!(
        config
            .prices
            .resolve("llama3.2:1b")
            .unwrap()
            .1
            .rates
            .output
            .0,
        0
    );
}

#[test]
fn the_demo_finds_the_key_in_the_environment_or_in_dot_env() {
    let dir = Dir::new();
    dir.write(".env", "OPENAI_API_KEY=from-file");
    let sources = |env: &[(&str, &str)]| {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Sources {
            file: None,
            env,
            directory: dir.0.clone(),
        }
    };
    assert_eq!(
        sources(&[]).openai_api_key().unwrap().expose_secret(),
        "from-file"
    );
    assert_eq!(
        sources(&[("OPENAI_API_KEY", "from-env")])
            .openai_api_key()
            .unwrap()
            .expose_secret(),
        "from-env"
    );
    assert!(
        sources(&[("OPENAI_API_KEY", "")])
            .openai_api_key()
            .is_none()
    );
}

#[test]
fn the_database_url_is_the_ledger_and_the_directory_and_the_store_url_the_ledger_alone() {
    const URL: &str = "postgres://u:p@h/d";
    const OTHER: &str = "postgresql://u:p@other/d";
    let told = |toml: &str, more: &[(&str, &str)]| {
        let config = good(toml, more);
        let store = match &config.store.url {
            StoreUrl::Sqlite(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
            StoreUrl::Postgres(url) => url.expose_secret().to_owned(),
        };
        let via = match &config.directory.via {
            Via::Postgres(url) => url.expose_secret().to_owned(),
            via => via.as_str().to_owned(),
        };
        (store, via)
    };
    let pair = |store: &str, via: &str| (store.to_owned(), via.to_owned());
    let rest = [
        ("SUPABASE_URL", "https://x.supabase.co"),
        ("SUPABASE_SERVICE_KEY", "sb_secret_x"),
    ];
    let database = [("DATABASE_URL", URL)];
    assert_eq!(told("", &database), pair(URL, URL));
    assert_eq!(
        told(&format!("[store]\nurl = \"{URL}\""), &[]),
        pair(URL, "none")
    );
    assert_eq!(
        told("[store]\nurl = \"sqlite:x.db\"", &database),
        pair("x.db", URL)
    );
    assert_eq!(
        told(
            "",
            &[
                ("DATABASE_URL", URL),
                ("TOLLGATE_STORE__URL", "sqlite:x.db")
            ]
        ),
        pair("x.db", URL)
    );
    assert_eq!(
        told(&format!("[directory]\ndatabase_url = \"{URL}\""), &[]),
        pair("tollgate.db", URL)
    );
    assert_eq!(
        told("", &[("DATABASE_URL", "sqlite:x.db")]),
        pair("x.db", "none")
    );
    assert_eq!(told("", &rest), pair("tollgate.db", "rest"));
    assert_eq!(told("", &[&rest[..], &database].concat()), pair(URL, URL));
    assert_eq!(
        told(
            "[directory]\nvia = \"rest\"",
            &[&rest[..], &database].concat()
        ),
        pair(URL, "rest")
    );
    assert_eq!(
        told(
            "[directory]\nvia = \"none\"",
            &[&rest[..], &database].concat()
        ),
        pair(URL, "none")
    );
    let ledger = format!("[store]\nurl = \"{URL}\"\n[directory]\nvia = \"postgres\"");
    assert_eq!(told(&ledger, &[]), pair(URL, URL));
    let config = load_all(
        "",
        &format!("DATABASE_URL={URL}"),
        env(&[("DATABASE_URL", OTHER)]),
    )
    .unwrap();
    assert!(matches!(config.store.url, StoreUrl::Postgres(url) if url.expose_secret() == OTHER));
}
