//! The settings: a file, an `.env` and an environment, parted by lines of `--- .env` and `--- environment`. Whatever they
//! say, it is taken or every complaint names its key, its place and a fix, and no secret is shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate::config::{Config, ConfigErrors, Sources};

/// Secrets that are set unless the input sets them, and that nobody may see.
const SECRETS: [(&str, &str); 3] = [
    ("JWT_SECRET", "Qm4tYz81KpWd93VbXe57RfLu20HnGjCs"),
    ("OPENAI_API_KEY", "sk-Nv6cPa2JwDk84TsMh0"),
    ("SUPABASE_SERVICE_KEY", "sb_secret_Bq7xEo1LyUi93ZrCt5"),
];

/// Tries settings.
///
/// # Panics
/// They break a promise.
pub fn check(data: &[u8]) {
    let Ok(all) = std::str::from_utf8(data) else {
        return;
    };
    let (text, environment) = all.split_once("\n--- environment\n").unwrap_or((all, ""));
    let (file, dot_env) = text.split_once("\n--- .env\n").unwrap_or((text, ""));
    let directory = Directory::new();
    std::fs::write(directory.0.join("tollgate.toml"), file).expect("a place to write");
    std::fs::write(directory.0.join(".env"), dot_env).expect("a place to write");
    let mut env: BTreeMap<String, String> = SECRETS
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    env.extend(
        environment
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.into(), value.into())),
    );
    let sources = Sources {
        file: None,
        env,
        directory: directory.0.clone(),
    };
    let loaded = Config::load(&sources);
    match &loaded {
        Ok(config) => valid(config),
        Err(errors) => complaints(errors, &directory.0.join("tollgate.toml"), file),
    }
    let shown = match &loaded {
        Ok(config) => format!("{config:?}"),
        Err(errors) => format!("{errors:?}{errors}"),
    };
    for (name, secret) in SECRETS {
        // The engine learns the secrets from our own comparisons, and may write one where a name stands.
        assert!(
            all.contains(secret) || !shown.contains(secret),
            "{name} is shown"
        );
    }
    let again = match Config::load(&sources) {
        Ok(config) => format!("{config:?}"),
        Err(errors) => format!("{errors:?}{errors}"),
    };
    assert_eq!(shown, again, "the same settings mean the same");
}

fn valid(config: &Config) {
    assert!(!config.upstreams.is_empty() && !config.plans.by_name.is_empty());
    for plan in config.plans.by_name.values() {
        assert!(!plan.models.is_empty() && plan.max_output_tokens > 0 && plan.max_choices > 0);
        assert!(
            plan.limits.iter().all(|limit| limit.amount > 0),
            "a limit is at least 1"
        );
        for model in &plan.models {
            let (name, _) = config
                .prices
                .resolve(model)
                .expect("a model of a plan has a price");
            assert_eq!(name, model, "and its canonical name");
            assert!(
                config
                    .upstreams
                    .iter()
                    .any(|upstream| upstream.serves(model)),
                "and somebody serves it"
            );
        }
    }
    assert!(
        config.auth.jwt_secret.is_some() || config.auth.supabase_url.is_some(),
        "there is a key to verify tokens by"
    );
    assert!(
        config
            .auth
            .plan_claim
            .first()
            .is_none_or(|name| name != "user_metadata")
    );
    assert!(config.ceiling.is_none_or(|ceiling| ceiling.0 > 0));
}

fn complaints(errors: &ConfigErrors, path: &Path, file: &str) {
    assert!(!errors.0.is_empty(), "a refusal has a reason");
    let prefix = format!("{}:", path.display());
    for error in &errors.0 {
        let named = [&error.key, &error.place, &error.problem, &error.fix];
        assert!(named.iter().all(|text| !text.is_empty()), "{error:?}");
        if let Some(line) = error.place.strip_prefix(&prefix) {
            let line: usize = line
                .parse()
                .unwrap_or_else(|_| panic!("a line is a number: {}", error.place));
            assert!(
                (1..=file.split('\n').count()).contains(&line),
                "{} of {file:?}",
                error.place
            );
        }
    }
}

/// A directory of one run's own, in memory where the system has such.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let shm = Path::new("/dev/shm");
        let parent = if shm.is_dir() {
            shm.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("tollgate-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a place to write");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
