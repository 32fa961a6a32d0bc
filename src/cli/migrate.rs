//! `tollgate migrate`: makes the ledger's tables, or brings older ones up to date.

use super::{Failure, print};
use crate::config::Config;
use crate::ledger::report::Desk;

/// Make the ledger's tables, or bring older ones up to date (`serve` does so by itself)
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate migrate        before the new version serves, with an account that may change tables")]
pub(super) struct Args {}

/// Makes or migrates the tables. Must be called where a thread may block.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    drop(Desk::open(&config.store.url)?);
    Ok(print::line(&format!("The ledger in {} is up to date.", config.store.url))?)
}
