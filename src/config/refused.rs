//! Settings that are refused, and the words that each refusal must hold: the key, the place, the fix.

use super::tests::{complaint, env, load_all};

/// A file, and the words that its one complaint must hold: the key, the place, the fix.
const BAD_FILES: &[(&str, &[&str])] = &[
    (
        "[server]\nbnid = \"x\"",
        &[
            "server.bnid",
            "tollgate.toml:2",
            "not a known key",
            "`bind`",
        ],
    ),
    ("[servr]", &["servr", "not a known key", "`server`"]),
    ("server = 1", &["server", "not a table", "[server]"]),
    (
        "[server]\nbind = \"8080\"",
        &["server.bind", "tollgate.toml:2", "0.0.0.0:8080"],
    ),
    (
        "[server]\nbind = 8080",
        &["server.bind", "whole number", "in quotes"],
    ),
    (
        "[server]\n\nheader_timeout = 10",
        &["server.header_timeout", "tollgate.toml:3", "in quotes"],
    ),
    (
        "[server]\nheader_timeout = \"10\"",
        &["server.header_timeout", "\"10s\""],
    ),
    (
        "[server]\nheader_timeout = \"0s\"",
        &["server.header_timeout", "out of range", "100ms to 1h"],
    ),
    (
        "[server]\nheader_timeout = \"400d\"",
        &["server.header_timeout", "out of range"],
    ),
    (
        "[server]\nbody_bytes_max = \"8MB\"",
        &["server.body_bytes_max", "8MiB"],
    ),
    (
        "[server]\nheader_bytes_max = \"4KiB\"",
        &["server.header_bytes_max", "out of range", "8KiB"],
    ),
    (
        "[server]\nopen_requests_max = 0",
        &["server.open_requests_max", "out of range", "from 1"],
    ),
    (
        "[server]\nopen_requests_max = 1.5",
        &["server.open_requests_max", "not a whole number"],
    ),
    (
        "[server]\nopen_requests_max = 99999999999999999999",
        &[
            "server.open_requests_max",
            "out of range",
            "from 1 to 1000000",
        ],
    ),
    (
        "[server]\ntime_zone = \"Paris\"",
        &["server.time_zone", "`Paris`", "Europe/Paris"],
    ),
    (
        "[server]\ncors_origins = \"*\"",
        &["server.cors_origins", "not a list", "[…]"],
    ),
    (
        "[server]\ncors_origins = [\"https://a.example/\"]",
        &["server.cors_origins", "no slash"],
    ),
    (
        "[server]\ncors_origins = [1]",
        &["server.cors_origins", "in quotes"],
    ),
    (
        "[server]\nlog_format = \"xml\"",
        &["server.log_format", "\"json\""],
    ),
    (
        "[server]\nlog_level = \"loud=very\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"verbose\"",
        &["server.log_level", "`verbose`", "debug"],
    ),
    (
        "[server]\nlog_level = \"inof,tollgate=debug\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"info,\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"info,=debug\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"info,tollgate=\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"info,tollgate[request]=debug\"",
        &["server.log_level", "debug"],
    ),
    (
        "[server]\nlog_level = \"in fo\"",
        &["server.log_level", "`in fo`"],
    ),
    (
        "[auth]\nplan_claim = \"user_metadata.plan\"",
        &["auth.plan_claim", "app_metadata"],
    ),
    (
        "[auth]\nplan_claim = \"a..b\"",
        &["auth.plan_claim", "app_metadata.plan"],
    ),
    (
        "[auth]\nanonymous_plan = \"guest\"",
        &["auth.anonymous_plan", "free"],
    ),
    (
        "[store]\nurl = \"sqlite::memory:\"",
        &["store.url", "data/tollgate.db"],
    ),
    (
        "[store]\nurl = \"data/tollgate.db\"",
        &["store.url", "sqlite:data/tollgate.db"],
    ),
    (
        "[store]\nurl = \"postgres://u:p@h:x/d\"",
        &["store.url", "not a URL of Postgres", "postgres://user"],
    ),
    (
        "[store]\nurl = \"postgres:///d\"",
        &["store.url", "no host"],
    ),
    (
        "[store]\nurl = \"postgres://u:p@h/d?sslmode=maybe\"",
        &["store.url", "sslmode", "verify-full"],
    ),
    (
        "[store]\nurl = \"postgres://u:p@h/d?sslkey=x\"",
        &["store.url", "sslkey", "not supported"],
    ),
    (
        "[store]\nurl = \"postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/no/such/ca.crt\"",
        &["store.url", "/no/such/ca.crt", "cannot be read"],
    ),
    (
        "[store]\nlease = \"4s\"",
        &["store.lease", "out of range", "5s to 1h"],
    ),
    (
        "[store]\nkeep_requests = \"47h\"",
        &["store.keep_requests", "2d"],
    ),
    (
        "[directory]\nvia = \"rest\"",
        &["directory.via", "missing", "SUPABASE_SERVICE_KEY"],
    ),
    (
        "[directory]\nvia = \"postgres\"",
        &["directory.via", "no Postgres", "DATABASE_URL"],
    ),
    (
        "[directory]\ndatabase_url = \"sqlite:x\"",
        &["directory.database_url", "postgres://"],
    ),
    (
        "[auth]\ncheck_session = true",
        &["auth.check_session", "no database", "DATABASE_URL"],
    ),
    (
        "[auth]\ncheck_session = \"yes\"",
        &["auth.check_session", "neither true nor false"],
    ),
    (
        "[directory]\nvia = \"carrier pigeon\"",
        &["directory.via", "none"],
    ),
    (
        "[directory]\nplan_stale = \"1s\"",
        &["directory.plan_stale", "plan_cache"],
    ),
    (
        "[proxy]\non_disconnect = \"hope\"",
        &["proxy.on_disconnect", "\"drain\" or \"abort\""],
    ),
    (
        "[proxy]\nmin_output_tokens = 0",
        &["proxy.min_output_tokens", "from 1"],
    ),
    (
        "[ceiling]\ncost_usd_per_day = 50",
        &["ceiling.cost_usd_per_day", "in quotes"],
    ),
    (
        "[ceiling]\ncost_usd_per_day = 0.5",
        &["ceiling.cost_usd_per_day", "in quotes"],
    ),
    (
        "[ceiling]\ncost_usd_per_day = \"0\"",
        &["ceiling.cost_usd_per_day", "nothing"],
    ),
    (
        "[ceiling]\ncost_usd_per_day = \"-5\"",
        &["ceiling.cost_usd_per_day", "US dollars"],
    ),
    ("upstreams = []", &["upstreams", "empty"]),
    ("[server]\nbind = ", &["syntax", "tollgate.toml:2"]),
    (
        "[prices.x]\ninput = 0.5\noutput = \"1\"",
        &["prices.x", "`input`", "in quotes"],
    ),
    ("[prices.x]\ninput = \"0.5\"", &["prices.x", "output"]),
    (
        "[prices.x]\ninput = \"0.5\"\noutput = \"1\"\nimport = \"1\"",
        &["prices.x", "import"],
    ),
];

