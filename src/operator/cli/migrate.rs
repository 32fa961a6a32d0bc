//! `tollgate migrate`: creates the ledger's tables, or upgrades older ones.

use super::{CommandError, print};
use crate::config::Config;
use crate::config::StoreUrl;
use crate::ledger::file::absolute;
use crate::ledger::read::report::Desk;

/// Create or upgrade the ledger's tables (`serve` does this too)
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate migrate        before the new version serves, with an account that may change tables")]
pub(super) struct MigrateArgs {}

/// Where a ledger is, for somebody who may be in the wrong folder.
pub(super) fn whereabouts(store: &StoreUrl) -> String {
    match store {
        StoreUrl::Sqlite(path) => absolute(path).display().to_string(),
        StoreUrl::Postgres(_) => store.to_string(),
    }
}

/// Makes or migrates the tables. Must be called where a thread may block.
pub(super) fn run(config: &Config) -> Result<(), CommandError> {
    let (_, made) = Desk::open_or_make(&config.store.url)?;
    if made {
        return Ok(print::line(&format!(
            "A new ledger is made: {}",
            whereabouts(&config.store.url)
        ))?);
    }
    Ok(print::line(&format!(
        "The ledger in {} is up to date.",
        config.store.url
    ))?)
}
