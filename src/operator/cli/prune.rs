//! `tollgate prune`: deletes old requests now.

use std::time::Duration;

use super::{CommandError, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::load::KEEP_REQUESTS_MIN;
use crate::config::units::{parse_duration, show_duration};
use crate::ledger::read::report::Desk;
use crate::ledger::tools::prune;

/// Delete old requests now (a server deletes those older than `[store] keep_requests` by itself)
///
/// Usage stays counted: sums of a month and of all time are kept. The file of an SQLite ledger does not shrink;
/// the room in it is used again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate prune                       those older than [store] keep_requests
  tollgate prune --older-than 90d
  tollgate prune --older-than 90d --dry-run")]
pub(super) struct PruneArgs {
    /// Delete requests older than this: 90d. Default: `[store] keep_requests`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Also delete requests that the outbox has not sent yet: your `log_request` will never see them
    #[arg(long)]
    even_unsent: bool,
    /// Only print from when on requests would be kept
    #[arg(long)]
    dry_run: bool,
}

/// Forgets.
pub(super) fn run(args: &PruneArgs, config: &Config) -> Result<(), CommandError> {
    let older_than = args.older_than.unwrap_or(config.store.keep_requests);
    if older_than < KEEP_REQUESTS_MIN {
        let problem = format!(
            "{} is too short: windows of a day are still made from requests",
            show_duration(older_than)
        );
        return Err(CommandError::new(
            problem,
            format!("choose {} or more", show_duration(KEEP_REQUESTS_MIN)),
        ));
    }
    let now = Clock::system().now();
    let before = now.minus(older_than);
    if args.dry_run {
        return Ok(print::line(&format!(
            "Requests from before {} would be forgotten.",
            before.rfc3339()
        ))?);
    }
    let desk = Desk::open(&config.store.url)?;
    let unsent = prune::unsent(&desk, before)?;
    if unsent > 0 && !args.even_unsent {
        let next = "see with `tollgate doctor` why your log_request does not take them, or say --even-unsent";
        return Err(CommandError::new(
            format!("{unsent} of them were not sent to your log_request yet"),
            next,
        ));
    }
    let mut gone: usize = 0;
    loop {
        let step = prune::prune(&desk, before, now, &config.server.time_zone)?;
        if step == 0 {
            break;
        }
        gone = gone.saturating_add(step);
        if print::is_watched() {
            print::progress(&format!("{gone} rows forgotten"));
        }
    }
    if print::is_watched() {
        print::progress("");
    }
    Ok(print::line(&format!(
        "{gone} rows from before {} are forgotten.",
        before.rfc3339()
    ))?)
}
