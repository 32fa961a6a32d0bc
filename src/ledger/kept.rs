//! One connection that many share by turns, opened when it is first needed and again after a failure.
//!
//! For a server that looks at the ledger, or changes what an operator may, beside the writer.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::Failure;
use super::report::{Desk, Reports};
use crate::config::StoreUrl;

/// A connection, and who waits for it.
pub struct Kept<C> {
    store: StoreUrl,
    open: fn(&StoreUrl) -> Result<C, Failure>,
    connection: Mutex<Option<C>>,
    /// Who waits for the connection waits here, where waiting takes no thread.
    turn: Arc<Semaphore>,
}

/// For those who only read.
pub type Reader = Kept<Reports>;

impl Kept<Reports> {
    /// For reading.
    #[must_use]
    pub fn reading(store: StoreUrl) -> Self {
        Self::new(store, Reports::open)
    }

    /// Reads on a thread that may block.
    ///
    /// # Errors
    /// The ledger cannot be read: why, for the log.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Reports) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, String> {
        self.ask(read).await
    }
}

impl Kept<Desk> {
    /// For the operator's changes.
    #[must_use]
    pub fn changing(store: StoreUrl) -> Self {
        Self::new(store, Desk::open)
    }
}

impl<C: Send + 'static> Kept<C> {
    fn new(store: StoreUrl, open: fn(&StoreUrl) -> Result<C, Failure>) -> Self {
        Self { store, open, connection: Mutex::new(None), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Does something with the connection, on a thread that may block.
    ///
    /// # Errors
    /// It could not be done: why, for the log.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&C) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let kept = self.clone();
        let asking = move || {
            let answer = kept.ask_now(ask);
            // Only now: a caller that leaves does not end what it asked for.
            drop(turn);
            answer
        };
        let done = tokio::task::spawn_blocking(asking).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn ask_now<T>(&self, ask: impl FnOnce(&C) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match kept.take() {
            Some(connection) => connection,
            None => (self.open)(&self.store)?,
        };
        let answer = ask(&connection)?;
        *kept = Some(connection);
        Ok(answer)
    }
}
