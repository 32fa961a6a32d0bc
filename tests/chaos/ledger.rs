//! The ledger as it lies in its database, read beside the product: one snapshot at a time, and nothing is written.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use rusqlite::{Connection, OpenFlags};
use tokio_postgres::SimpleQueryMessage;

use crate::credits::{GRANTS, Grant, USES, Use};
use crate::load::{CEILING, PlanFacts};

/// Where the ledger is.
#[derive(Clone)]
pub(crate) enum Place {
    File(PathBuf),
    /// An address of Postgres.
    Server(String),
}

/// A connection that only reads.
pub(crate) enum Reader {
    /// Behind a lock only so that a task may keep it.
    Sqlite(Mutex<Connection>),
    Postgres(tokio_postgres::Client),
}

const WINDOWS: &str = "select user_id, per, starts_at, ends_at, requests_used, tokens_used, micros_used, requests_held, \
                       tokens_held, micros_held from windows";
const ROWS: &str = "select id, user_id, state, flags, load, held_input_tokens + held_output_tokens, held_micros, \
                    input_tokens + output_tokens, cost_micros, started_at, coalesce(ended_at, -1), model, \
                    case when paid_by <> 'credits' then 0 when state = 'held' then held_micros else credit_micros end, \
                    paid_by from requests";

/// One row of `windows`.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) user: String,
    pub(crate) per: String,
    pub(crate) starts: i64,
    pub(crate) ends: i64,
    /// Requests, tokens, micro-dollars.
    pub(crate) used: [i64; 3],
    pub(crate) held: [i64; 3],
}

/// One row of `requests`.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) state: String,
    pub(crate) flags: String,
    pub(crate) model: String,
    pub(crate) load: i64,
    pub(crate) held: [i64; 3],
    pub(crate) used: [i64; 3],
    pub(crate) started: i64,
    pub(crate) ended: i64,
    /// What credits hold or pay of it: it is in no window but the app's.
    pub(crate) credits: i64,
    pub(crate) is_by_credits: bool,
}

impl Row {
    /// What of these amounts counts in a window.
    fn counted(&self, amounts: [i64; 3], window: &Window) -> [i64; 3] {
        let [requests, tokens, micros] = amounts;
        let credits = if window.user == "app" {
            0
        } else {
            self.credits
        };
        [requests, tokens, micros - credits]
    }

    /// Whether it carries a flag.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|carried| carried == flag)
    }

    /// Whether it is charged for.
    pub(crate) fn is_charged(&self) -> bool {
        matches!(self.state.as_str(), "settled" | "lost")
    }
}

/// What the ledger said at one instant.
pub(crate) struct Snapshot {
    pub(crate) windows: Vec<Window>,
    pub(crate) rows: Vec<Row>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) uses: Vec<Use>,
}

impl Reader {
    /// Connects; the ledger may not be there.
    pub(crate) async fn connect(place: &Place) -> Result<Self, String> {
        match place {
            Place::File(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(path, flags)
                    .map(|db| Self::Sqlite(Mutex::new(db)))
                    .map_err(|error| error.to_string())
            }
            Place::Server(url) => {
                let connecting = tokio_postgres::connect(url, tokio_postgres::NoTls);
                let (client, connection) = connecting.await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                let set =
                    "set search_path to tollgate_ledger; set default_transaction_read_only = on";
                client
                    .batch_execute(set)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Self::Postgres(client))
            }
        }
    }

    /// The windows that hold something, every open row, every overrun, every grant, and all that is negative: for the check of every few
    /// milliseconds.
    pub(crate) async fn glance(&self) -> Result<Snapshot, String> {
        let (windows, rows) = (
            "requests_held <> 0 or tokens_held <> 0 or micros_held <> 0 or requests_used < 0 or tokens_used < 0 or micros_used < 0",
            "state = 'held' or flags like '%overrun%' or input_tokens < 0 or output_tokens < 0 or cost_micros < 0 \
             or held_input_tokens < 0 or held_output_tokens < 0 or held_micros < 0",
        );
        self.snapshot(
            &format!("{WINDOWS} where {windows}"),
            &format!("{ROWS} where {rows}"),
            &format!("{USES} where held_micros <> 0"),
        )
        .await
    }

    /// Everything.
    pub(crate) async fn look(&self) -> Result<Snapshot, String> {
        self.snapshot(WINDOWS, ROWS, USES).await
    }

    async fn snapshot(&self, windows: &str, rows: &str, uses: &str) -> Result<Snapshot, String> {
        let begin = match self {
            Self::Sqlite(_) => "begin",
            Self::Postgres(_) => "begin isolation level repeatable read",
        };
        self.query(begin).await?;
        let found = (self.query(windows).await, self.query(rows).await);
        let credits = (self.query(GRANTS).await, self.query(uses).await);
        self.query("rollback").await?;
        Ok(Snapshot {
            windows: found.0?.iter().map(|found| window(found)).collect(),
            rows: found.1?.iter().map(|found| row(found)).collect(),
            grants: credits.0?.iter().map(|found| Grant::read(found)).collect(),
            uses: credits.1?.iter().map(|found| Use::read(found)).collect(),
        })
    }

    async fn query(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        match self {
            Self::Sqlite(db) => {
                tokio::task::block_in_place(|| query_sqlite(&db.lock().unwrap(), sql))
                    .map_err(|error| error.to_string())
            }
            Self::Postgres(client) => {
                let answer = client
                    .simple_query(sql)
                    .await
                    .map_err(|error| error.to_string())?;
                let rows = answer.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(
                        (0..row.len())
                            .map(|column| row.get(column).unwrap_or("").to_owned())
                            .collect(),
                    ),
                    _ => None,
                });
                Ok(rows.collect())
            }
        }
    }
}

