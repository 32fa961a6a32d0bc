//! Connections to Postgres.
//!
//! It knows an address, a few connections, and how to send one statement and wait for its answer. It does not know what
//! the statements mean. Invariants: no statement is ever prepared under a name and nothing is set on a session, so that
//! every call works through a pooler in transaction mode; a call is a task of its own, so that a caller who leaves can
//! neither cancel it half-way nor leave a connection in a transaction; every wait is bounded; a connection on which
//! something went wrong that is not a plain answer of the server is closed, never used again.

mod target;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use target::{Fault, Target, check_url};
pub use tokio_postgres::Row;

/// How long connecting may take, from the name look-up to the end of the sign-in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long asking the server to drop a statement may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// An idle connection older than that is closed: what stands between may have forgotten it.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// How a database is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most connections that are open at once; at least one.
    pub connections: usize,
    /// How long a call may take, with waiting for a connection and making one.
    pub call_timeout: Duration,
}

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
    /// There was no answer in time: whoever asks again may wait as long again.
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
    fn unavailable(message: impl Into<String>) -> Self {
        Self { sqlstate: None, message: message.into(), unavailable: true, late: false }
    }

    fn late(message: impl Into<String>) -> Self {
        Self { late: true, ..Self::unavailable(message) }
    }

    fn of(error: &tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else { return Self::unavailable(chain(error)) };
        let sqlstate = told.code().code().to_owned();
        let unavailable = is_transient(&sqlstate);
        Self { sqlstate: Some(sqlstate), message: told.message().to_owned(), unavailable, late: false }
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
    matches!(class, "08" | "40" | "53" | "57" | "58" | "XX") || matches!(sqlstate, "25006" | "55P03")
}

/// A value for `$1`, with its type: nothing is left for the server to infer.
pub struct Param {
    value: Box<dyn ToSql + Send + Sync>,
    kind: Type,
}

impl Param {
    /// A value as a Postgres type that it can be written as.
    pub fn new(value: impl ToSql + Send + Sync + 'static, kind: Type) -> Self {
        Self { value: Box::new(value), kind }
    }

    /// A document that is JSON already.
    #[must_use]
    pub fn json(text: Vec<u8>) -> Self {
        Self::new(RawJson(text), Type::JSONB)
    }
}

/// JSON as it stands, for `jsonb`.
#[derive(Debug)]
struct RawJson(Vec<u8>);

impl ToSql for RawJson {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the binary form, which is the text.
        out.put_u8(1);
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}

macro_rules! params {
    ($($rust:ty => $kind:ident),+ $(,)?) => {
        $(impl From<$rust> for Param {
            fn from(value: $rust) -> Self {
                Self::new(value, Type::$kind)
            }
        })+
    };
}

params! {
    bool => BOOL, i32 => INT4, i64 => INT8, Option<i64> => INT8, Vec<i64> => INT8_ARRAY, Vec<Option<i64>> => INT8_ARRAY,
    String => TEXT, &'static str => TEXT, Option<String> => TEXT, Vec<String> => TEXT_ARRAY,
    Vec<Option<String>> => TEXT_ARRAY, Uuid => UUID, Option<Uuid> => UUID, Vec<Uuid> => UUID_ARRAY,
    serde_json::Value => JSONB,
}

/// A database and the connections to it. Cheap to clone; dials nobody until it is asked.
#[derive(Clone)]
pub struct Database(Arc<Pool>);

struct Pool {
    target: Target,
    settings: Settings,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    tasks: TaskTracker,
}

struct Idle {
    client: Client,
    since: Instant,
}

impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Database").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Database {
    /// The database at a URL (`postgres://…`). Calls run as tasks on `tasks`.
    ///
    /// # Errors
    /// The URL, or the file of certificates that it names, cannot be read: why, without the URL.
    pub fn new(url: &SecretString, settings: Settings, tasks: TaskTracker) -> Result<Self, String> {
        let target = Target::parse(url)?;
        let places = Arc::new(Semaphore::new(settings.connections.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self(Arc::new(Pool { target, settings, places, idle: Mutex::default(), tasks })))
    }

    /// Sends one statement and gives its rows. A statement of the server's that is begun is ended, whoever waits.
    ///
    /// Types that are no built-in ones (enums, domains of extensions) must be cast to text in the statement: looking
    /// them up would prepare statements.
    ///
    /// # Errors
    /// The server said no, or there is no answer in time.
    pub async fn query(&self, sql: impl Into<String>, params: Vec<Param>) -> Result<Vec<Row>, PgError> {
        self.query_within(self.0.settings.call_timeout, sql, params).await
    }

    /// [`Database::query`], with another time-out than the others have.
    ///
    /// # Errors
    /// As [`Database::query`].
    pub async fn query_within(
        &self,
        call_timeout: Duration,
        sql: impl Into<String>,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, PgError> {
        self.call(Call::Query(sql.into(), params), call_timeout).await
    }

    /// Sends several statements without parameters, which are one transaction: all of them happen, or none.
    /// (They must not begin or end one themselves.)
    ///
    /// # Errors
    /// As [`Database::query`].
    pub async fn batch(&self, sql: impl Into<String>) -> Result<(), PgError> {
        self.call(Call::Batch(sql.into()), self.0.settings.call_timeout).await.map(drop)
    }

    /// A connection outside of the pool, for what needs one to itself: a long copy, a lock that is held. It closes when
    /// it is dropped.
    ///
    /// # Errors
    /// The server cannot be reached or does not let us in.
    pub async fn connect(&self) -> Result<Client, PgError> {
        self.0.connect().await
    }

    /// A transaction on a connection of its own. Whatever ends it but [`Transaction::commit`] (a failure, a kill) leaves
    /// nothing behind: the server takes it back when the connection is gone.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn begin(&self, call_timeout: Duration) -> Result<Transaction, PgError> {
        let client = self.connect().await?;
        client.batch_execute("begin").await.map_err(|error| PgError::of(&error))?;
        Ok(Transaction { client, call_timeout })
    }

    /// How many connections lie idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.lock().len()
    }

    /// Runs a call as a task that no caller can cancel.
    async fn call(&self, call: Call, call_timeout: Duration) -> Result<Vec<Row>, PgError> {
        let pool = self.0.clone();
        let running = self.0.tasks.spawn(async move { pool.run(&call, call_timeout).await });
        running.await.map_err(|_| PgError::unavailable("the call was cut short"))?
    }
}

