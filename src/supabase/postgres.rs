//! The functions over Postgres.

use secrecy::SecretString;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{CHECK_TIMEOUT, DatabaseFailure, LOG_TIMEOUT, is_about_the_call, short};
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

/// What `tollgate.check_user` answers, or, in a database that has only the older of the two, `check_user_limits`.
pub(super) async fn check_user(
    database: &Database,
    user_id: Uuid,
    session_id: Option<Uuid>,
) -> Result<Value, DatabaseFailure> {
    let both = vec![Param::from(user_id), Param::from(session_id)];
    match ask(
        database,
        "select tollgate.check_user($1, $2)",
        "tollgate.check_user",
        both,
    )
    .await
    {
        Err(DatabaseFailure::Missing) => {
            let user = vec![Param::from(user_id)];
            ask(
                database,
                "select tollgate.check_user_limits($1)",
                "tollgate.check_user_limits",
                user,
            )
            .await
        }
        answered => answered,
    }
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
