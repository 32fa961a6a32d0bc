//! Users of other issuers: whom a name-based id stands for. Supabase's users are called what they are, and stand in no table.

use rusqlite::params;
use uuid::Uuid;

use super::Failure;
use super::read::connection::{Db, Row};
use super::sqlite::Book;
use crate::clock::Timestamp;
use crate::pg;

/// A user of another issuer, seen for the first time or again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// The id here.
    pub user_id: Uuid,
    /// `iss`
    pub issuer: String,
    /// What the issuer calls the user.
    pub subject: String,
    /// When the token came.
    pub seen_at: Timestamp,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUser {
    /// The id here.
    pub user_id: Uuid,
    /// `iss`
    pub issuer: String,
    /// What the issuer calls the user.
    pub subject: String,
}

impl Book {
    /// Notes a user in the transaction that is open.
    pub(super) fn note_user(&self, user: &NewUser) -> Result<(), Failure> {
        let mut write = self.db.prepare_cached(
            "insert or ignore into users (user_id, issuer, subject, seen_at) values (?1, ?2, ?3, ?4)",
        )?;
        write.execute(params![
            user.user_id.to_string(),
            user.issuer,
            user.subject,
            user.seen_at.millis()
        ])?;
        Ok(())
    }
}

/// The same on Postgres.
pub(super) async fn note_on_postgres(
    database: &pg::Database,
    user: NewUser,
) -> Result<(), Failure> {
    let sql = "insert into tollgate_ledger.users (user_id, issuer, subject, seen_at) values ($1, $2, $3, $4)
               on conflict do nothing";
    let params = vec![
        user.user_id.to_string().into(),
        user.issuer.into(),
        user.subject.into(),
        user.seen_at.millis().into(),
    ];
    database.query(sql, params).await?;
    Ok(())
}

/// Who has this id, or is called this by an issuer. (Two issuers may call two users the same.)
pub(crate) fn find(db: &Db, name: &str) -> Result<Vec<KnownUser>, Failure> {
    let sql = "select user_id, issuer, subject from ledger.users where user_id = $1
               union select user_id, issuer, subject from ledger.users where subject = $1 order by user_id";
    let known = |row: &Row| {
        let id = row.text(0)?;
        Ok(KnownUser {
            user_id: id
                .parse()
                .map_err(|_| Failure::new(format!("a user's id is not a UUID: {id:?}")))?,
            issuer: row.text(1)?,
            subject: row.text(2)?,
        })
    };
    db.query(sql, &[name.into()])?.iter().map(known).collect()
}

/// Whether this user has ever held anything (as far as the rows go back).
pub(crate) fn has_requests(db: &Db, user_id: Uuid) -> Result<bool, Failure> {
    let sql = "select id from ledger.requests where user_id = $1 limit 1";
    let row = db.query_one(sql, &[user_id.to_string().into()])?;
    Ok(row.is_some())
}
