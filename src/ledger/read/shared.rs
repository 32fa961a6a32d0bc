//! One connection that many share by turns, opened when it is first needed and again after a failure.
//!
//! For a server that looks at the ledger, or changes what an operator may, beside the writer.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::config::StoreUrl;
use crate::ledger::file::{Files, Place};
use crate::ledger::read::report::{Desk, Reports};
use crate::ledger::{Failure, Ledger};

/// A connection, and who waits for it.
pub struct SharedConnection<C> {
    store: StoreUrl,
    /// Where the ledger lies that the server has open, if it is a file: no other is asked.
    place: Option<Place>,
    open: fn(&StoreUrl) -> Result<C, Failure>,
    /// With the files that it was opened on.
    connection: Mutex<Option<(C, Option<Files>)>>,
    /// Who waits for the connection waits here, where waiting takes no thread.
    turn: Arc<Semaphore>,
}

/// For those who only read.
pub type Reader = SharedConnection<Reports>;

impl SharedConnection<Reports> {
    /// For reading.
    #[must_use]
    pub fn reading(ledger: &Ledger) -> Self {
        Self::new(
            ledger.store().clone(),
            ledger.place().cloned(),
            Reports::open,
        )
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

impl SharedConnection<Desk> {
    /// For the operator's changes.
    #[must_use]
    pub fn changing(ledger: &Ledger) -> Self {
        Self::new(ledger.store().clone(), ledger.place().cloned(), Desk::open)
    }

    /// Of a ledger that is not there.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::new(StoreUrl::Sqlite("nowhere.db".into()), None, Desk::open)
    }
}

impl<C: Send + 'static> SharedConnection<C> {
    fn new(
        store: StoreUrl,
        place: Option<Place>,
        open: fn(&StoreUrl) -> Result<C, Failure>,
    ) -> Self {
        Self {
            store,
            place,
            open,
            connection: Mutex::new(None),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Nobody uses it, and nobody waits for it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.turn.available_permits() > 0
    }

    /// Does something with the connection, on a thread that may block.
    ///
    /// # Errors
    /// It could not be done: why, for the log.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&C) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, String> {
        let turn = self
            .turn
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| error.to_string())?;
        let kept = self.clone();
        let asking = move || {
            let answer = kept.ask_now(ask);
            // Only now: a caller that leaves does not end what it asked for.
            drop(turn);
            answer
        };
        let done = tokio::task::spawn_blocking(asking).await;
        done.map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    fn ask_now<T>(&self, ask: impl FnOnce(&C) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut kept = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let files = self.place.as_ref().map(Place::look).transpose()?;
        let connection = match kept.take().filter(|(_, opened)| *opened == files) {
            Some((connection, _)) => connection,
            None => (self.open)(&self.store)?,
        };
        let answer = ask(&connection)?;
        *kept = Some((connection, files));
        Ok(answer)
    }
}