fn query_sqlite(db: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut statement = db.prepare_cached(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| match row.get_ref(column)? {
                rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
                value => Ok(value.as_str()?.to_owned()),
            })
            .collect()
    })?;
    rows.collect()
}

fn number(text: &str) -> i64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn window(row: &[String]) -> Window {
    let amounts = |from: usize| {
        [
            number(&row[from]),
            number(&row[from + 1]),
            number(&row[from + 2]),
        ]
    };
    Window {
        user: row[0].clone(),
        per: row[1].clone(),
        starts: number(&row[2]),
        ends: number(&row[3]),
        used: amounts(4),
        held: amounts(7),
    }
}

fn row(row: &[String]) -> Row {
    let state = row[2].clone();
    let counted = i64::from(matches!(state.as_str(), "settled" | "lost"));
    Row {
        id: row[0].clone(),
        user: row[1].clone(),
        flags: row[3].clone(),
        load: number(&row[4]),
        held: [1, number(&row[5]), number(&row[6])],
        used: [counted, number(&row[7]), number(&row[8])],
        started: number(&row[9]),
        ended: number(&row[10]),
        model: row[11].clone(),
        credits: number(&row[12]),
        is_by_credits: row[13] == "credits",
        state,
    }
}

const UNITS: [&str; 3] = ["requests", "tokens", "cost_usd"];

impl Window {
    fn contains(&self, row: &Row) -> bool {
        (self.user == "app" || self.user == row.user)
            && self.starts <= row.started
            && row.started < self.ends
    }
}

/// Law 1 in this instant: in every window used + held is within its limit, but for what an upstream reported above what
/// was held for it, which is flagged; nobody has more open than their plan allows; nothing is negative.
pub(crate) fn beyond_limits(
    seen: &Snapshot,
    plans: &HashMap<String, &'static PlanFacts>,
) -> Vec<String> {
    let mut found = Vec::new();
    for window in &seen.windows {
        if window
            .used
            .iter()
            .chain(&window.held)
            .any(|amount| *amount < 0)
        {
            found.push(format!("something is negative: {window:?}"));
        }
        let of = |unit: &str| limit_of(window, unit, plans);
        for (unit, name) in UNITS.iter().enumerate() {
            let Some(limit) = of(name) else { continue };
            let taken = window.used[unit] + window.held[unit];
            if taken <= limit {
                continue;
            }
            let overruns = seen
                .rows
                .iter()
                .filter(|row| row.has("overrun") && window.contains(row));
            let above: i64 = overruns
                .map(|row| (row.used[unit] - row.held[unit]).max(0))
                .sum();
            if taken > limit + above {
                found.push(format!("{taken} {name} used and held, the limit is {limit}, {above} overrun: {window:?}"));
            }
        }
        let open = plans
            .get(&window.user)
            .filter(|_| window.per == "lifetime")
            .map(|plan| plan.concurrent);
        if open.is_some_and(|open| window.held[0] > open) {
            found.push(format!("more open than {open:?}: {window:?}"));
        }
    }
    found
}

