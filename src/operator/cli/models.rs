//! `tollgate models`: every name that apps may ask for, and what answers.

use super::print::Lines;
use super::table::{Look, Table};
use super::{CommandError, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::read::report::Reports;
use crate::operator::queries::models::{CandidateModel, NamedModel, list};

/// Every name that apps may ask for: what answers, its price, its last day, its plans, and its spending in 30 days
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate models
  tollgate models --json | jq 'select(.plans == [])'   names that no plan has")]
pub(super) struct ModelsArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Prints the names.
pub(super) fn run(args: &ModelsArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    // Before the first start there is no ledger, and the names mean something already.
    let reports = Reports::open(&config.store.url).ok();
    let named = list(reports.as_ref(), config, Clock::system().now())?;
    if args.json {
        let mut lines = Lines::new();
        for model in &named {
            let line = serde_json::to_string(model).map_err(std::io::Error::from)?;
            lines.line(&line)?;
        }
        return Ok(lines.finish()?);
    }
    let mut table = Table::new(vec![
        "name",
        "answers",
        "upstream",
        ">input",
        ">output",
        "shut down",
        "plans",
        ">30 days",
    ]);
    for model in &named {
        for (place, candidate) in model.candidates.iter().enumerate() {
            table.row(row(model, candidate, place == 0));
        }
    }
    Ok(print::text(&table.text(look))?)
}

/// One line a candidate; what belongs to the name stands in the first.
fn row(model: &NamedModel, candidate: &CandidateModel, is_first: bool) -> Vec<String> {
    let of_name = |text: String| if is_first { text } else { String::new() };
    let spent = model.cost_usd.as_deref();
    vec![
        of_name(model.name.clone()),
        answers(candidate),
        candidate.upstream.clone().unwrap_or_default(),
        short(&candidate.input_usd),
        short(&candidate.output_usd),
        shutdown(candidate),
        of_name(model.plans.join(", ")),
        of_name(spent.map_or_else(|| "–".to_owned(), |dollars| format!("${dollars}"))),
    ]
}

fn answers(candidate: &CandidateModel) -> String {
    match &candidate.answered_by {
        Some(other) => format!("{other} (for {})", candidate.model),
        None => candidate.model.clone(),
    }
}

fn shutdown(candidate: &CandidateModel) -> String {
    let Some(day) = &candidate.last_day else {
        return String::new();
    };
    let next = candidate.successor.as_deref().unwrap_or("nothing");
    format!("{day}, then {next}")
}

/// Dollars a million tokens, with at least two places.
fn short(dollars: &str) -> String {
    let (whole, places) = dollars.split_once('.').unwrap_or((dollars, ""));
    format!("${whole}.{:0<2}", places.trim_end_matches('0'))
}
