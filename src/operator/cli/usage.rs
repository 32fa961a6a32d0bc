//! `tollgate usage`: the usage log, summed up by day, user, model, plan, endpoint or feature, or request by request.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use uuid::Uuid;

use super::print::Lines;
use super::table::{Look, Table};
use super::{CommandError, print};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::read::report::{ReportRange, Reports, RequestRow};
use crate::operator::queries::sums::{GroupBy, UsageFilter};
use crate::operator::queries::usage::{UsageRow, list};
use crate::operator::queries::{Cursor, Slice};
use crate::plan;
use crate::price::MicroUsd;

/// How many users a table shows by default.
const TOP_USERS: usize = 25;

/// The usage log: summed up by model, day, user, plan, endpoint or feature, or request by request
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate usage                              what each model cost so far
  tollgate usage --by day --since 2026-11-01  what each day cost
  tollgate usage --by user --top 10           who spends most
  tollgate usage --by plan --csv > plans.csv
  tollgate usage --by feature                 what each feature of the app costs (X-Tollgate-Feature)
  tollgate usage --since 2026-11-01T08:00:00Z --user 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate usage --requests --json | jq .     every request, one JSON object a line")]
pub(super) struct UsageArgs {
    /// Summed up by this: the highest spend first, days the newest first
    #[arg(long, value_enum, default_value = "model", conflicts_with = "requests")]
    by: GroupBy,
    /// Only so many rows; 0 for all. Default: all, but 25 of a table of users
    #[arg(long, value_name = "COUNT", conflicts_with = "requests")]
    top: Option<usize>,
    /// Request by request, oldest first
    #[arg(long)]
    requests: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Comma-separated values, with a head
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Of this user only
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    /// From this day or moment on: 2026-11-01, or 2026-11-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = DayOrTime::parse)]
    since: Option<DayOrTime>,
    /// Up to the end of this day, or to this moment
    #[arg(long, value_name = "TIME", value_parser = DayOrTime::parse)]
    until: Option<DayOrTime>,
}

/// A day, or a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayOrTime {
    Day(Date),
    At(Timestamp),
}

impl DayOrTime {
    /// Reads `2026-11-01` or `2026-11-01T08:00:00Z`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(day) = text
            .parse()
            .ok()
            .filter(|day: &Date| day.to_string() == text)
        {
            return Ok(Self::Day(day));
        }
        let wrong = || {
            format!(
                "{text:?} is neither a day like 2026-11-25 nor a time like 2026-11-25T00:00:00Z"
            )
        };
        Timestamp::parse(text).map(Self::At).map_err(|_| wrong())
    }

    /// Where it begins.
    pub(super) fn start(self, zone: &TimeZone) -> Timestamp {
        match self {
            Self::Day(day) => plan::day_of(day, zone).0,
            Self::At(moment) => moment,
        }
    }

    /// Where it ends.
    pub(super) fn end(self, zone: &TimeZone) -> Timestamp {
        match self {
            Self::Day(day) => plan::day_of(day, zone).1,
            Self::At(moment) => moment,
        }
    }
}

/// Prints the usage log.
pub(super) fn run(args: &UsageArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    let zone = &config.server.time_zone;
    let (from, until) = (
        args.since.map(|since| since.start(zone)),
        args.until.map(|until| until.end(zone)),
    );
    if from.zip(until).is_some_and(|(from, until)| until <= from) {
        return Err(CommandError::new(
            "--until is not after --since",
            "swap them",
        ));
    }
    let reports = Reports::open(&config.store.url)?;
    if args.requests {
        return requests(
            &reports,
            ReportRange {
                user_id: args.user,
                from,
                until,
            },
            args,
        );
    }
    let by = args.by;
    let (from, until) = (
        from.unwrap_or(Timestamp::EPOCH),
        until.unwrap_or(Timestamp::MAX),
    );
    let wanted = UsageFilter {
        by,
        from,
        until,
        user: args.user,
    };
    let is_table = !args.json && !args.csv;
    let top = args.top.unwrap_or(if is_table && by == GroupBy::User {
        TOP_USERS
    } else {
        0
    });
    let (rows, are_all) = rows(&reports, wanted, zone, top)?;
    show(&rows, by, args, look)?;
    if !are_all && args.top.is_none() {
        print::error_line(&format!("These are the first {top}; all of them: --top 0"));
    }
    Ok(())
}

/// The first rows (0: all), and whether these are all.
fn rows(
    reports: &Reports,
    wanted: UsageFilter,
    zone: &TimeZone,
    top: usize,
) -> Result<(Vec<UsageRow>, bool), CommandError> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = list(reports, wanted, zone, &Slice::new(Some(Slice::MAX), after))?;
        rows.extend(page.rows);
        if top > 0 && rows.len() > top {
            rows.truncate(top);
            return Ok((rows, false));
        }
        after = page.next.as_deref().and_then(Cursor::parse);
        if after.is_none() {
            return Ok((rows, true));
        }
    }
}

