//! Reloading: SIGHUP or a changed file brings new plans, prices and keys into force. A bad file changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::config::{Config, Sources};

/// How often the file is looked at. (A poll of one file needs no watcher, and works on every mount.)
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a changed file must stay unchanged before it is read: it may be half-written.
const SETTLE_FOR: Duration = Duration::from_millis(300);

/// The most names of changed settings in a log line.
const NAMES_MAX: usize = 40;
/// Settings that are read only at start; others apply from the next request on. (`[directory]` is handled separately.)
const AT_RESTART: [&str; 13] = [
    "server.bind",
    "server.admin_bind",
    "server.cors_origins",
    "server.header_bytes_max",
    "server.header_timeout",
    "server.body_timeout",
    "server.keep_alive",
    "server.shutdown_delay",
    "server.shutdown_grace",
    "server.log_",
    "answers.",
    "store.",
    "telemetry.",
];

/// SIGHUP, which ends a process that does not listen for it: so this comes before anything that may take a while.
#[must_use]
pub fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup())
        .map_err(|error| tracing::warn!(%error, "no SIGHUP"))
        .ok()
}

/// Reloads on SIGHUP and whenever the file or `.env` differs, for as long as it is polled.
pub async fn keep_reloaded(app: Arc<App>, sources: Sources, mut hangup: Option<Signal>) {
    let mut seen = stamps(&sources);
    loop {
        let asked = tokio::select! {
            () = hung_up(&mut hangup) => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let now = stamps(&sources);
        if !asked && now == seen {
            continue;
        }
        if !asked {
            tokio::time::sleep(SETTLE_FOR).await;
            if stamps(&sources) != now {
                continue;
            }
        }
        // Half-written, or away for a moment: it would be read as a file that leaves everything to the defaults.
        if is_emptied(&seen, &now) {
            tracing::error!(
                "tollgate.toml is empty or gone: the old settings stay (to go by the defaults, restart)"
            );
            continue;
        }
        seen = now;
        app.reload(&sources);
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    if let Some(signal) = hangup
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// What tells that a file differs: its time of change and its length; none where there is no file.
type Stamp = (PathBuf, Option<(SystemTime, u64)>);

/// The files that are read, first of them `tollgate.toml`.
fn stamps(sources: &Sources) -> Vec<Stamp> {
    let stamp = |path: PathBuf| {
        let facts = std::fs::metadata(&path).ok();
        let stamp = facts.and_then(|facts| Some((facts.modified().ok()?, facts.len())));
        (path, stamp)
    };
    let files = sources.files().into_iter();
    let prompts = sources.prompt_files().into_iter();
    files.chain(prompts).map(stamp).collect()
}

/// The file, the first of the stamps, said something and says nothing any more.
fn is_emptied(seen: &[Stamp], now: &[Stamp]) -> bool {
    let says_something = |stamps: &[Stamp]| {
        stamps
            .first()
            .is_some_and(|(_, stamp)| stamp.is_some_and(|(_, length)| length > 0))
    };
    says_something(seen) && !says_something(now)
}

impl App {
    /// Reads the settings again; a bad file keeps the old ones and says so.
    pub fn reload(&self, sources: &Sources) {
        let new = match Config::load(sources) {
            Ok(new) => new,
            Err(errors) => {
                tracing::error!(%errors, "the new settings are wrong: the old ones stay");
                return;
            }
        };
        self.adopt(new);
    }

    /// Takes new settings over, for the requests that come from now on.
    pub(crate) fn adopt(&self, new: Config) {
        let old = self.config();
        let changed = new.fingerprints.changed_since(&old.fingerprints);
        let late = changed
            .iter()
            .filter(|name| AT_RESTART.iter().any(|start| name.starts_with(start)));
        let late: Vec<&str> = late.map(String::as_str).collect();
        if !late.is_empty() {
            tracing::warn!(
                settings = late.join(", "),
                "these settings change only at a restart"
            );
        }
        if !self.databases_adopt(&new.directory.via) {
            tracing::warn!("[directory]: the way to your database changes only at a restart");
        }
        self.auth.reload(&new.auth);
        self.upstreams
            .store(Arc::new(self.upstreams().with_settings(&new.proxy)));
        self.metrics.adopt(&new);
        if changed.is_empty() {
            tracing::info!("settings read again: nothing has changed");
        } else {
            let names = changed
                .iter()
                .take(NAMES_MAX)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let (plans, prompts) = (new.plans.by_name.len(), new.prompts.len());
            let upstreams = new.upstreams.len();
            tracing::info!(
                changed = names,
                count = changed.len(),
                plans,
                prompts,
                upstreams,
                "settings reloaded"
            );
        }
        self.config.store(Arc::new(new));
        self.catch_up_purchases();
    }

    /// Gives, in the background, what was bought of products that the settings did not have at that time.
    pub(crate) fn catch_up_purchases(&self) {
        let (intake, config, now) = (self.intake.clone(), self.config(), self.clock.now());
        self.work.spawn(async move {
            match intake.catch_up(config, now).await {
                Ok(users) if users.is_empty() => {}
                Ok(users) => {
                    let users = users.len();
                    tracing::info!(users, "[products] has what they bought now: it was given");
                }
                Err(error) => {
                    let fix = "reload or restart, and it is tried again";
                    tracing::error!(error, fix, "new products were not given to who bought them");
                }
            }
        });
    }
}
