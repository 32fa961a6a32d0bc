//! `tollgate purchases`: what users bought, what stores told, and events that are told again from a file.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::print::Lines;
use super::table::{Look, Table};
use super::{CommandError, print};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::ledger::read::report::{Desk, Reports};
use crate::operator::queries::purchases::{PurchaseRow, StoreEvent, events, list};
use crate::operator::queries::{Cursor, Page, Slice};
use crate::purchases::event::Rules;
use crate::purchases::records::take;
use crate::purchases::replay;

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What users bought in a store, those that changed last first
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  tollgate purchases
  tollgate purchases --user 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate purchases --events                what stores told in the last ninety days
  tollgate purchases replay events.jsonl     take events that were lost, from bodies that somebody kept"
)]
pub(super) struct PurchasesArgs {
    #[command(subcommand)]
    action: Option<PurchasesAction>,
    /// Of this user only
    #[arg(long, value_name = "UUID", conflicts_with = "events")]
    user: Option<Uuid>,
    /// The events in place of what they add up to
    #[arg(long)]
    events: bool,
    /// Only so many; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    top: usize,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum PurchasesAction {
    /// Take events from a file: bodies of webhooks, one JSON object a line. What was taken before changes nothing
    #[command(after_help = "Example:\n  tollgate purchases replay events.jsonl")]
    Replay {
        /// The file
        file: PathBuf,
    },
}

/// Prints what was bought.
pub(super) fn run(args: &PurchasesArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    if let Some(PurchasesAction::Replay { file }) = &args.action {
        return run_replay(file, config);
    }
    let reports = Reports::open(&config.store.url)?;
    let now = Clock::system().now();
    if args.events {
        let rows = all(args.top, |slice| events(&reports, slice))?;
        return show(&rows, args.json, || event_table(&rows).text(look));
    }
    let rows = all(args.top, |slice| {
        list(&reports, config, args.user, slice, now)
    })?;
    show(&rows, args.json, || purchase_table(&rows).text(look))
}

/// Page after page, until there are enough.
fn all<T>(
    top: usize,
    page: impl Fn(&Slice) -> Result<Page<T>, crate::ledger::Failure>,
) -> Result<Vec<T>, CommandError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let found = page(&Slice::new(Some(Slice::MAX), after))?;
        rows.extend(found.rows);
        after = found.next.as_deref().and_then(Cursor::parse);
        if after.is_none() || (top > 0 && rows.len() >= top) {
            break;
        }
    }
    if top > 0 {
        rows.truncate(top);
    }
    Ok(rows)
}

fn show<T: serde::Serialize>(
    rows: &[T],
    as_json: bool,
    table: impl FnOnce() -> String,
) -> Result<(), CommandError> {
    if !as_json {
        return Ok(print::text(&table())?);
    }
    let mut lines = Lines::new();
    for row in rows {
        let line = serde_json::to_string(row).map_err(std::io::Error::from)?;
        lines.line(&line)?;
    }
    Ok(lines.finish()?)
}

fn purchase_table(rows: &[PurchaseRow]) -> Table {
    let mut table = Table::new(vec![
        "user",
        "product",
        "gives",
        "state",
        "until",
        "store",
        "transaction",
    ]);
    for row in rows {
        let sandbox = if row.environment == "sandbox" {
            " (sandbox)"
        } else {
            ""
        };
        table.row(vec![
            row.user_id.clone().unwrap_or_else(|| "nobody".to_owned()),
            row.product.clone().unwrap_or_else(|| "-".to_owned()),
            row.gives.clone(),
            row.state.clone(),
            row.ends_at.clone().unwrap_or_else(|| "for ever".to_owned()),
            format!("{}{sandbox}", row.store),
            row.transaction.clone(),
        ]);
    }
    table
}

fn event_table(rows: &[StoreEvent]) -> Table {
    let mut table = Table::new(vec![
        "received",
        "channel",
        "event",
        "outcome",
        "user",
        "transaction",
    ]);
    for row in rows {
        table.row(vec![
            row.received_at.clone(),
            row.channel.clone(),
            row.kind.clone(),
            row.outcome.clone(),
            row.user_id.clone().unwrap_or_else(|| "-".to_owned()),
            row.transaction.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn run_replay(file: &Path, config: &Config) -> Result<(), CommandError> {
    let name = file.display();
    let next = "give a file with the bodies of webhooks, one JSON object a line";
    let cannot = |why: String| CommandError::new(format!("{name}: {why}"), next);
    let facts = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?;
    if facts.len() > FILE_BYTES_MAX {
        return Err(cannot(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    // All of them can be read, or none is taken.
    let told = replay::events(&text, config).map_err(cannot)?;
    let desk = Desk::open(&config.store.url)?;
    let now = Clock::system().now();
    let rules = Rules {
        products: &config.products,
        now,
    };
    for event in &told {
        let taken = take(&desk, event, rules, true)?;
        let user = taken.users.first().map(Uuid::to_string);
        print::line(&format!(
            "{} {} of {}: {} {}",
            event.channel.as_str(),
            event.kind,
            Timestamp::rfc3339(event.at),
            taken.outcome.as_str(),
            user.unwrap_or_default(),
        ))?;
    }
    Ok(print::line(&format!(
        "{} events. A running server sees them within a second.",
        told.len()
    ))?)
}