fn show(rows: &[UsageRow], by: GroupBy, args: &UsageArgs, look: Look) -> Result<(), CommandError> {
    if args.json || args.csv {
        let mut lines = Lines::new();
        let head = [
            "requests",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "images",
            "audio_seconds",
            "characters",
            "cost_usd",
        ];
        if args.csv {
            lines.line(&format!("{},{}", by.as_str(), head.join(",")))?;
        }
        for row in rows {
            lines.line(&if args.csv {
                csv(&row_json(by, row))
            } else {
                row_json(by, row).to_string()
            })?;
        }
        return Ok(lines.finish()?);
    }
    let mut table = usage_table(by.as_str());
    for row in rows {
        table.row(cells(row));
    }
    Ok(print::text(&table.text(look))?)
}

/// A table for [`cells`].
pub(super) fn usage_table(key: &'static str) -> Table {
    Table::new(vec![
        key,
        ">requests",
        ">input",
        ">cached",
        ">output",
        ">images",
        ">seconds",
        ">characters",
        ">cost",
    ])
}

/// A row of usage.
pub(super) fn cells(row: &UsageRow) -> Vec<String> {
    let counts = [
        row.requests,
        row.input_tokens,
        row.cached_input_tokens,
        row.output_tokens,
        row.images,
        row.audio_seconds,
        row.characters,
    ];
    let counts = counts.iter().map(ToString::to_string);
    [row.key.clone()]
        .into_iter()
        .chain(counts)
        .chain([format!("${}", row.cost_usd)])
        .collect()
}

/// The key under its own name.
pub(super) fn row_json(by: GroupBy, row: &UsageRow) -> Value {
    json!({
        by.as_str(): row.key,
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "images": row.images,
        "audio_seconds": row.audio_seconds,
        "characters": row.characters,
        "cost_usd": row.cost_usd,
    })
}

fn requests(reports: &Reports, which: ReportRange, args: &UsageArgs) -> Result<(), CommandError> {
    let mut lines = Lines::new();
    let mut has_head = false;
    reports.requests(which, |row| {
        let value = || serde_json::to_value(&row).unwrap_or_default();
        if args.csv && !has_head {
            has_head = true;
            let names: Vec<String> = value()
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect();
            lines.line(&names.join(","))?;
        }
        let line = match (args.json, args.csv) {
            (true, _) => serde_json::to_string(&row).unwrap_or_default(),
            (_, true) => csv(&value()),
            _ => plain(&row),
        };
        Ok::<(), CommandError>(lines.line(&line)?)
    })?;
    Ok(lines.finish()?)
}

/// The members of an object, in their order.
fn csv(object: &Value) -> String {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => quoted(text),
        Value::Array(all) => quoted(
            &all.iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(" "),
        ),
        other => other.to_string(),
    };
    object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, value)| cell(value))
        .collect::<Vec<_>>()
        .join(",")
}

/// As RFC 4180 says; and no spreadsheet takes what a caller may have chosen for a formula.
fn quoted(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn plain(row: &RequestRow) -> String {
    format!(
        "{} {} {:8} {:20} {:>7} in {:>7} out  ${}  {}",
        row.started_at,
        row.user_id,
        row.state,
        row.model,
        row.used.input_tokens,
        row.used.output_tokens,
        MicroUsd(row.cost_micros),
        row.flags.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_commas_would_part_them_and_never_a_formula() {
        let row = json!({"model": "a,\"b\"", "requests": 7, "ended_at": null, "flags": ["x", "y"], "plan": "=1+1"});
        assert_eq!(csv(&row), "\"a,\"\"b\"\"\",7,,x y,'=1+1");
        for begins in ["=", "+", "-", "@", "\t", "\r"] {
            let cell = csv(&json!({"plan": format!("{begins}cmd|' /C calc'!A0")}));
            assert!(cell.trim_start_matches('"').starts_with('\''), "{cell:?}");
        }
    }

    #[test]
    fn a_day_is_whole_and_a_moment_is_itself() {
        let zone = TimeZone::get("Pacific/Auckland").unwrap();
        let day = DayOrTime::parse("2026-11-24").unwrap();
        assert_eq!(day.start(&zone).rfc3339(), "2026-11-23T11:00:00Z");
        assert_eq!(day.end(&zone).rfc3339(), "2026-11-24T11:00:00Z");
        let moment = DayOrTime::parse("2026-11-24T01:00:00+01:00").unwrap();
        assert_eq!(
            (moment.start(&zone), moment.end(&zone).rfc3339().as_str()),
            (moment.end(&zone), "2026-11-24T00:00:00Z")
        );
        for wrong in [
            "",
            "yesterday",
            "2026-11",
            "20261124",
            "2026-11-24T01:00:00",
            "2026-02-30",
        ] {
            assert!(DayOrTime::parse(wrong).is_err(), "{wrong}");
        }
    }
}
