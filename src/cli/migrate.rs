//! `tollgate migrate`: makes the ledger's tables, or brings older ones up to date.

use super::{Failure, print};
use crate::config::Config;
use crate::config::StoreUrl;
use crate::ledger::place::absolute;
use crate::ledger::report::Desk;

/// Make the ledger's tables, or bring older ones up to date (`serve` does so by itself)
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate migrate        before the new version serves, with an account that may change tables")]
pub(super) struct Args {}

/// Where a ledger is, for somebody who may be in the wrong folder.
pub(super) fn whereabouts(store: &StoreUrl) -> String {
    match store {
        StoreUrl::Sqlite(path) => absolute(path).display().to_string(),
        StoreUrl::Postgres(_) => store.to_string(),
    }
}

/// Makes or migrates the tables. Must be called where a thread may block.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    let (_, made) = Desk::open_or_make(&config.store.url)?;
    if made {
        return Ok(print::line(&format!("A new ledger is made: {}", whereabouts(&config.store.url)))?);
    }
    Ok(print::line(&format!("The ledger in {} is up to date.", config.store.url))?)
}
