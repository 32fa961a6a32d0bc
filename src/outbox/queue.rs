//! Where entries wait, and which of the developer's functions takes them.

use super::entry::{self, Entry};
use crate::ledger::purchase_queue::PurchaseQueue;
use crate::ledger::{Failure, Lag, Ledger, Mark, Turn};
use crate::plan::Products;

/// The products of the settings in force.
pub type CurrentProducts = Box<dyn Fn() -> Products + Send + Sync>;

/// What waits.
pub(super) enum EntryQueue {
    /// Requests that were charged, for `log_request`.
    Requests(Ledger),
    /// Purchases that changed, for `on_purchase`, and what they give.
    Purchases(PurchaseQueue, CurrentProducts),
}

impl EntryQueue {
    /// The developer's function, for the log.
    pub(super) const fn function(&self) -> &'static str {
        match self {
            Self::Requests(_) => "log_request",
            Self::Purchases(..) => "on_purchase",
        }
    }

    /// A database without the function is as it should be.
    pub(super) const fn is_optional(&self) -> bool {
        matches!(self, Self::Purchases(..))
    }

    /// Entries that wait, in their order, but for those of the users in `except`.
    pub(super) async fn unsent(
        &self,
        limit: u32,
        except: Vec<String>,
    ) -> Result<Vec<Entry>, Failure> {
        match self {
            Self::Requests(ledger) => {
                let rows = ledger.unsent(limit, except).await?;
                Ok(rows.into_iter().map(Entry::from).collect())
            }
            Self::Purchases(queue, products) => {
                let rows = queue.unsent(limit, except).await?;
                if rows.is_empty() {
                    return Ok(Vec::new());
                }
                let products = products();
                let entry = |row| entry::of_purchase(row, &products);
                Ok(rows.into_iter().map(entry).collect())
            }
        }
    }

    /// Takes or keeps the turn to send.
    pub(super) async fn turn(&self) -> Result<Turn, Failure> {
        match self {
            Self::Requests(ledger) => ledger.outbox_turn().await,
            Self::Purchases(queue, _) => queue.turn().await,
        }
    }

    /// Marks entries, durably.
    pub(super) async fn mark(&self, ids: Vec<String>, mark: Mark) -> Result<(), Failure> {
        match self {
            Self::Requests(ledger) => ledger.mark(ids, mark).await,
            Self::Purchases(queue, _) => queue.mark(ids, mark).await,
        }
    }

    /// How much waits, where readiness tells it.
    pub(super) async fn lag(&self) -> Result<Lag, Failure> {
        match self {
            Self::Requests(ledger) => ledger.unsent_lag().await,
            Self::Purchases(..) => Ok(Lag::default()),
        }
    }

    /// Waits for a hint that there is more.
    pub(super) async fn more(&self) {
        match self {
            Self::Requests(ledger) => ledger.rows_ended().await,
            Self::Purchases(queue, _) => queue.changed().await,
        }
    }
}
