//! `tollgate pause` and `tollgate resume`: the kill switch.

use super::print::out;
use super::user::desk;
use crate::clock::Clock;
use crate::config::Config;

/// Pauses the app: every new request is refused, with 503 `paused`, until `resume`.
///
/// # Errors
/// The ledger cannot be written.
pub fn pause(config: &Config, reason: &str) -> Result<(), String> {
    desk(config)?.pause(reason, Clock::system().now()).map_err(|error| error.to_string())?;
    out("Paused: new requests are refused within a second; open ones go on. `tollgate resume` ends it.\n")
}

/// Lets the app go on.
///
/// # Errors
/// The ledger cannot be written.
pub fn resume(config: &Config) -> Result<(), String> {
    let was_paused = desk(config)?.resume().map_err(|error| error.to_string())?;
    out(if was_paused { "Going on.\n" } else { "It was not paused.\n" })
}