#[test]
fn a_bad_file_is_refused_with_the_key_the_place_and_the_fix() {
    for (file, words) in BAD_FILES {
        let told = complaint(file, &[]);
        for word in *words {
            assert!(
                told.contains(word),
                "{file}\n  says: {told}\n  and not: {word}"
            );
        }
        assert!(told.contains("tollgate.toml"), "{told}");
        assert!(told.contains("Fix: "), "{told}");
    }
}

/// Lines of `[plans.free]` after its default and a good model, and the words of the complaint.
const BAD_PLANS: &[(&str, &[&str])] = &[
    (
        "max_output_tokens = 0",
        &["plans.free.max_output_tokens", "from 1 to 2147483647"],
    ),
    (
        "max_output_tokens = 2147483648",
        &["plans.free.max_output_tokens", "out of range"],
    ),
    (
        "max_choices = 129",
        &["plans.free.max_choices", "from 1 to 128"],
    ),
    (
        "concurrent_requests = 0",
        &["plans.free.concurrent_requests", "from 1"],
    ),
    (
        "limits = [{ per = \"day\", requests = 0 }]",
        &["plans.free.limits[0].requests", "from 1"],
    ),
    (
        "limits = [{ per = \"day\", requests = -5 }]",
        &["plans.free.limits[0].requests", "out of range"],
    ),
    (
        "limits = [{ per = \"day\", tokens = 1000000000001 }]",
        &["plans.free.limits[0].tokens", "1000000000000"],
    ),
    (
        "limits = [{ per = \"day\", cost_usd = 0.5 }]",
        &["plans.free.limits[0].cost_usd", "in quotes"],
    ),
    (
        "limits = [{ per = \"day\", cost_usd = \"0.0\" }]",
        &["plans.free.limits[0].cost_usd", "nothing"],
    ),
    (
        "limits = [{ per = \"day\", cost_usd = \"1000000001\" }]",
        &["plans.free.limits[0].cost_usd", "billion"],
    ),
    (
        "limits = [{ per = \"day\" }]",
        &["plans.free.limits[0]", "limits nothing", "exactly one"],
    ),
    (
        "limits = [{ per = \"day\", requests = 1, tokens = 1 }]",
        &["plans.free.limits[0]", "more than one", "exactly one"],
    ),
    (
        "limits = [{ requests = 1 }]",
        &["plans.free.limits[0].per", "missing"],
    ),
    (
        "limits = [{ per = \"week\", requests = 1 }]",
        &["plans.free.limits[0].per", "`week`", "\"day\""],
    ),
    (
        "limits = [{ per = \"day\", request = 1, tokens = 1 }]",
        &["plans.free.limits[0].request", "`requests`"],
    ),
    (
        "limits = [{ per = \"day\", requests = 1 }, { per = \"day\", requests = 2 }]",
        &["plans.free.limits[1]", "second limit", "keep one"],
    ),
    (
        "limits = [{ per = \"day\", requests = 1, model = \"gpt-4o\" }]",
        &[
            "plans.free.limits[0].model",
            "`gpt-4o`, which this plan does not have",
            "one of its models: gpt-4o-mini",
        ],
    ),
    (
        "limits = [{ per = \"day\", requests = 1, model = \"\" }]",
        &["plans.free.limits[0].model", "does not have"],
    ),
    (
        "limits = [{ per = \"day\", images = 1, model = \"gpt-4o-mini\" }, { per = \"day\", images = 2, model = \"gpt-4o-mini-2024-07-18\" }]",
        &[
            "plans.free.limits[1]",
            "second limit of images per day for `gpt-4o-mini`",
        ],
    ),
    (
        "limits = [{ per = \"day\", audio_seconds = 0 }]",
        &["plans.free.limits[0].audio_seconds", "out of range"],
    ),
    (
        "limits = [{ per = \"day\", characters = \"many\" }]",
        &["plans.free.limits[0].characters"],
    ),
    ("limits = 5", &["plans.free.limits", "not a list"]),
    ("limits = [5]", &["plans.free.limits[0]", "not a table"]),
    ("tokens = 5", &["plans.free.tokens", "not a known key"]),
];

