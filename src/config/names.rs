//! The names of files, sections and variables that settings come from.

/// The file of settings, looked for in the working directory.
pub(super) const FILE: &str = "tollgate.toml";
pub(super) const DOT_ENV: &str = ".env";
/// Where the files are, as `--config` says. It is not a setting and is read from the environment only.
pub(super) const CONFIG_VARIABLE: &str = "TOLLGATE_CONFIG";
const PREFIX: &str = "TOLLGATE_";

/// Short variables of the quick start, and the key that each sets.
pub(super) const QUICK: [(&str, [&str; 2]); 8] = [
    ("PORT", ["server", "bind"]),
    ("DATABASE_URL", ["directory", "database_url"]),
    ("SUPABASE_URL", ["auth", "supabase_url"]),
    (
        "SUPABASE_SERVICE_KEY",
        ["directory", "supabase_service_key"],
    ),
    ("JWT_SECRET", ["auth", "jwt_secret"]),
    ("JWT_SECRET_PREVIOUS", ["auth", "jwt_secret_previous"]),
    ("TOLLGATE_ADMIN_TOKEN", ["server", "admin_token"]),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        ["telemetry", "otlp_endpoint"],
    ),
];

/// Variables that other code reads by name and that set no key.
const OTHERS: [&str; 5] = [
    "OPENAI_API_KEY",
    "OPENAI_API_KEY_PREVIOUS",
    "OPENAI_BASE_URL",
    "SUPABASE_PUBLISHABLE_KEY",
    "SUPABASE_ANON_KEY",
];

/// All sections.
pub(super) const SECTIONS: [&str; 16] = [
    "server",
    "auth",
    "store",
    "directory",
    "proxy",
    "answers",
    "attest",
    "ceiling",
    "telemetry",
    "upstreams",
    "models",
    "plans",
    "products",
    "webhooks",
    "prompts",
    "prices",
];

/// A variable that Tollgate reads by its name.
pub(super) fn is_ours(name: &str) -> bool {
    let is_quick = QUICK.iter().any(|(quick, _)| *quick == name);
    is_quick || OTHERS.contains(&name) || after_prefix(name).is_some()
}

/// The variable of a dotted key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The rest of a name after `TOLLGATE_`, in upper or lower case.
pub(super) fn after_prefix(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(rest)
}

/// Kubernetes sets such variables in every pod beside a service named `tollgate`; they are no settings.
pub(super) fn is_from_kubernetes(rest: &str, value: &str) -> bool {
    let service = rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT");
    let address = (rest == "PORT" || rest.starts_with("PORT_")) && !rest.contains("__");
    service || (address && (rest.contains('_') || value.contains("://")))
}
