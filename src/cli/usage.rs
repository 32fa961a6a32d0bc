//! `tollgate usage`: the usage log, summed up by model or request by request.

use uuid::Uuid;

use super::Failure;
use super::print::Lines;
use crate::account::sum_json;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::report::{ModelSum, Reports, RequestRow, Which};
use crate::price::MicroUsd;

/// The usage log: summed up by model, or request by request
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate usage                              what each model cost so far
  tollgate usage --since 2026-11-01T00:00:00Z --user 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate usage --requests --json | jq .     every request, one JSON object a line")]
pub(super) struct Args {
    /// Request by request, oldest first
    #[arg(long)]
    requests: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Of this user only
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    /// From this moment on: 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    since: Option<Timestamp>,
}

/// Prints the usage log.
pub(super) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    let reports = Reports::open(&config.store.url)?;
    let which = Which { user_id: args.user, from: args.since, until: None };
    let mut lines = Lines::new();
    if args.requests {
        reports.requests(which, |row| {
            let line = if args.json { serde_json::to_string(&row).unwrap_or_default() } else { plain(&row) };
            Ok::<(), Failure>(lines.line(&line)?)
        })?;
        return Ok(lines.finish()?);
    }
    if !args.json {
        lines.line(HEAD)?;
    }
    for sum in &reports.by_model(which)? {
        lines.line(&if args.json { sum_json(sum).to_string() } else { sum_text(sum) })?;
    }
    Ok(lines.finish()?)
}

const HEAD: &str = "model                         requests        input       cached       output           cost";

/// The columns of [`HEAD`].
pub(super) fn sum_text(sum: &ModelSum) -> String {
    let ModelSum { model, requests, input_tokens, cached_input_tokens, output_tokens, cost_micros } = sum;
    let cost = format!("${}", MicroUsd(*cost_micros));
    format!("{model:28} {requests:>9} {input_tokens:>12} {cached_input_tokens:>12} {output_tokens:>12} {cost:>14}")
}

fn plain(row: &RequestRow) -> String {
    format!(
        "{} {} {:8} {:20} {:>7} in {:>7} out  ${}  {}",
        row.started_at,
        row.user_id,
        row.state,
        row.model,
        row.input_tokens,
        row.output_tokens,
        MicroUsd(row.cost_micros),
        row.flags.join(",")
    )
}