#[test]
fn a_bad_plan_is_refused_with_the_key_and_the_fix() {
    for (line, words) in BAD_PLANS {
        let file = format!("[plans.free]\ndefault = true\nmodels = [\"gpt-4o-mini\"]\n{line}");
        let told = complaint(&file, &[]);
        for word in words.iter().chain(&["tollgate.toml:4", "Fix: "]) {
            assert!(
                told.contains(word),
                "{line}\n  says: {told}\n  and not: {word}"
            );
        }
    }
}

#[test]
fn plans_must_be_usable_and_one_of_them_the_default() {
    let limits = "limits = [{ per = \"day\", requests = 1 }]";
    let plan = |name: &str, rest: &str| format!("[plans.{name}]\n{rest}\n{limits}\n");
    let model = "models = [\"gpt-4o-mini\"]";
    let default = format!("default = true\n{model}");
    for (file, words) in [
        (
            plan("free", "default = true\nmodels = [\"gpt-99\"]"),
            ["plans.free.models", "no price", "[prices.\"gpt-99\"]"],
        ),
        (
            plan("free", "default = true\nmodels = [\"claude\"]") + "[prices.claude]\nfree = true",
            ["plans.free.models", "no upstream", "[[upstreams]]"],
        ),
        (
            plan("free", "default = true\nmodels = []"),
            ["plans.free.models", "empty", "at least one"],
        ),
        (
            plan("free", "default = true"),
            ["plans.free.models", "missing", "at least one"],
        ),
        (
            plan("free", model),
            ["plans", "no default", "default = true"],
        ),
        (
            plan("a", &default) + &plan("b", &default),
            ["plans", "2 default plans (a, b)", "exactly one"],
        ),
        (plan("Free", &default), ["plans.Free", "plain name", "a-z"]),
        (
            plan("\"a.b\"", &default),
            ["plans.\"a.b\"", "plain name", "a-z"],
        ),
        (
            plan("free", &format!("default = \"yes\"\n{model}")),
            [
                "plans.free.default",
                "neither true nor false",
                "without quotes",
            ],
        ),
    ] {
        let told = complaint(&file, &[]);
        for word in words {
            assert!(
                told.contains(word),
                "{file}\n  says: {told}\n  and not: {word}"
            );
        }
    }
}

