//! Why a call to Postgres brought no answer.

use std::fmt;

/// Why there is no answer. Holds no secret, and no data of rows: only the server's own message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgError {
    /// The five letters of the server's error (`42883`), where the server said anything.
    pub sqlstate: Option<String>,
    /// Why, for the log.
    pub message: String,
    /// The server could not be reached, is in no state to answer, or did not answer in time: the same call may succeed
    /// later. The statement may have been carried out nevertheless.
    pub unavailable: bool,
    /// There was no answer in time. Asking again may take as long again.
    pub late: bool,
}

impl fmt::Display for PgError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sqlstate {
            Some(sqlstate) => write!(out, "{} ({sqlstate})", self.message),
            None => out.write_str(&self.message),
        }
    }
}

impl std::error::Error for PgError {}

impl PgError {
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            sqlstate: None,
            message: message.into(),
            unavailable: true,
            late: false,
        }
    }

    pub(super) fn late(message: impl Into<String>) -> Self {
        Self {
            late: true,
            ..Self::unavailable(message)
        }
    }

    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            return Self::unavailable(chain(error));
        };
        let sqlstate = told.code().code().to_owned();
        let unavailable = is_transient(&sqlstate);
        Self {
            sqlstate: Some(sqlstate),
            message: told.message().to_owned(),
            unavailable,
            late: false,
        }
    }

    /// The server answered, and its error is this one.
    #[must_use]
    pub fn is(&self, sqlstate: &str) -> bool {
        self.sqlstate.as_deref() == Some(sqlstate)
    }
}

/// An error with its causes: `tokio_postgres` itself says no more than "error connecting to server".
fn chain(error: &tokio_postgres::Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    message
}

/// Errors that say nothing about the statement: connection, resources, shutdown and time-outs, lost races, a standby,
/// failures of the machine and of the server itself (appendix A of the Postgres manual).
fn is_transient(sqlstate: &str) -> bool {
    let class = sqlstate.get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "53" | "57" | "58" | "XX")
        || matches!(sqlstate, "25006" | "55P03")
}
