//! The two databases behind the reports: the one place that knows how asking them differs.
//!
//! A statement is written once, for both: tables stand under `ledger.` (SQLite's `main.`, Postgres's
//! `tollgate_ledger.`), parameters are `$1`, `$2` …, sums are cast to bigint.

use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value as SqliteValue;
use tokio::runtime::Handle;
use tokio_postgres::types::Type;

use crate::ledger::sqlite::{Book, Failure};
use crate::pg;

/// How long each call of a transaction may take.
const TRANSACTION_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A value that goes to or comes from a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Int(Option<i64>),
    Text(Option<String>),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Cell {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<String>> for Cell {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

/// A row of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Row(Vec<Cell>);

impl Row {
    /// All columns.
    pub(crate) fn cells(&self) -> &[Cell] {
        &self.0
    }

    /// A whole number that may be null.
    pub(crate) fn maybe_int(&self, column: usize) -> Result<Option<i64>, Failure> {
        match self.0.get(column) {
            Some(Cell::Int(value)) => Ok(*value),
            Some(Cell::Text(None)) => Ok(None),
            _ => Err(odd(column)),
        }
    }

    /// A whole number.
    pub(crate) fn int(&self, column: usize) -> Result<i64, Failure> {
        self.maybe_int(column)?.ok_or_else(|| odd(column))
    }

    /// A text that may be null.
    pub(crate) fn maybe_text(&self, column: usize) -> Result<Option<String>, Failure> {
        match self.0.get(column) {
            Some(Cell::Text(value)) => Ok(value.clone()),
            Some(Cell::Int(None)) => Ok(None),
            _ => Err(odd(column)),
        }
    }

    /// A text.
    pub(crate) fn text(&self, column: usize) -> Result<String, Failure> {
        self.maybe_text(column)?.ok_or_else(|| odd(column))
    }
}

fn odd(column: usize) -> Failure {
    Failure::new(format!(
        "the ledger answered something unexpected in column {column}"
    ))
}

/// A connection for asking.
pub(crate) enum Db {
    /// An open file.
    Sqlite(Box<Book>),
    /// A database, asked from a thread that may block.
    Postgres(pg::Database, Handle),
    /// The same, all in one transaction.
    Transaction(Box<pg::Transaction>, Handle),
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "Sqlite",
            Self::Postgres(..) | Self::Transaction(..) => "Postgres",
        })
    }
}

impl Db {
    /// All rows of an answer.
    pub(crate) fn query(&self, sql: &str, params: &[Cell]) -> Result<Vec<Row>, Failure> {
        match self {
            Self::Sqlite(book) => sqlite_query(&book.db, &on_sqlite(sql), params),
            Self::Postgres(db, runtime) => {
                postgres_rows(&runtime.block_on(db.query(on_postgres(sql), sent(params)))?)
            }
            Self::Transaction(transaction, runtime) => {
                postgres_rows(&runtime.block_on(transaction.query(on_postgres(sql), sent(params)))?)
            }
        }
    }

    /// Several steps that happen together or not at all. On Postgres on a connection of its own.
    pub(crate) fn in_transaction<T>(
        &self,
        steps: impl FnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self {
            Self::Sqlite(book) => {
                book.begin()?;
                let done = steps(self).and_then(|value| book.commit().map(|()| value));
                if done.is_err() {
                    book.roll_back();
                }
                done
            }
            Self::Postgres(database, runtime) => {
                // What fails is taken back with the connection.
                let transaction =
                    Box::new(runtime.block_on(database.begin(TRANSACTION_CALL_TIMEOUT))?);
                let own = Self::Transaction(transaction, runtime.clone());
                let value = steps(&own)?;
                if let Self::Transaction(transaction, runtime) = own {
                    runtime.block_on(transaction.commit())?;
                }
                Ok(value)
            }
            Self::Transaction(..) => steps(self),
        }
    }

    /// The first row of an answer.
    pub(crate) fn query_one(&self, sql: &str, params: &[Cell]) -> Result<Option<Row>, Failure> {
        Ok(self.query(sql, params)?.into_iter().next())
    }
}

/// All rows of an answer of an open file; tables stand as they are.
pub(crate) fn sqlite_query(
    db: &Connection,
    sql: &str,
    params: &[Cell],
) -> Result<Vec<Row>, Failure> {
    let mut statement = db.prepare_cached(sql)?;
    let columns = statement.column_count();
    let values = params.iter().map(|cell| match cell {
        Cell::Int(value) => value.map_or(SqliteValue::Null, SqliteValue::Integer),
        Cell::Text(value) => value.clone().map_or(SqliteValue::Null, SqliteValue::Text),
    });
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
        let cell = |column| {
            Ok(match row.get(column)? {
                SqliteValue::Integer(value) => Cell::Int(Some(value)),
                SqliteValue::Text(value) => Cell::Text(Some(value)),
                SqliteValue::Null | SqliteValue::Real(_) | SqliteValue::Blob(_) => Cell::Int(None),
            })
        };
        (0..columns)
            .map(cell)
            .collect::<rusqlite::Result<_>>()
            .map(Row)
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// `?1`, since SQLite numbers `$1` not by its digit but by where it stands.
pub(super) fn on_sqlite(sql: &str) -> String {
    sql.replace("ledger.", "main.").replace('$', "?")
}

fn on_postgres(sql: &str) -> String {
    sql.replace("ledger.", "tollgate_ledger.")
}

fn sent(params: &[Cell]) -> Vec<pg::Param> {
    params.iter().map(postgres_param).collect()
}

fn postgres_rows(rows: &[pg::Row]) -> Result<Vec<Row>, Failure> {
    rows.iter().map(postgres_row).collect()
}

fn postgres_param(cell: &Cell) -> pg::Param {
    match cell {
        Cell::Int(value) => pg::Param::new(*value, Type::INT8),
        Cell::Text(value) => pg::Param::new(value.clone(), Type::TEXT),
    }
}

pub(crate) fn postgres_row(row: &pg::Row) -> Result<Row, Failure> {
    let unreadable = |error: tokio_postgres::Error| Failure::new(format!("Postgres: {error}"));
    let cell = |(place, column): (usize, &tokio_postgres::Column)| match *column.type_() {
        Type::INT8 => row.try_get(place).map(Cell::Int).map_err(unreadable),
        _ => row.try_get(place).map(Cell::Text).map_err(unreadable),
    };
    row.columns()
        .iter()
        .enumerate()
        .map(cell)
        .collect::<Result<_, _>>()
        .map(Row)
}
