//! `[store]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::config::findings::{Invalid, Problem};
use crate::config::reader::Section;
use crate::config::secrets::bare;
use crate::config::values::{DAY, postgres_url, seconds};

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Where the ledger is.
    pub url: StoreUrl,
    /// How long a hold survives after its process last renewed its lease.
    pub lease: Duration,
    /// How long ended requests are kept.
    pub keep_requests: Duration,
}

/// Where the ledger is.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// In an SQLite file.
    Sqlite(PathBuf),
    /// In the Postgres at this URL.
    Postgres(SecretString),
}

impl StoreUrl {
    /// `sqlite` or `postgres`, as readiness tells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// The SQLite file, where it is one.
    #[must_use]
    pub fn sqlite(&self) -> Option<&std::path::Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

impl std::fmt::Display for StoreUrl {
    /// The file, or just "Postgres": the URL has a password.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(out),
            Self::Postgres(_) => out.write_str("Postgres"),
        }
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sqlite(one), Self::Sqlite(two)) => one == two,
            (Self::Postgres(one), Self::Postgres(two)) => {
                one.expose_secret() == two.expose_secret()
            }
            _ => false,
        }
    }
}

/// The shortest time that rows are kept: two days, so that the window of a day can always be summed up again from its rows.
pub(crate) const KEEP_REQUESTS_MIN: Duration = Duration::from_hours(24 * 2);

/// Reads the section.
pub(super) fn store(section: &Section<'_>, directory: &Path) -> Result<Store, Invalid> {
    let url = section.maybe("url", "sqlite:data/tollgate.db", |text| {
        store_url(text, directory)
    });
    let lease = section.duration("lease", seconds(5..=3600));
    let keep_requests = section.duration(
        "keep_requests",
        KEEP_REQUESTS_MIN..=DAY.saturating_mul(3660),
    );
    section.finish();
    let url = url?.unwrap_or_else(|| StoreUrl::Sqlite(directory.join("data/tollgate.db")));
    Ok(Store {
        url,
        lease: lease?,
        keep_requests: keep_requests?,
    })
}

fn store_url(text: &str, directory: &Path) -> Result<StoreUrl, Problem> {
    const FIX: &str = "write \"sqlite:data/tollgate.db\" or \"postgres://user:password@host/database\", or take it out for the first";
    bare(text)?;
    // `jdbc:postgresql://`, `postgresql+asyncpg://` and the like get the advice for Postgres URLs.
    if text
        .split("//")
        .next()
        .is_some_and(|scheme| scheme.contains("postgres"))
    {
        return postgres_url(text).map(StoreUrl::Postgres);
    }
    let Some(path) = text.strip_prefix("sqlite:") else {
        return Err(Problem::new("is not the URL of a ledger", FIX));
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains(":memory:") || path.contains(['?', '\0']) {
        return Err(Problem::new(
            "does not name a file: the ledger must survive a restart",
            FIX,
        ));
    }
    Ok(StoreUrl::Sqlite(directory.join(path)))
}
