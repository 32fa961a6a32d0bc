//! What an operator sees and changes, on SQLite and Postgres: the functions behind the command line and the operator's
//! API.
//!
//! They read and write the ledger's rows and decide nothing about a request. Rows are typed and serialise as they are
//! shown: money as decimal strings in dollars, times in RFC 3339, missing values as null. They block: a server calls
//! them through [`crate::ledger::read::shared::SharedConnection`]. Every change names who made it and adds a row to `audit` in its
//! own transaction.

pub mod audit;
pub mod forget;
pub mod grants;
pub mod models;
pub mod overview;
pub mod pause;
pub mod plan_reasons;
pub mod prompts;
pub mod purchases;
pub mod requests;
pub mod series;
pub mod sums;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod usage;
pub mod users;

use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::plan::{self, Per};
use crate::price::MicroUsd;

/// Some rows of a list, and where the next ones begin.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// For [`Cursor::parse`]; null after the last row.
    pub next: Option<String>,
}

/// Which rows of a list are wanted.
#[derive(Clone, Debug)]
pub struct Slice {
    /// At most so many; [`Slice::new`] keeps it within bounds.
    limit: u32,
    /// Those after this one.
    after: Option<Cursor>,
}

impl Slice {
    /// How many rows a page has by default.
    pub const DEFAULT: u32 = 50;
    /// How many rows there are at most.
    pub const MAX: u32 = 500;

    /// At most so many rows (1 to [`Slice::MAX`]) after a cursor.
    #[must_use]
    pub fn new(limit: Option<u32>, after: Option<Cursor>) -> Self {
        Self {
            limit: limit.unwrap_or(Self::DEFAULT).clamp(1, Self::MAX),
            after,
        }
    }

    /// One more than wanted: whether it is there tells whether there is a next page.
    fn asked(&self) -> i64 {
        i64::from(self.limit).saturating_add(1)
    }

    /// After this one; `None` for the first page.
    fn after(&self, first: i64) -> (i64, String) {
        self.after
            .clone()
            .map_or((first, String::new()), |cursor| (cursor.score, cursor.key))
    }

    /// A page of what was asked for with [`Slice::asked`].
    fn page<T>(&self, mut rows: Vec<T>, cursor: impl Fn(&T) -> Cursor) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows
            .last()
            .filter(|_| !is_last)
            .map(|row| cursor(row).to_string());
        Page { rows, next }
    }
}

/// A place in a list: what it is sorted by, then what tells rows apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    score: i64,
    key: String,
}

impl Cursor {
    /// Reads `next` of a page; none where it is no such thing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (score, key) = text.split_once('.')?;
        let is_short = key.len() <= 256;
        Some(Self {
            score: score.parse().ok()?,
            key: key.to_owned(),
        })
        .filter(|_| is_short)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.score, self.key)
    }
}

/// Dollars with six places.
fn dollars(micros: i64) -> String {
    MicroUsd(micros).to_string()
}

/// A column of dollars.
fn dollars_at(row: &Row, column: usize) -> Result<String, Failure> {
    Ok(dollars(row.maybe_int(column)?.unwrap_or(0)))
}

/// A column of moments that may be null.
fn time_at(row: &Row, column: usize) -> Result<Option<String>, Failure> {
    Ok(row
        .maybe_int(column)?
        .map(|ms| Timestamp::from_millis(ms).rfc3339()))
}

/// The first moment of today and of this month.
fn today_and_month(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    let start = |per| plan::window(per, now, zone, None).start;
    (start(Per::Day), start(Per::Month))
}
