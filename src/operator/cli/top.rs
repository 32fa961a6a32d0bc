//! `tollgate top`: shows what is going on now.

use std::fmt::Write as _;
use std::time::Duration;

use super::table::{Look, Table};
use super::{CommandError, print};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::config::units::parse_duration;
use crate::ledger;
use crate::ledger::read::report::Reports;
use crate::operator::queries::Slice;
use crate::operator::queries::overview::{CeilingStatus, DayOverview, Pace, overview, pace};
use crate::operator::queries::requests::{self, OpenRow};
use crate::operator::queries::sums::{GroupBy, UsageFilter};
use crate::operator::queries::usage::{self, UsageRow};
use crate::plan::{date_of, day_of};
use crate::price::MicroUsd;

/// How many open requests and spenders are shown.
const ROWS: usize = 10;

/// Show what is going on: open requests, rates, today's spending against the ceiling
///
/// On a terminal it redraws in place; elsewhere it prints one picture after the other. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate top
  tollgate top --every 10s
  tollgate top --once          one picture, for a script or a mail")]
pub(super) struct TopArgs {
    /// How often it looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    every: Duration,
    /// One picture, and stop
    #[arg(long)]
    once: bool,
}

fn every(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text)?;
    let is_good = every >= Duration::from_millis(200) && every <= Duration::from_hours(1);
    is_good
        .then_some(every)
        .ok_or_else(|| "choose from 200ms to 1h".to_owned())
}

/// What is shown.
struct Picture {
    at: Timestamp,
    day: DayOverview,
    pace: Pace,
    open: Vec<OpenRow>,
    spenders: Vec<UsageRow>,
}

/// Shows it, again and again.
pub(super) fn run(args: &TopArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    let reports = Reports::open(&config.store.url)?;
    let clock = Clock::system();
    loop {
        let picture = look_at(&reports, config, clock.now())?;
        let text = picture.text(look);
        let is_redrawn = look.is_terminal() && !args.once;
        let is_heard = print::heard(&if is_redrawn {
            redrawn(&text, look)
        } else {
            text
        })?;
        if args.once || !is_heard {
            return Ok(());
        }
        std::thread::sleep(args.every);
    }
}

/// From the top left, over what was there, as far as there is room; then nothing below.
fn redrawn(text: &str, look: Look) -> String {
    let rows = look.height.unwrap_or(usize::MAX).saturating_sub(1);
    let lines: String = text
        .lines()
        .take(rows)
        .flat_map(|line| [line, "\u{1b}[K\n"])
        .collect();
    format!("\u{1b}[H{lines}\u{1b}[J")
}

fn look_at(reports: &Reports, config: &Config, at: Timestamp) -> Result<Picture, ledger::Failure> {
    let zone = &config.server.time_zone;
    let (from, until) = day_of(date_of(at, zone), zone);
    let wanted = UsageFilter {
        by: GroupBy::User,
        from,
        until,
        user: None,
    };
    let slice = Slice::new(u32::try_from(ROWS).ok(), None);
    Ok(Picture {
        at,
        day: overview(reports, config, at)?,
        pace: pace(reports, at)?,
        open: requests::open(reports, at)?,
        spenders: usage::list(reports, wanted, zone, &slice)?.rows,
    })
}

impl Picture {
    fn text(&self, look: Look) -> String {
        let mut text = self.figures(look);
        if !self.open.is_empty() {
            text.extend(["\n", self.open_table().text(look).as_str()]);
        }
        if !self.spenders.is_empty() {
            text.extend(["\n", self.spenders_table().text(look).as_str()]);
        }
        text
    }

    /// The lines above the tables.
    fn figures(&self, look: Look) -> String {
        let mut text = String::new();
        let today = &self.day.today;
        let mut line = |name: &str, said: &str| {
            // Writing to a String cannot fail.
            writeln!(text, "{} {said}", look.bold(&format!("{name:12}"))).unwrap_or_default();
        };
        line("tollgate", &self.at.rfc3339());
        if let Some(reason) = &self.day.paused {
            line(
                "PAUSED",
                &look.alert(&format!("{reason} (to go on: tollgate resume)")),
            );
        }
        line("open", &format!("{} requests", self.day.open));
        let Pace {
            requests,
            input_tokens,
            output_tokens,
            cost_micros,
        } = self.pace;
        let cost = MicroUsd(cost_micros);
        line(
            "last minute",
            &format!("{requests} requests, {input_tokens} tokens in, {output_tokens} out, ${cost}"),
        );
        line(
            "today",
            &format!(
                "{} requests of {} users, ${}",
                today.requests, today.users, today.cost_usd
            ),
        );
        line(
            "ceiling",
            &self
                .day
                .ceiling
                .as_ref()
                .map_or_else(|| "none".to_owned(), |ceiling| bar(ceiling, look)),
        );
        if let Some(ttft) = self.day.ttft_ms {
            line(
                "first byte",
                &format!(
                    "{} ms for half, {} for 90 %, {} for 99 %",
                    ttft.p50, ttft.p90, ttft.p99
                ),
            );
        }
        text
    }

    fn open_table(&self) -> Table {
        let mut table = Table::new(vec![
            "open request",
            "user",
            "plan",
            "model",
            "upstream",
            ">seconds",
            ">held",
        ]);
        for row in self.open.iter().take(ROWS) {
            let OpenRow {
                id,
                user_id,
                plan,
                model,
                upstream,
                seconds,
                held_usd,
                ..
            } = row.clone();
            table.row(vec![
                id,
                user_id,
                plan,
                model,
                upstream,
                seconds.to_string(),
                format!("${held_usd}"),
            ]);
        }
        table
    }

    fn spenders_table(&self) -> Table {
        let mut table = Table::new(vec!["today's top spenders", ">requests", ">cost"]);
        for row in &self.spenders {
            table.row(vec![
                row.key.clone(),
                row.requests.to_string(),
                format!("${}", row.cost_usd),
            ]);
        }
        table
    }
}

/// `[#####.....] 50 %  $25.00 of $50.00 spent, $0.10 held`
fn bar(ceiling: &CeilingStatus, look: Look) -> String {
    let micros = |text: &str| MicroUsd::parse(text).map_or(0, |MicroUsd(micros)| micros);
    let taken = micros(&ceiling.used).saturating_add(micros(&ceiling.held));
    let percent = taken
        .saturating_mul(100)
        .checked_div(micros(&ceiling.limit))
        .unwrap_or(100)
        .clamp(0, 100);
    let full = usize::try_from(percent.div_euclid(5)).unwrap_or(0);
    let bar = format!("[{:.<20}] {percent:>3} %", "#".repeat(full));
    let bar = if percent >= 80 { look.alert(&bar) } else { bar };
    let CeilingStatus {
        limit, used, held, ..
    } = ceiling;
    format!("{bar}  ${used} of ${limit} spent, ${held} held")
}
