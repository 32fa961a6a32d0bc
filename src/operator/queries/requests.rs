//! Requests, newest first, and open requests.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Cursor, Page, Slice, dollars_at};
use crate::clock::Timestamp;
use crate::ledger::read::connection::{Cell, Row};
use crate::ledger::read::report::{Reports, RequestRow, STARTED_AT, request_columns, request_of};
use crate::ledger::{EndState, Failure};

/// The most open requests in a list.
const OPEN_MAX: i64 = 500;

/// Which requests are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFilter {
    /// Of this user only.
    pub user: Option<Uuid>,
    /// In this state only.
    pub state: Option<EndState>,
}

/// Requests as `tollgate usage --requests --json` prints them, the newest first.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: &Reports,
    wanted: RequestFilter,
    slice: &Slice,
) -> Result<Page<RequestRow>, Failure> {
    let state = wanted.state.map_or_else(String::new, |state| {
        format!("and state = '{}'", state.as_str())
    });
    let (at, before) = slice.after(i64::MAX);
    let before = if before.is_empty() {
        "~".to_owned()
    } else {
        before
    };
    let (columns, limit) = (request_columns(), Cell::from(slice.asked()));
    let rows = match wanted.user {
        // By the user's index, which is in the order of the holds.
        Some(user) => reports.db().query(
            &format!(
                "select {columns} from ledger.requests
                 where user_id = $1 and (started_at, id) < ($2, $3) {state}
                 order by started_at desc, id desc limit $4"
            ),
            &[user.to_string().into(), at.into(), before.into(), limit],
        )?,
        None => reports.db().query(
            &format!("select {columns} from ledger.requests where id < $1 {state} order by id desc limit $2"),
            &[before.into(), limit],
        )?,
    };
    let read = |row: &Row| Ok((row.int(STARTED_AT)?, request_of(row)?));
    let rows = rows.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    let page = slice.page(rows, |(at, row)| Cursor {
        score: *at,
        key: row.id.clone(),
    });
    Ok(Page {
        rows: page.rows.into_iter().map(|(_, row)| row).collect(),
        next: page.next,
    })
}

/// A request that is open.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OpenRow {
    /// The request's id.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// The plan it was held under.
    pub plan: String,
    /// The model.
    pub model: String,
    /// Who serves it.
    pub upstream: String,
    /// When it was held.
    pub started_at: String,
    /// For how long it has been open.
    pub seconds: u64,
    /// What it may cost at most.
    pub held_usd: String,
}

/// Open requests of every process, the oldest first, at most 500.
///
/// # Errors
/// The ledger cannot be read.
pub fn open(reports: &Reports, now: Timestamp) -> Result<Vec<OpenRow>, Failure> {
    let sql = "select id, user_id, plan, model, upstream, started_at, held_micros
               from ledger.requests where state = 'held' order by id limit $1";
    let open = |row: &Row| {
        let started_at = Timestamp::from_millis(row.int(5)?);
        Ok(OpenRow {
            id: row.text(0)?,
            user_id: row.text(1)?,
            plan: row.text(2)?,
            model: row.text(3)?,
            upstream: row.text(4)?,
            started_at: started_at.rfc3339(),
            seconds: now.since(started_at).as_secs(),
            held_usd: dollars_at(row, 6)?,
        })
    };
    reports
        .db()
        .query(sql, &[OPEN_MAX.into()])?
        .iter()
        .map(open)
        .collect()
}