/// What stands under `[models]`, and the words of the complaint.
const BAD_MODELS: &[(&str, &[&str])] = &[
    ("fast = \"gpt-4o\"", &["models.fast", "not a table"]),
    (
        "fast = {}",
        &["models.fast.use", "lists 0 models", "use = ["],
    ),
    (
        "fast.use = [\"gpt-99\"]",
        &["models.fast.use", "`gpt-99`", "no price"],
    ),
    (
        "fast.use = [\"fast\"]",
        &["models.fast.use", "`fast`", "no price"],
    ),
    (
        "a.use = [\"b\"]\nb.use = [\"gpt-4o\"]",
        &["models.a.use", "`b`", "under [models] itself"],
    ),
    (
        "a.use = [\"gpt-4o\"]\n\"gpt-4o\".use = [\"gpt-4o-mini\"]",
        &["models.a.use", "`gpt-4o`", "under [models] itself"],
    ),
    (
        "\"two words\".use = [\"gpt-4o\"]",
        &["models.\"two words\"", "not a name"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], sets = {} }",
        &["models.fast.sets", "not a known key", "`set`"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = [1] }",
        &["models.fast.set", "a list, not a table"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { messages = [] } }",
        &["models.fast.set", "`messages`", "reasoning_effort"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], defaults = { n = 2 } }",
        &["models.fast.defaults", "`n`", "cannot be set"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { dimensions = 10 } }",
        &["models.fast.set", "`dimensions`", "for these models"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { temperature = 3 } }",
        &["models.fast.set", "`temperature` must be between 0 and 2"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { temperature = inf } }",
        &["models.fast.set", "JSON cannot have"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { reasoning_effort = \"much\" } }",
        &["models.fast.set", "`reasoning_effort` must be one of"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { max_tokens = 1, max_completion_tokens = 2 } }",
        &["models.fast.set", "differs from `max_tokens`"],
    ),
    (
        "fast = { use = [\"gpt-4o\"], set = { seed = 1 }, defaults = { seed = 2 } }",
        &["models.fast.defaults", "`seed`", "keep one"],
    ),
    (
        "v = { use = [\"text-embedding-3-small\"], set = { dimensions = 0 } }",
        &["models.v.set", "`dimensions` must be between 1"],
    ),
];

#[test]
fn a_name_of_the_operators_leads_to_models_that_there_are_with_fields_that_they_take() {
    for (lines, words) in BAD_MODELS {
        let told = complaint(&format!("[models]\n{lines}\n"), &[]);
        for word in *words {
            assert!(
                told.contains(word),
                "{lines}\n  says: {told}\n  and not: {word}"
            );
        }
    }
}

