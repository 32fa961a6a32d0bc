//! Purchases that changed and wait for the developer's `on_purchase`. There is no copy of them: a row waits in its table until
//! it is marked, and what is sent is what it says then. It knows no products: what a purchase gives is up to the settings.

use std::sync::Arc;

use uuid::Uuid;

use super::read::connection::{Db, Row};
use super::read::report::Desk;
use super::read::shared::SharedConnection;
use super::{Failure, Ledger, Mark, Turn, versioned};
use crate::clock::Timestamp;
use crate::plan::Purchase;

/// A transaction that waits.
#[derive(Clone, Debug)]
pub struct UnsentPurchase {
    /// The change, for [`PurchaseQueue::mark`].
    pub id: String,
    /// Grows with each change of any transaction.
    pub revision: i64,
    /// Whose it is; `None` where nobody knows.
    pub user_id: Option<String>,
    /// The store's id of the transaction.
    pub transaction: String,
    /// The store's id of the first transaction of the same purchase.
    pub original: String,
    /// `live`, `ended` or `revoked`.
    pub state: String,
    /// How much of it the store took back, in 100,000ths.
    pub share: i64,
    /// How many pieces.
    pub quantity: i64,
    /// When the store said what changed it last.
    pub changed_at: Timestamp,
    /// What was bought, and until when.
    pub purchase: Purchase,
}

impl UnsentPurchase {
    /// Whose changes are sent in their order: a user's, or, of nobody's, those of the one purchase.
    #[must_use]
    pub fn lane(&self) -> String {
        self.user_id
            .clone()
            .unwrap_or_else(|| format!("{}:{}", self.purchase.store, self.original))
    }
}

/// The rows that wait, by a connection of its own: the ledger's writer is not asked.
#[derive(Clone)]
pub struct PurchaseQueue {
    ledger: Ledger,
    desk: Arc<SharedConnection<Desk>>,
    /// This process, among those that take turns.
    process: Uuid,
}

impl PurchaseQueue {
    /// Of a ledger.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self {
            desk: Arc::new(SharedConnection::changing(&ledger)),
            process: Uuid::now_v7(),
            ledger,
        }
    }

    /// Those that wait, at most `limit`, in the order of their changes, but for those of the lanes in `except`. None where it is
    /// another process's turn.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn unsent(
        &self,
        limit: u32,
        except: Vec<String>,
    ) -> Result<Vec<UnsentPurchase>, Failure> {
        let process = self.process;
        let reading = self.desk.ask(move |desk| {
            if turn(desk.db(), process)? == Turn::HeldElsewhere {
                return Ok(Vec::new());
            }
            unsent(desk.db(), limit, &except)
        });
        reading.await.map_err(Failure::new)
    }

    /// Takes or keeps the turn to send, for the next fifteen seconds.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn turn(&self) -> Result<Turn, Failure> {
        let process = self.process;
        let taking = self.desk.ask(move |desk| turn(desk.db(), process));
        taking.await.map_err(Failure::new)
    }

    /// Marks what was sent. What has changed again since goes on waiting.
    ///
    /// # Errors
    /// The ledger cannot be written: all may go on waiting.
    pub async fn mark(&self, ids: Vec<String>, mark: Mark) -> Result<(), Failure> {
        let marking = self.desk.ask(move |desk| {
            desk.db()
                .in_transaction(|db| ids.iter().try_for_each(|id| mark_one(db, id, mark)))
        });
        marking.await.map_err(Failure::new)
    }

    /// Waits until purchases have changed. A hint: another process may change some.
    pub async fn changed(&self) {
        self.ledger.purchases_changed().await;
    }
}

/// On SQLite one process alone serves.
fn turn(db: &Db, process: Uuid) -> Result<Turn, Failure> {
    if let Db::Sqlite(_) = db {
        return Ok(Turn::Renewed);
    }
    let sql = "select cast(cast(ledger.outbox_turn_v0($1, 'purchase_outbox') as int) as bigint)";
    let row = db.query_one(&versioned(sql), &[process.to_string().into()])?;
    let had = row.map(|row| row.maybe_int(0)).transpose()?.flatten();
    Ok(had.map_or(Turn::HeldElsewhere, |had| {
        if had == 0 {
            Turn::Acquired
        } else {
            Turn::Renewed
        }
    }))
}

fn unsent(db: &Db, limit: u32, except: &[String]) -> Result<Vec<UnsentPurchase>, Failure> {
    // As many as there are: an array is written in another way in each database.
    let places = (2..).take(except.len()).map(|place| format!("${place}"));
    let places: Vec<String> = places.collect();
    let besides = match places.as_slice() {
        [] => String::new(),
        some => format!(
            "and coalesce(o.user_id, p.store || ':' || p.original_id) not in ({})",
            some.join(", ")
        ),
    };
    let sql = format!(
        "select p.product, p.purchased_at, p.expires_at, p.ends_at, p.sandbox, p.store, o.will_renew, p.revision,
                p.transaction_id, p.original_id, o.user_id, p.state, p.share, p.quantity, p.state_at
         from ledger.purchases as p
         join ledger.purchase_origins as o on o.store = p.store and o.original_id = p.original_id
         where p.unsent = 1 and p.product is not null and p.state <> 'unknown' {besides}
         order by p.revision, p.store, p.transaction_id limit $1"
    );
    let mut params = vec![i64::from(limit).into()];
    params.extend(except.iter().map(|lane| lane.clone().into()));
    db.query(&sql, &params)?.iter().map(unsent_of).collect()
}

fn unsent_of(row: &Row) -> Result<UnsentPurchase, Failure> {
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    let purchase = Purchase {
        product: row.text(0)?,
        purchased_at: time(1)?.unwrap_or(Timestamp::EPOCH),
        expires_at: time(2)?,
        ends_at: time(3)?,
        is_sandbox: row.int(4)? != 0,
        store: row.text(5)?,
        will_renew: row.maybe_int(6)?.map(|renews| renews != 0),
    };
    let (revision, transaction) = (row.int(7)?, row.text(8)?);
    Ok(UnsentPurchase {
        id: format!("{revision}:{}:{transaction}", purchase.store),
        revision,
        transaction,
        original: row.text(9)?,
        user_id: row.maybe_text(10)?,
        state: row.text(11)?,
        share: row.int(12)?,
        quantity: row.int(13)?,
        changed_at: time(14)?.unwrap_or(Timestamp::EPOCH),
        purchase,
    })
}

fn mark_one(db: &Db, id: &str, mark: Mark) -> Result<(), Failure> {
    let as_what = match mark {
        Mark::Sent => 0_i64,
        Mark::DeadLetter => 2,
    };
    let parts = id.split_once(':');
    let Some((revision, place)) =
        parts.and_then(|(it, place)| Some((it.parse::<i64>().ok()?, place)))
    else {
        return Ok(());
    };
    let sql = "update ledger.purchases set unsent = $3
               where unsent = 1 and revision = $1 and store || ':' || transaction_id = $2";
    db.query(sql, &[revision.into(), place.into(), as_what.into()])?;
    Ok(())
}
