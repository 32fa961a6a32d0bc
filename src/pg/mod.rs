//! Connections to Postgres.
//!
//! It sends one statement and waits for its answer. It does not know what statements mean. Invariants:
//! - No statement is prepared under a name and nothing is set on a session, so every call works through a pooler in
//!   transaction mode.
//! - A call is a task of its own: a caller that leaves can neither cancel it half-way nor leave a connection in a transaction.
//! - Every wait is bounded.
//! - A connection is closed after anything but a plain answer of the server.

mod error;
mod param;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::TaskTracker;

pub use error::PgError;
pub use param::Param;
pub use target::{Target, UrlProblem, check_url};
pub use tokio_postgres::Row;

/// How long connecting may take, from the name look-up to the end of the sign-in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long asking the server to drop a statement may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// An idle connection older than that is closed: a proxy in between may have dropped it.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// How a database is used.
#[derive(Clone, Debug)]
pub struct PgSettings {
    /// The most connections that are open at once; at least one.
    pub connections: usize,
    /// How long a call may take, with waiting for a connection and making one.
    pub call_timeout: Duration,
}

/// A database and the connections to it. Cheap to clone; it connects with the first call.
#[derive(Clone)]
pub struct Database(Arc<Connections>);

struct Connections {
    target: Target,
    settings: PgSettings,
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
        out.debug_struct("Database")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// The database at a URL (`postgres://…`). Calls run as tasks on `tasks`.
    ///
    /// # Errors
    /// The URL, or the file of certificates that it names, cannot be read: why, without the URL.
    pub fn new(
        url: &SecretString,
        settings: PgSettings,
        tasks: TaskTracker,
    ) -> Result<Self, String> {
        let target = Target::parse(url)?;
        let places = Arc::new(Semaphore::new(
            settings.connections.clamp(1, Semaphore::MAX_PERMITS),
        ));
        Ok(Self(Arc::new(Connections {
            target,
            settings,
            places,
            idle: Mutex::default(),
            tasks,
        })))
    }

    /// Sends one statement and returns its rows. A statement that was started is finished, even if the caller leaves.
    ///
    /// Types that are no built-in ones (enums, domains of extensions) must be cast to text in the statement: looking
    /// them up would prepare statements.
    ///
    /// # Errors
    /// The server said no, or there is no answer in time.
    pub async fn query(
        &self,
        sql: impl Into<String>,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, PgError> {
        self.query_within(self.0.settings.call_timeout, sql, params)
            .await
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
        self.call(Call::Query(sql.into(), params), call_timeout)
            .await
    }

    /// Sends several statements without parameters, which are one transaction: all of them happen, or none.
    /// (They must not begin or end one themselves.)
    ///
    /// # Errors
    /// As [`Database::query`].
    pub async fn batch(&self, sql: impl Into<String>) -> Result<(), PgError> {
        self.call(Call::Batch(sql.into()), self.0.settings.call_timeout)
            .await
            .map(drop)
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
        client
            .batch_execute("begin")
            .await
            .map_err(|error| PgError::of(&error))?;
        Ok(Transaction {
            client,
            call_timeout,
        })
    }

    /// How many connections lie idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.lock().len()
    }

    /// Runs a call as a task that no caller can cancel.
    async fn call(&self, call: Call, call_timeout: Duration) -> Result<Vec<Row>, PgError> {
        let pool = self.0.clone();
        let running = self
            .0
            .tasks
            .spawn(async move { pool.run(&call, call_timeout).await });
        running
            .await
            .map_err(|_| PgError::unavailable("the call was cut short"))?
    }
}

/// A transaction on its own connection, for the command line, where a caller is never cancelled, only killed.
pub struct Transaction {
    client: Client,
    call_timeout: Duration,
}

impl Transaction {
    /// Sends one statement and gives its rows. After an error nothing but the end is possible.
    ///
    /// # Errors
    /// As [`Database::query`].
    pub async fn query(
        &self,
        sql: impl Into<String>,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, PgError> {
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

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PgError> {
        let late = |_| PgError::late(format!("no answer within {:?}", self.call_timeout));
        timeout(self.call_timeout, call)
            .await
            .map_err(late)?
            .map_err(|error| PgError::of(&error))
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
                let params: Vec<(&(dyn ToSql + Sync), Type)> =
                    params.iter().map(Param::borrowed).collect();
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

impl Connections {
    async fn run(&self, call: &Call, call_timeout: Duration) -> Result<Vec<Row>, PgError> {
        let until = Instant::now()
            .checked_add(call_timeout)
            .unwrap_or_else(Instant::now);
        let late = |what: &str| PgError::late(format!("{what} within {call_timeout:?}"));
        let place = tokio::time::timeout_at(until, self.places.acquire()).await;
        // The semaphore is never closed.
        let Ok(Ok(_place)) = place else {
            return Err(late("no connection was free"));
        };
        let connected = tokio::time::timeout_at(until, self.connection()).await;
        let client = connected.map_err(|_| late("not connected"))??;
        let Ok(answer) = tokio::time::timeout_at(until, call.send(&client)).await else {
            self.cancel(&client).await;
            return Err(late("no answer"));
        };
        if !client.is_closed() && (answer.is_ok() || call.leaves_clean()) {
            self.lock().push(Idle {
                client,
                since: Instant::now(),
            });
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
        let Ok(connected) = timeout(
            CONNECT_TIMEOUT,
            self.target.config.connect(self.target.tls.clone()),
        )
        .await
        else {
            return Err(PgError::late(format!(
                "not connected within {CONNECT_TIMEOUT:?}"
            )));
        };
        // No statement is at fault if the sign-in fails.
        let (client, connection) = connected.map_err(|error| PgError {
            unavailable: true,
            ..PgError::of(&error)
        })?;
        #[allow(
            clippy::disallowed_methods,
            reason = "owned by its client: it ends when the client is dropped"
        )]
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
