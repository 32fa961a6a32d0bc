//! The audit log: who changed what.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Cursor, Page, Slice};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::Reports;

/// A change that an operator made.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub struct AuditEntry {
    #[serde(skip)]
    id: String,
    /// When.
    pub at: String,
    /// The name of a token, or of the command line.
    pub by: String,
    /// `plan`, `block`, `credit` …
    pub action: String,
    /// Whose, where it is about one user.
    pub user_id: Option<String>,
    /// What was before and after.
    pub detail: Value,
}

/// The changes, the newest first.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(reports: &Reports, slice: &Slice) -> Result<Page<AuditEntry>, Failure> {
    let (_, before) = slice.after(0);
    let before = if before.is_empty() {
        "~".to_owned()
    } else {
        before
    };
    let sql = "select id, at, actor, action, user_id, detail from ledger.audit where id < $1 order by id desc limit $2";
    let rows = reports
        .db()
        .query(sql, &[before.into(), slice.asked().into()])?;
    let rows = rows.iter().map(entry_of).collect::<Result<Vec<_>, _>>()?;
    Ok(slice.page(rows, |entry| Cursor {
        score: 0,
        key: entry.id.clone(),
    }))
}

fn entry_of(row: &Row) -> Result<AuditEntry, Failure> {
    Ok(AuditEntry {
        id: row.text(0)?,
        at: Timestamp::from_millis(row.int(1)?).rfc3339(),
        by: row.text(2)?,
        action: row.text(3)?,
        user_id: row.maybe_text(4)?,
        detail: serde_json::from_str(&row.text(5)?).unwrap_or_default(),
    })
}