/// Lines of an upstream that is named `local`, and the words of the complaint.
const BAD_UPSTREAMS: &[(&str, &[&str])] = &[
    (
        "models = [\"*\"]",
        &["upstreams[0].base_url", "missing", "11434"],
    ),
    (
        "base_url = \"127.0.0.1:1\"\nmodels = [\"*\"]",
        &["upstreams[0].base_url", "http://"],
    ),
    (
        "base_url = \"https://x/v1?a=b\"\nmodels = [\"*\"]",
        &["upstreams[0].base_url", "query"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"",
        &["upstreams[0].models", "missing"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"\"]",
        &["upstreams[0].models", "empty name"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\napi_key_env = \"NOT_SET\"",
        &["upstreams[0].api_key_env", "NOT_SET", "set NOT_SET"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\ndialect = \"azure\"",
        &["upstreams[0].dialect", "`azure`", "\"compatible\""],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\npreset = \"bedrock\"",
        &["upstreams[0].preset", "`bedrock`", "\"openrouter\""],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nanthropic_beta = [\"a b\"]",
        &["upstreams[0].anthropic_beta", "name of a beta"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\ncap_name = \"max\"",
        &["upstreams[0].cap_name", "`max`", "\"both\""],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nstream_usage = \"no\"",
        &["upstreams[0].stream_usage", "neither true nor false"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nproxy = \"socks5://127.0.0.1:1\"",
        &[
            "upstreams[0].proxy",
            "SOCKS",
            "http://user:password@host:port",
        ],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nca_file = \"no-such.pem\"",
        &["upstreams[0].ca_file", "no-such.pem", "BEGIN CERTIFICATE"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nheaders = { Host = \"x\" }",
        &["upstreams[0].headers.Host", "from us"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nheaders = { \"X Y\" = \"x\" }",
        &["upstreams[0].headers", "no name of a header"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nheaders = { x-key = \"a\\nb\" }",
        &["upstreams[0].headers.x-key", "cannot stand in a header"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\napi_key_env = \"OPENAI_API_KEY\"\nheaders = { Authorization = \"x\" }",
        &["upstreams[0].headers", "api_key_env"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\nkeep_alive = \"9d\"",
        &["upstreams[0].keep_alive", "out of range"],
    ),
    (
        "base_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\napi_key = \"sk-1\"",
        &["upstreams[0].api_key", "`api_key_env`"],
    ),
];

#[test]
fn a_bad_upstream_is_refused_with_the_key_and_the_fix() {
    for (lines, words) in BAD_UPSTREAMS {
        let told = complaint(&format!("[[upstreams]]\nname = \"local\"\n{lines}"), &[]);
        for word in *words {
            assert!(
                told.contains(word),
                "{lines}\n  says: {told}\n  and not: {word}"
            );
        }
    }
    let twice =
        "[[upstreams]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\n"
            .repeat(2);
    assert!(complaint(&twice, &[]).contains("two upstreams named `a`"));
}

/// Variables, and the words of the complaint.
const BAD_VARIABLES: &[(&str, &str, &[&str])] = &[
    ("PORT", "http", &["server.bind", "PORT", "number"]),
    ("PORT", "99999", &["server.bind", "PORT"]),
    (
        "SUPABASE_SERVICE_KEY",
        "sb_publishable_x",
        &[
            "directory.supabase_service_key",
            "publishable",
            "sb_secret_",
        ],
    ),
    (
        "SUPABASE_SERVICE_KEY",
        "two words",
        &["directory.supabase_service_key", "space", "sb_secret_"],
    ),
    (
        "DATABASE_URL",
        "mysql://u:p@h/d",
        &["store.url", "DATABASE_URL"],
    ),
    (
        "SUPABASE_URL",
        "https://your-project.supabase.co",
        &["auth.supabase_url", "placeholder", "dashboard"],
    ),
    (
        "SUPABASE_URL",
        "https://<project>.supabase.co",
        &["auth.supabase_url", "placeholder", "dashboard"],
    ),
    (
        "SUPABASE_URL",
        "\"https://x.supabase.co\"",
        &["auth.supabase_url", "quotes", "env-file"],
    ),
    (
        "SUPABASE_URL",
        "http://134744072",
        &["auth.supabase_url", "https://"],
    ),
    (
        "SUPABASE_SERVICE_KEY",
        "'sb_secret_x'",
        &["directory.supabase_service_key", "quotes"],
    ),
    (
        "SUPABASE_SERVICE_KEY",
        "sb_secret_x ",
        &["directory.supabase_service_key", "white space"],
    ),
    (
        "JWT_SECRET",
        "\"f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa\"",
        &["auth.jwt_secret", "quotes", "env-file"],
    ),
    (
        "JWT_SECRET",
        "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa\n",
        &["auth.jwt_secret", "white space"],
    ),
    (
        "TOLLGATE_ADMIN_TOKEN",
        "'f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa'",
        &["server.admin_token", "quotes"],
    ),
    ("OPENAI_API_KEY", "'sk-x'", &["OPENAI_API_KEY", "quotes"]),
    (
        "OPENAI_API_KEY",
        "",
        &["OPENAI_API_KEY", "is an empty secret", "set OPENAI_API_KEY"],
    ),
    (
        "DATABASE_URL",
        "\"postgres://u:p@h/d\"",
        &["DATABASE_URL", "quotes"],
    ),
    (
        "DATABASE_URL",
        "postgresql+asyncpg://u:p@h/d",
        &["DATABASE_URL", "postgres://"],
    ),
    (
        "DATABASE_URL",
        "postgres://postgres:[YOUR-PASSWORD]@h/d",
        &["DATABASE_URL", "[YOUR-PASSWORD]", "password"],
    ),
    (
        "DATABASE_URL",
        "postgres://u:p%ss@h/d",
        &["DATABASE_URL", "%25"],
    ),
    (
        "DATABASE_URL",
        "postgres://u:p@ss@h/d",
        &["DATABASE_URL", "%40"],
    ),
    (
        "DATABASE_URL",
        "postgres://u:p@h/d?zebra=1",
        &["DATABASE_URL", "zebra", "take it out"],
    ),
    (
        "SUPABASE_URL",
        "http://x.supabase.co",
        &["auth.supabase_url", "SUPABASE_URL", "https://"],
    ),
    (
        "SUPABASE_URL",
        "https://x.supabase.co/auth/v1",
        &["auth.supabase_url", "path", "leave the path out"],
    ),
    (
        "SUPABASE_URL",
        "x.supabase.co",
        &["auth.supabase_url", "https://<project>.supabase.co"],
    ),
    (
        "JWT_SECRET",
        "short",
        &["auth.jwt_secret", "JWT_SECRET", "32 bytes", "openssl"],
    ),
    (
        "JWT_SECRET",
        "changeme-changeme-changeme-changeme",
        &["auth.jwt_secret", "guessed", "openssl"],
    ),
    (
        "OPENAI_API_KEY",
        "two words",
        &["OPENAI_API_KEY", "space", "again"],
    ),
    (
        "HTTPS_PROXY",
        "socks5://u:p@h:1",
        &["HTTPS_PROXY", "SOCKS", "http://user:password@host:port"],
    ),
    ("https_proxy", "http://h:99999", &["https_proxy", "port"]),
    (
        "OPENAI_BASE_URL",
        "api.openai.com",
        &[
            "upstreams[0].base_url",
            "OPENAI_BASE_URL",
            "https://api.openai.com/v1",
        ],
    ),
    (
        "TOLLGATE_BIND",
        "x",
        &["TOLLGATE_BIND", "TOLLGATE_SERVER__BIND"],
    ),
    (
        "TOLLGATE_SERVER_BIND",
        "x",
        &["TOLLGATE_SERVER_BIND", "TOLLGATE_SERVER__BIND"],
    ),
    (
        "TOLLGATE_SERVER__BNID",
        "x",
        &["server.bnid", "TOLLGATE_SERVER__BNID", "`bind`"],
    ),
    (
        "TOLLGATE_SERVR__BIND",
        "x",
        &["TOLLGATE_SERVR__BIND", "TOLLGATE_SERVER__BIND"],
    ),
    (
        "TOLLGATE_WHATEVER_ELSE",
        "x",
        &["TOLLGATE_WHATEVER_ELSE", "unset it"],
    ),
    (
        "TOLLGATE_SERVER",
        "0.0.0.0:80",
        &["server", "TOLLGATE_SERVER", "inline table"],
    ),
    (
        "TOLLGATE_SERVER__BIND__HOST",
        "x",
        &["server.bind.host", "leads nowhere"],
    ),
    (
        "TOLLGATE_SERVER__OPEN_REQUESTS_MAX",
        "many",
        &["server.open_requests_max", "whole number"],
    ),
    (
        "TOLLGATE_UPSTREAMS__5__NAME",
        "x",
        &["upstreams.5.name", "leads nowhere"],
    ),
];

#[test]
fn a_bad_variable_is_refused_with_the_key_its_name_and_the_fix() {
    for (name, value, words) in BAD_VARIABLES {
        let told = complaint("", &[(name, value)]);
        for word in words.iter().chain(&["Fix: "]) {
            assert!(
                told.contains(word),
                "{name}={value}\n  says: {told}\n  and not: {word}"
            );
        }
    }
}

#[test]
fn what_is_missing_is_named_with_the_variable_that_sets_it() {
    let without = |name: &str| {
        let mut env = env(&[]);
        env.remove(name);
        let errors = load_all("", "", env).unwrap_err();
        assert_eq!(errors.0.len(), 1, "{errors}");
        errors.to_string()
    };
    let told = without("OPENAI_API_KEY");
    assert!(
        told.contains("upstreams[0].api_key_env") && told.contains("set OPENAI_API_KEY"),
        "{told}"
    );
    let told = without("JWT_SECRET");
    assert!(
        told.contains("SUPABASE_URL")
            && told.contains("JWT_SECRET")
            && told.contains("tollgate demo"),
        "{told}"
    );
}
