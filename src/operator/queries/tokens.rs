//! Tokens for the operator's API: made once, shown once, stored as hashes.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::time_at;
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::hex::hex;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::{By, Desk, Reports};

/// What every token begins with, so that scanners for leaked secrets know it.
pub const PREFIX: &str = "tga_";
/// The longest name of a token.
pub const NAME_BYTES_MAX: usize = 64;
/// When a token was last used is noted at most so often.
const NOTE_USE_EVERY_MS: i64 = 60_000;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read.
    Read,
    /// Read and change.
    Write,
}

impl Scope {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Whom a token makes its bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The token's name.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
}

/// A token as it is listed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenRow {
    /// Its name.
    pub name: String,
    /// `read` or `write`.
    pub scope: String,
    /// When it was made.
    pub created_at: String,
    /// When it was last used, to the minute; null if never.
    pub last_used_at: Option<String>,
    /// When it was revoked; null while it is good.
    pub revoked_at: Option<String>,
}

/// Makes a token: 256 random bits, of which only the hash is kept. None where the name is taken, be it by one that is
/// revoked: the audit log must not be in doubt about who did what.
///
/// # Errors
/// The ledger cannot be written.
pub fn create(
    desk: &Desk,
    name: &str,
    scope: Scope,
    by: By<'_>,
) -> Result<Option<SecretString>, Failure> {
    let mut random = [0; 32];
    rand::fill(&mut random)
        .map_err(|_| Failure::new("the machine gives no random numbers".to_owned()))?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let is_new = desk.change(by, ("admin_token_create", None), |db| {
        let made = db.query(
            "insert into ledger.admin_tokens (name, hash, scope, created_at) values ($1, $2, $3, $4)
             on conflict (name) do nothing returning name",
            &[name.into(), hash(&token).into(), scope.as_str().into(), by.at.millis().into()],
        )?;
        let detail = json!({ "name": name, "scope": scope });
        Ok((!made.is_empty(), Some(detail).filter(|_| !made.is_empty())))
    })?;
    Ok(Some(SecretString::from(token)).filter(|_| is_new))
}

/// All tokens, by name.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(reports: &Reports) -> Result<Vec<TokenRow>, Failure> {
    let sql = "select name, scope, created_at, last_used_at, revoked_at from ledger.admin_tokens order by name";
    let token = |row: &Row| {
        Ok(TokenRow {
            name: row.text(0)?,
            scope: row.text(1)?,
            created_at: Timestamp::from_millis(row.int(2)?).rfc3339(),
            last_used_at: time_at(row, 3)?,
            revoked_at: time_at(row, 4)?,
        })
    };
    reports.db().query(sql, &[])?.iter().map(token).collect()
}

/// Whether any token is good.
///
/// # Errors
/// The ledger cannot be read.
pub fn any(desk: &Desk) -> Result<bool, Failure> {
    Ok(desk
        .db()
        .query_one(
            "select name from ledger.admin_tokens where revoked_at is null limit 1",
            &[],
        )?
        .is_some())
}

/// The digests of all good tokens, in hexadecimal digits.
///
/// # Errors
/// The ledger cannot be read.
pub fn digests(desk: &Desk) -> Result<Vec<String>, Failure> {
    let sql = "select hash from ledger.admin_tokens where revoked_at is null";
    desk.db()
        .query(sql, &[])?
        .iter()
        .map(|row| row.text(0))
        .collect()
}

/// Makes a token good for nothing. Gives back whether there was one.
///
/// # Errors
/// The ledger cannot be written.
pub fn revoke(desk: &Desk, name: &str, by: By<'_>) -> Result<bool, Failure> {
    desk.change(by, ("admin_token_revoke", None), |db| {
        let sql =
            "update ledger.admin_tokens set revoked_at = $1 where name = $2 and revoked_at is null returning name";
        let was_there = !db.query(sql, &[by.at.millis().into(), name.into()])?.is_empty();
        Ok((was_there, Some(json!({ "name": name })).filter(|_| was_there)))
    })
}

/// Whose token this is, if it is good; notes that it was used.
///
/// # Errors
/// The ledger cannot be read.
pub fn verify(desk: &Desk, token: &str, now: Timestamp) -> Result<Option<Bearer>, Failure> {
    if !token.starts_with(PREFIX) {
        return Ok(None);
    }
    verify_digest(
        desk,
        digest::digest(&digest::SHA256, token.as_bytes()).as_ref(),
        now,
    )
}

/// The same for who kept no more of a token than its SHA-256.
///
/// # Errors
/// The ledger cannot be read.
pub fn verify_digest(
    desk: &Desk,
    digest: &[u8],
    now: Timestamp,
) -> Result<Option<Bearer>, Failure> {
    let db = desk.db();
    let sql = "select name, scope, last_used_at from ledger.admin_tokens where hash = $1 and revoked_at is null";
    let Some(row) = db.query_one(sql, &[hex(digest).into()])? else {
        return Ok(None);
    };
    let scope = if row.text(1)? == Scope::Write.as_str() {
        Scope::Write
    } else {
        Scope::Read
    };
    let bearer = Bearer {
        name: row.text(0)?,
        scope,
    };
    let noted = now.millis().saturating_sub(NOTE_USE_EVERY_MS);
    if row.maybe_int(2)?.is_none_or(|at| at <= noted) {
        let sql = "update ledger.admin_tokens set last_used_at = $1 where name = $2";
        // If this note fails, the token is valid all the same.
        if let Err(error) = db.query(sql, &[now.millis().into(), bearer.name.clone().into()]) {
            tracing::warn!(%error, "the use of a token could not be noted");
        }
    }
    Ok(Some(bearer))
}

fn hash(token: &str) -> String {
    hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
}