/// A transaction that nobody shares, for a command line: its owner is not cancelled but killed.
pub struct Transaction {
    client: Client,
    call_timeout: Duration,
}

impl Transaction {
    /// Sends one statement and gives its rows. After an error nothing but the end is possible.
    ///
    /// # Errors
    /// As [`Database::query`].
    pub async fn query(&self, sql: impl Into<String>, params: Vec<Param>) -> Result<Vec<Row>, PgError> {
        let call = Call::Query(sql.into(), params);
        self.within(call.send(&self.client)).await
    }

    /// Makes everything durable that was done.
    ///
    /// # Errors
    /// Nobody knows whether it was.
    pub async fn commit(self) -> Result<(), PgError> {
        self.within(self.client.batch_execute("commit")).await
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, PgError> {
        let late = |_| PgError::late(format!("no answer within {:?}", self.call_timeout));
        timeout(self.call_timeout, call).await.map_err(late)?.map_err(|error| PgError::of(&error))
    }
}

/// What is asked of a connection.
enum Call {
    Query(String, Vec<Param>),
    Batch(String),
}

impl Call {
    async fn send(&self, client: &Client) -> Result<Vec<Row>, tokio_postgres::Error> {
        match self {
            Self::Query(sql, params) => {
                let params: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(Param::borrowed).collect();
                client.query_typed(sql, &params).await
            }
            Self::Batch(sql) => client.batch_execute(sql).await.map(|()| Vec::new()),
        }
    }

    /// Whether a connection on which the server said no is as good as before: one statement ended, and with it its
    /// transaction. Of several, one may have begun a transaction.
    const fn leaves_clean(&self) -> bool {
        matches!(self, Self::Query(..))
    }
}

impl Param {
    fn borrowed(&self) -> (&(dyn ToSql + Sync), Type) {
        (self.value.as_ref(), self.kind.clone())
    }
}

impl Pool {
    async fn run(&self, call: &Call, call_timeout: Duration) -> Result<Vec<Row>, PgError> {
        let until = Instant::now().checked_add(call_timeout).unwrap_or_else(Instant::now);
        let late = |what: &str| PgError::late(format!("{what} within {call_timeout:?}"));
        let place = tokio::time::timeout_at(until, self.places.acquire()).await;
        // The semaphore is never closed.
        let Ok(Ok(_place)) = place else { return Err(late("no connection was free")) };
        let connected = tokio::time::timeout_at(until, self.connection()).await;
        let client = connected.map_err(|_| late("not connected"))??;
        let Ok(answer) = tokio::time::timeout_at(until, call.send(&client)).await else {
            self.cancel(&client).await;
            return Err(late("no answer"));
        };
        if !client.is_closed() && (answer.is_ok() || call.leaves_clean()) {
            self.lock().push(Idle { client, since: Instant::now() });
        }
        answer.map_err(|error| PgError::of(&error))
    }

    /// The connection that was used last, or a new one.
    async fn connection(&self) -> Result<Client, PgError> {
        let kept = {
            let mut idle = self.lock();
            idle.retain(|idle| !idle.client.is_closed() && idle.since.elapsed() < IDLE_MAX);
            idle.pop()
        };
        match kept {
            Some(idle) => Ok(idle.client),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Client, PgError> {
        let Ok(connected) = timeout(CONNECT_TIMEOUT, self.target.config.connect(self.target.tls.clone())).await else {
            return Err(PgError::late(format!("not connected within {CONNECT_TIMEOUT:?}")));
        };
        // Whatever stands in the way of a sign-in, no statement is at fault.
        let (client, connection) = connected.map_err(|error| PgError { unavailable: true, ..PgError::of(&error) })?;
        #[allow(clippy::disallowed_methods, reason = "owned by its client: it ends when the client is dropped")]
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to Postgres broke");
            }
        });
        Ok(client)
    }

    /// Asks the server to give a statement up that nobody waits for any more. (A time-out of the server's own would
    /// have to be set on the session, which poolers lose or refuse.)
    async fn cancel(&self, client: &Client) {
        let token = client.cancel_token();
        let asked = timeout(CANCEL_TIMEOUT, token.cancel_query(self.target.tls.clone()));
        if !matches!(asked.await, Ok(Ok(()))) {
            tracing::debug!("Postgres could not be asked to cancel a statement");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
