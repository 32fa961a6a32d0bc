//! `tollgate usage`: the usage log, summed up by model or request by request.

use serde_json::json;
use uuid::Uuid;

use super::print::{Lines, out};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::report::{Reports, RequestRow, Which};
use crate::price::MicroUsd;

/// What is asked for.
#[derive(Debug)]
pub struct Question {
    /// Request by request.
    pub requests: bool,
    /// One JSON object a line.
    pub json: bool,
    /// Of this user only.
    pub user_id: Option<Uuid>,
    /// Held at this moment or later.
    pub since: Option<Timestamp>,
}

/// Prints the usage log.
///
/// # Errors
/// There is no ledger, or it cannot be read.
pub fn run(config: &Config, question: &Question) -> Result<(), String> {
    let reports = Reports::open(&config.store.path).map_err(|error| error.to_string())?;
    let which = Which { user_id: question.user_id, from: question.since, until: None };
    if question.requests {
        return requests(&reports, which, question.json).map_err(|Stopped(why)| why);
    }
    let sums = reports.by_model(which).map_err(|error| error.to_string())?;
    let mut text = String::new();
    if !question.json {
        text.push_str(&format!(
            "{:28} {:>9} {:>12} {:>12} {:>12} {:>14}\n",
            "model", "requests", "input", "cached", "output", "cost"
        ));
    }
    for sum in &sums {
        let cost = MicroUsd(sum.cost_micros);
        let row = if question.json {
            json!({ "model": sum.model, "requests": sum.requests, "input_tokens": sum.input_tokens,
                "cached_input_tokens": sum.cached_input_tokens, "output_tokens": sum.output_tokens,
                "cost_usd": cost.to_string() })
            .to_string()
        } else {
            format!(
                "{:28} {:>9} {:>12} {:>12} {:>12} {:>14}",
                sum.model,
                sum.requests,
                sum.input_tokens,
                sum.cached_input_tokens,
                sum.output_tokens,
                format!("${cost}")
            )
        };
        text.push_str(&row);
        text.push('\n');
    }
    out(&text)
}

/// Printing stopped: the ledger cannot be read, or nobody listens any more.
struct Stopped(String);

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

fn requests(reports: &Reports, which: Which, as_json: bool) -> Result<(), Stopped> {
    let mut lines = Lines::new();
    let done = reports.requests(which, |row| {
        let line = if as_json { serde_json::to_string(&row).unwrap_or_default() } else { plain(&row) };
        lines.line(&line).map_err(Stopped)
    });
    done.and_then(|()| lines.finish().map_err(Stopped))
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
