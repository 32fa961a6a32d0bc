//! `tollgate usage`: the usage log, summed up by model or request by request.

use uuid::Uuid;

use super::print::Lines;
use crate::account::sum_json;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::report::{ModelSum, Reports, RequestRow, Which};
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
    let mut lines = Lines::new();
    if !question.json {
        lines.line(HEAD)?;
    }
    for sum in &sums {
        lines.line(&if question.json { sum_json(sum).to_string() } else { sum_text(sum) })?;
    }
    lines.finish()
}

const HEAD: &str = "model                         requests        input       cached       output           cost";

/// The columns of [`HEAD`].
pub(super) fn sum_text(sum: &ModelSum) -> String {
    let ModelSum { model, requests, input_tokens, cached_input_tokens, output_tokens, cost_micros } = sum;
    let cost = format!("${}", MicroUsd(*cost_micros));
    format!("{model:28} {requests:>9} {input_tokens:>12} {cached_input_tokens:>12} {output_tokens:>12} {cost:>14}")
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
