//! `tollgate pause` and `tollgate resume`: the kill switch.

use super::{CommandError, by, print};
use crate::config::StoreUrl;
use crate::ledger::read::report::Desk;
use crate::operator::queries;

/// Refuse every new request of every user, with 503 `paused`, until `tollgate resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate pause --reason \"the bill looks wrong\"")]
pub(super) struct PauseArgs {
    /// The reason, for other operators
    #[arg(long, default_value = "paused by the operator")]
    reason: String,
}

/// Serve requests again after `pause`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate resume")]
pub(super) struct ResumeArgs {}

/// Pauses the app.
pub(super) fn pause(args: &PauseArgs, ledger: &StoreUrl) -> Result<(), CommandError> {
    queries::pause::pause(&Desk::open(ledger)?, &args.reason, by())?;
    let said = "Paused: new requests are refused within a second; open ones go on. To end it: tollgate resume";
    Ok(print::line(said)?)
}

/// Lets the app go on.
pub(super) fn resume(ledger: &StoreUrl) -> Result<(), CommandError> {
    let was_paused = queries::pause::resume(&Desk::open(ledger)?, by())?;
    Ok(print::line(if was_paused {
        "Going on."
    } else {
        "It was not paused."
    })?)
}
