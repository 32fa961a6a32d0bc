//! `[directory]`.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::config::findings::{Invalid, Problem};
use crate::config::reader::Section;
use crate::config::values::{DAY, HOUR, choice, millis_to, postgres_url};
use crate::config::{Auth, Store, StoreUrl, secrets};

/// How the developer's database is reached, with addresses and keys.
#[derive(Clone, Debug)]
pub enum Via {
    /// Not at all.
    None,
    /// Over Supabase's REST API.
    Rest {
        /// The project's URL without a trailing slash.
        supabase_url: String,
        /// A secret key, or the legacy service-role key.
        service_key: SecretString,
    },
    /// Over Postgres, at this URL.
    Postgres(SecretString),
}

impl Via {
    /// As in the config file and in readiness.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rest { .. } => "rest",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl PartialEq for Via {
    fn eq(&self, other: &Self) -> bool {
        let parts = |via: &Self| match via {
            Self::None => None,
            Self::Rest {
                supabase_url,
                service_key,
            } => Some((supabase_url.clone(), service_key.clone())),
            Self::Postgres(url) => Some((String::new(), url.clone())),
        };
        let same = |(one, two): ((String, SecretString), (String, SecretString))| {
            one.0 == two.0 && one.1.expose_secret() == two.1.expose_secret()
        };
        match (parts(self), parts(other)) {
            (Some(one), Some(two)) => self.as_str() == other.as_str() && same((one, two)),
            (one, two) => one.is_none() && two.is_none(),
        }
    }
}

/// `[directory]`
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// How the developer's own database is reached.
    pub via: Via,
    /// How long an answer counts as fresh.
    pub plan_cache: Duration,
    /// How long an answer serves while the database is down.
    pub plan_stale: Duration,
}

/// The section as it is written. `via` is settled when `[auth]` and `[store]` have been read.
pub(super) struct DirectorySection {
    directory: DirectoryConfig,
    via: Option<DirectoryVia>,
    database_url: Option<SecretString>,
    service_key: Option<SecretString>,
}

/// The words of `[directory] via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectoryVia {
    None,
    Rest,
    Postgres,
}

/// Reads the section.
pub(super) fn directory(section: &Section<'_>) -> Result<DirectorySection, Invalid> {
    let via = section.maybe("via", "rest", |text| {
        choice(
            text,
            &[
                ("none", DirectoryVia::None),
                ("rest", DirectoryVia::Rest),
                ("postgres", DirectoryVia::Postgres),
            ],
        )
    });
    let database_url = section.maybe(
        "database_url",
        "postgres://user:password@host:5432/database",
        postgres_url,
    );
    let service_key = section.maybe("supabase_service_key", "sb_secret_…", secrets::service_key);
    let plan_cache = section.duration("plan_cache", millis_to(0, HOUR));
    let plan_stale = section.duration("plan_stale", millis_to(0, DAY.saturating_mul(7)));
    section.finish();
    let (plan_cache, plan_stale) = (plan_cache?, plan_stale?);
    if plan_stale < plan_cache {
        let fix = "choose a value of at least plan_cache";
        section.wrong(
            "plan_stale",
            Problem::new("is shorter than plan_cache", fix),
        );
    }
    let directory = DirectoryConfig {
        via: Via::None,
        plan_cache,
        plan_stale,
    };
    Ok(DirectorySection {
        directory,
        via: via?,
        database_url: database_url?,
        service_key: service_key?,
    })
}

impl DirectorySection {
    /// How the database is reached: by `via`, or else by the keys that are set.
    pub(super) fn with_via(
        self,
        section: &Section<'_>,
        auth: &Auth,
        store: &Store,
    ) -> Result<DirectoryConfig, Invalid> {
        let rest = auth.supabase_url.clone().zip(self.service_key);
        let rest = rest.map(|(supabase_url, service_key)| Via::Rest {
            supabase_url,
            service_key,
        });
        let postgres = self.database_url.map(Via::Postgres);
        let missing = |what: &str, fix: &str| section.wrong("via", Problem::new(what, fix));
        let via = match self.via {
            None => postgres.or(rest).unwrap_or(Via::None),
            Some(DirectoryVia::None) => Via::None,
            Some(DirectoryVia::Rest) => rest.ok_or_else(|| {
                missing(
                    "is \"rest\", for which something is missing",
                    "set SUPABASE_URL and SUPABASE_SERVICE_KEY",
                )
            })?,
            Some(DirectoryVia::Postgres) => {
                postgres.or_else(|| of_ledger(&store.url)).ok_or_else(|| {
                    missing(
                        "is \"postgres\", but no Postgres is named",
                        "set DATABASE_URL=postgres://…",
                    )
                })?
            }
        };
        Ok(DirectoryConfig {
            via,
            ..self.directory
        })
    }
}

/// The ledger's own database, where it is on Postgres.
fn of_ledger(store: &StoreUrl) -> Option<Via> {
    match store {
        StoreUrl::Sqlite(_) => None,
        StoreUrl::Postgres(url) => Some(Via::Postgres(url.clone())),
    }
}
