//! The functions over Postgres.

use secrecy::SecretString;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::{AskedUser, CHECK_TIMEOUT, DatabaseFailure, LOG_TIMEOUT, is_about_the_call, short};
use crate::pg::{Database, Param, PgError, PgSettings};

/// Connections for look-ups and entries together. Look-ups are cached and short; poolers count every connection.
const CONNECTIONS: usize = 4;

/// Opens the database without connecting yet.
pub(super) fn open(url: &SecretString, tasks: TaskTracker) -> Result<Database, String> {
    Database::new(
        url,
        PgSettings {
            connections: CONNECTIONS,
            call_timeout: CHECK_TIMEOUT,
        },
        tasks,
    )
}

/// What `tollgate.check_user` answers, or `check_caller` for users of other issuers; or, in a database that has only the
/// oldest of the three, `check_user_limits`.
pub(super) async fn check_user(
    database: &Database,
    user: AskedUser<'_>,
) -> Result<Value, DatabaseFailure> {
    let id = || Param::from(user.user_id);
    let both = || vec![id(), Param::from(user.session_id)];
    if let Some((issuer, subject)) = user.subject {
        let mut all = both();
        all.extend([
            Param::from(issuer.to_owned()),
            Param::from(subject.to_owned()),
        ]);
        let sql = "select tollgate.check_caller($1, $2, $3, $4)";
        match ask(database, sql, "tollgate.check_caller", all).await {
            Err(DatabaseFailure::Missing) => {}
            answered => return answered,
        }
    }
    let sql = "select tollgate.check_user($1, $2)";
    match ask(database, sql, "tollgate.check_user", both()).await {
        Err(DatabaseFailure::Missing) => {}
        answered => return answered,
    }
    let sql = "select tollgate.check_user_limits($1)";
    ask(database, sql, "tollgate.check_user_limits", vec![id()]).await
}

async fn ask(
    database: &Database,
    sql: &str,
    function: &str,
    params: Vec<Param>,
) -> Result<Value, DatabaseFailure> {
    let rows = database
        .query(sql, params)
        .await
        .map_err(|error| failure(&error, function))?;
    let Some(row) = rows.first() else {
        return Ok(Value::Null);
    };
    let answer: Result<Option<Value>, _> = row.try_get(0);
    let answer = answer
        .map_err(|_| DatabaseFailure::Unavailable(format!("{function} does not return jsonb")))?;
    Ok(answer.unwrap_or(Value::Null))
}

/// Hands entries to `tollgate.log_requests`, which is one transaction.
pub(super) async fn log_requests(
    database: &Database,
    entries: &[Value],
) -> Result<(), DatabaseFailure> {
    let params = vec![Param::from(Value::Array(entries.to_vec()))];
    let logged = database
        .query_within(LOG_TIMEOUT, "select tollgate.log_requests($1)", params)
        .await;
    logged
        .map(drop)
        .map_err(|error| failure(&error, "tollgate.log_requests"))
}

/// Hands entries to `tollgate.on_purchases`, which is one transaction. False: there is no `on_purchase`.
pub(super) async fn on_purchases(
    database: &Database,
    entries: &[Value],
) -> Result<bool, DatabaseFailure> {
    let (sql, name) = ("select tollgate.on_purchases($1)", "tollgate.on_purchases");
    let params = vec![Param::from(Value::Array(entries.to_vec()))];
    let rows = database.query_within(LOG_TIMEOUT, sql, params).await;
    let rows = rows.map_err(|error| failure(&error, name))?;
    let is_there: Option<bool> = rows.first().and_then(|row| row.try_get(0).ok());
    is_there
        .ok_or_else(|| DatabaseFailure::Unavailable(format!("{name} does not return a boolean")))
}

/// What an error means for the caller of `function`.
fn failure(error: &PgError, function: &str) -> DatabaseFailure {
    if is_missing(error, function) {
        return DatabaseFailure::Missing;
    }
    let why = short(&error.to_string());
    match &error.sqlstate {
        Some(sqlstate) if !error.unavailable && is_about_the_call(sqlstate) => {
            DatabaseFailure::Refused(why)
        }
        _ => DatabaseFailure::Unavailable(why),
    }
}

/// No such function (42883) or schema (3F000). The same errors about another one come from inside of the function,
/// which is then there, and broken.
fn is_missing(error: &PgError, function: &str) -> bool {
    let no_function = error.is("42883") && error.message.contains(&format!("{function}("));
    no_function || (error.is("3F000") && error.message.contains("\"tollgate\""))
}