fn limit_of(
    window: &Window,
    unit: &str,
    plans: &HashMap<String, &'static PlanFacts>,
) -> Option<i64> {
    if window.user == "app" {
        return (unit == "cost_usd" && window.per == "day").then_some(CEILING);
    }
    let limits = plans.get(&window.user)?.limits;
    limits
        .iter()
        .find(|(per, of, _)| *per == window.per && *of == unit)
        .map(|(_, _, amount)| *amount)
}

/// What is held in this instant, from both sides: each window holds what its open rows do, each open row stands in a window
/// that holds something, and no row says less than nothing. True of a part of the ledger that has all of either.
pub(crate) fn held_unlike_the_rows(seen: &Snapshot) -> Vec<String> {
    let open: Vec<&Row> = seen.rows.iter().filter(|row| row.state == "held").collect();
    let mut found = Vec::new();
    for window in &seen.windows {
        let inside = open.iter().filter(|row| window.contains(row));
        let held = inside.fold([0; 3], |sum: [i64; 3], row| {
            let held = row.counted(row.held, window);
            [0, 1, 2].map(|unit| sum[unit] + held[unit])
        });
        if held != window.held {
            found.push(format!("the open rows hold {held:?}: {window:?}"));
        }
    }
    let in_none = |row: &&&Row| {
        !seen
            .windows
            .iter()
            .any(|window| window.user == row.user && window.contains(row))
    };
    found.extend(
        open.iter()
            .filter(in_none)
            .map(|row| format!("open, and held in no window: {row:?}")),
    );
    let below = |row: &&Row| row.used.iter().chain(&row.held).any(|amount| *amount < 0);
    found.extend(
        seen.rows
            .iter()
            .filter(below)
            .map(|row| format!("less than nothing: {row:?}")),
    );
    found
}

/// Law 4 in this instant: every window says what its rows add up to; and law 3 of each row.
pub(crate) fn unlike_the_rows(seen: &Snapshot) -> Vec<String> {
    let mut found: Vec<String> = seen
        .rows
        .iter()
        .filter_map(|row| Some(format!("{}: {row:?}", unsound(row)?)))
        .collect();
    let mut by_user: HashMap<&str, Vec<&Row>> = HashMap::new();
    for row in &seen.rows {
        by_user.entry(&row.user).or_default().push(row);
        by_user.entry("app").or_default().push(row);
    }
    for window in &seen.windows {
        let (mut used, mut held) = ([0; 3], [0; 3]);
        let rate = matches!(window.per.as_str(), "minute" | "hour");
        for row in by_user
            .get(window.user.as_str())
            .into_iter()
            .flatten()
            .filter(|row| window.contains(row))
        {
            let counts = row.used[0]
                + if rate && row.state == "voided" {
                    row.load
                } else {
                    0
                };
            let (spent, open) = if row.state == "held" {
                ([0; 3], row.counted(row.held, window))
            } else {
                let used = [counts, row.used[1], row.used[2]];
                (row.counted(used, window), [0; 3])
            };
            for unit in 0..3 {
                used[unit] += spent[unit];
                held[unit] += open[unit];
            }
        }
        if used != window.used || held != window.held {
            found.push(format!(
                "the rows add up to {used:?} used and {held:?} held: {window:?}"
            ));
        }
    }
    found
}

/// What no row may say.
fn unsound(row: &Row) -> Option<&'static str> {
    let [_, tokens, micros] = row.used;
    match row.state.as_str() {
        "held" if row.ended >= 0 || tokens != 0 || micros != 0 => Some("a hold with an end"),
        "settled" | "lost" | "voided" if row.ended < row.started => {
            Some("an end before the beginning")
        }
        "voided" if tokens != 0 || micros != 0 => Some("voided and charged"),
        "lost" if row.used != row.held => Some("lost, and not for its hold"),
        "settled" if (micros > row.held[2] || tokens > row.held[1]) && !row.has("overrun") => {
            Some("above its hold")
        }
        // Only what a provider reported beyond the hold may be more than the credits.
        "settled" | "lost" if row.is_by_credits && row.credits != micros && !row.has("overrun") => {
            Some("not paid by credits in full")
        }
        "held" | "settled" | "lost" | "voided" => None,
        _ => Some("in no state of the contract"),
    }
}
