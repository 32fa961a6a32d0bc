//! Purchases as they stand in their tables, in both stores.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::chain::{Chain, Owner, StoreTransaction};
use super::event::{Facts, PurchaseChange, PurchaseState, ReportedState, user_named};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::{Cell, Db, Row};

/// How many purchases one move of a name reaches.
const MOVED_MAX: i64 = 1000;

/// The purchase that a transaction belongs to. The first word counts: it is one row.
pub(super) fn original_of(db: &Db, change: &PurchaseChange) -> Result<String, Failure> {
    let sql = "select original_id from ledger.purchases where store = $1 and transaction_id = $2";
    let key = [
        change.store.clone().into(),
        change.transaction.clone().into(),
    ];
    let known = db
        .query_one(sql, &key)?
        .map(|row| row.text(0))
        .transpose()?;
    Ok(known.unwrap_or_else(|| change.original.clone()))
}

pub(super) fn user_of(db: &Db, (store, original): (&str, &str)) -> Result<Option<Uuid>, Failure> {
    let sql = "select user_id from ledger.purchase_origins where store = $1 and original_id = $2";
    let row = db.query_one(sql, &[store.into(), original.into()])?;
    let user = row.map(|row| row.maybe_text(0)).transpose()?.flatten();
    Ok(user.as_deref().and_then(user_named))
}

/// Moves of names, by the name that they are from. There are few.
pub(super) fn moves(db: &Db) -> Result<impl Fn(&str) -> Vec<(Timestamp, String)>, Failure> {
    let mut by_name: BTreeMap<String, Vec<(Timestamp, String)>> = BTreeMap::new();
    let sql = "select from_owner, at, to_owner from ledger.purchase_moves order by at";
    for row in db.query(sql, &[])? {
        let moved = (Timestamp::from_millis(row.int(1)?), row.text(2)?);
        by_name.entry(row.text(0)?).or_default().push(moved);
    }
    Ok(move |name: &str| by_name.get(name).cloned().unwrap_or_default())
}

/// A purchase that went from one user to another.
pub(super) struct MovedPurchase {
    pub(super) store: String,
    pub(super) chain: Chain,
    pub(super) before: Option<Uuid>,
    pub(super) after: Option<Uuid>,
}

/// Notes that what belonged to one name belongs to another; the purchases that went along.
pub(super) fn move_owner(
    db: &Db,
    (from, to): (&str, &str),
    at: Timestamp,
    now: Timestamp,
) -> Result<Vec<MovedPurchase>, Failure> {
    db.query(
        "insert into ledger.purchase_moves (from_owner, at, to_owner) values ($1, $2, $3)
         on conflict (from_owner, at, to_owner) do nothing",
        &[from.into(), at.millis().into(), to.into()],
    )?;
    let sql = "select store, original_id, user_id from ledger.purchase_origins
               where owner = $1 or user_id = $1 order by store, original_id limit $2";
    let moves = moves(db)?;
    let mut touched = Vec::new();
    for row in db.query(sql, &[from.into(), MOVED_MAX.into()])? {
        let (store, original) = (row.text(0)?, row.text(1)?);
        let before = row.maybe_text(2)?.as_deref().and_then(user_named);
        let chain = chain_of(db, &store, &original)?;
        let after = chain.user(&moves);
        if before == after {
            continue;
        }
        let sql =
            "update ledger.purchase_origins set user_id = $3 where store = $1 and original_id = $2";
        let user = after.map(|user| user.to_string());
        db.query(sql, &[store.clone().into(), original.into(), user.into()])?;
        for id in chain.rows.keys() {
            let_wait(db, (&store, id), now)?;
        }
        touched.push(MovedPurchase {
            store,
            chain,
            before,
            after,
        });
    }
    Ok(touched)
}

pub(super) fn chain_of(db: &Db, store: &str, original: &str) -> Result<Chain, Failure> {
    let key = [Cell::from(store), Cell::from(original)];
    let sql = "select owner, owner_at, will_renew, renew_at from ledger.purchase_origins
               where store = $1 and original_id = $2";
    let mut chain = Chain::default();
    if let Some(row) = db.query_one(sql, &key)? {
        let owner_at = Timestamp::from_millis(row.int(1)?);
        let owner = |name| Owner { name, at: owner_at };
        chain.owner = row.maybe_text(0)?.map(owner);
        let renew_at = Timestamp::from_millis(row.int(3)?);
        chain.renewal = row.maybe_int(2)?.map(|renews| (renew_at, renews != 0));
    }
    let sql = "select transaction_id, product, purchased_at, quantity, sandbox, facts_at, state, state_at, state_rank,
                      expires_at, stopped_at, share, grace_until, grace_at
               from ledger.purchases where store = $1 and original_id = $2";
    for row in db.query(sql, &key)? {
        chain.rows.insert(row.text(0)?, transaction_of(&row)?);
    }
    Ok(chain)
}

fn transaction_of(row: &Row) -> Result<StoreTransaction, Failure> {
    let time = |column| Ok::<_, Failure>(Timestamp::from_millis(row.int(column)?));
    let maybe = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    let facts = row.maybe_text(1)?.map(|product| {
        let facts = Facts {
            product,
            purchased_at: maybe(2)?.unwrap_or(Timestamp::EPOCH),
            quantity: row.int(3)?,
            is_sandbox: row.int(4)? != 0,
        };
        Ok::<_, Failure>((time(5)?, facts))
    });
    let stopped = maybe(10)?.unwrap_or(Timestamp::EPOCH);
    let state = match row.text(6)?.as_str() {
        "live" => Some(PurchaseState::Live(maybe(9)?)),
        "ended" => Some(PurchaseState::Ended(stopped)),
        "revoked" => Some(PurchaseState::Revoked {
            at: stopped,
            share: row.int(11)?,
        }),
        _ => None,
    };
    let rank = row.int(8)?;
    let state = state.map(|state| Ok::<_, Failure>((time(7)?, ReportedState { state, rank })));
    let grace_at = time(13)?;
    let grace = (maybe(12)?, grace_at);
    Ok(StoreTransaction {
        facts: facts.transpose()?,
        state: state.transpose()?,
        grace: (grace_at > Timestamp::EPOCH).then_some((grace.1, grace.0)),
    })
}

/// A state, as it stands in a row.
pub(super) struct StateCells {
    pub(super) name: &'static str,
    expires_at: Option<Timestamp>,
    stopped_at: Option<Timestamp>,
    share: i64,
}

impl StateCells {
    pub(super) fn of(row: &StoreTransaction) -> Self {
        let none = Self {
            name: "unknown",
            expires_at: None,
            stopped_at: None,
            share: 0,
        };
        match row.state.map(|(_, said)| said.state) {
            None => none,
            Some(PurchaseState::Live(expires_at)) => Self {
                name: "live",
                expires_at,
                ..none
            },
            Some(PurchaseState::Ended(at)) => Self {
                name: "ended",
                stopped_at: Some(at),
                ..none
            },
            Some(PurchaseState::Revoked { at, share }) => Self {
                name: "revoked",
                stopped_at: Some(at),
                share,
                ..none
            },
        }
    }
}

/// Whatever an operator or a developer would see as different in a transaction: not the times at which the same was said again.
pub(super) fn seen<'a>(
    chain: &Chain,
    row: &'a StoreTransaction,
) -> (Option<&'a Facts>, Option<PurchaseState>, Option<Timestamp>) {
    let facts = row.facts.as_ref().map(|(_, facts)| facts);
    let state = row.state.map(|(_, said)| said.state);
    (facts, state, chain.ends_at(row))
}

/// Saves what changed, and lets it wait for the developer's `on_purchase`. `users` are whose it was and is.
pub(super) fn save(
    db: &Db,
    (store, original): (&str, &str),
    (before, chain): (&Chain, &Chain),
    users: (Option<Uuid>, Option<Uuid>),
    now: Timestamp,
) -> Result<(), Failure> {
    let user = users.1;
    let owner = chain.owner.as_ref();
    let owner_at = owner.map_or(Timestamp::EPOCH, |owner| owner.at);
    let (renew_at, renews) = chain
        .renewal
        .map_or((Timestamp::EPOCH, None), |(at, renews)| {
            (at, Some(i64::from(renews)))
        });
    db.query(
        "insert into ledger.purchase_origins (store, original_id, owner, owner_at, user_id, will_renew, renew_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (store, original_id) do update set owner = excluded.owner, owner_at = excluded.owner_at,
             user_id = excluded.user_id, will_renew = excluded.will_renew, renew_at = excluded.renew_at",
        &[
            store.into(),
            original.into(),
            owner.map(|owner| owner.name.clone()).into(),
            owner_at.millis().into(),
            user.map(|user| user.to_string()).into(),
            renews.into(),
            renew_at.millis().into(),
        ],
    )?;
    for (id, row) in &chain.rows {
        let known = before.rows.get(id).map(|row| (row, before.ends_at(row)));
        if known == Some((row, chain.ends_at(row))) {
            continue;
        }
        save_row(db, (store, original, id), row, chain.ends_at(row))?;
    }
    for (id, row) in &chain.rows {
        let known = before.rows.get(id).map(|row| seen(before, row));
        if users.0 != users.1 || known != Some(seen(chain, row)) {
            let_wait(db, (store, id), now)?;
        }
    }
    Ok(())
}

/// A transaction waits for the developer's `on_purchase`, after all that changed before it. Also after a ledger was restored
/// from a backup, revisions are higher than those before: hence the clock.
pub(super) fn let_wait(db: &Db, (store, id): (&str, &str), now: Timestamp) -> Result<(), Failure> {
    db.query(
        "update ledger.purchases set unsent = 1, revision =
             (select case when last.revision >= $3 then last.revision + 1 else $3 end
              from (select coalesce(max(p.revision), 0) as revision from ledger.purchases as p) as last)
         where store = $1 and transaction_id = $2",
        &[store.into(), id.into(), now.millis().into()],
    )?;
    Ok(())
}

fn save_row(
    db: &Db,
    (store, original, id): (&str, &str, &str),
    row: &StoreTransaction,
    ends_at: Option<Timestamp>,
) -> Result<(), Failure> {
    let millis = |time: Option<Timestamp>| Cell::from(time.map(Timestamp::millis));
    let facts = row.facts.as_ref();
    let known = facts.map(|(_, facts)| facts);
    let state = StateCells::of(row);
    let (state_at, rank) = row
        .state
        .map_or((Timestamp::EPOCH, 0), |(at, said)| (at, said.rank));
    let (grace_at, grace_until) = row.grace.unwrap_or((Timestamp::EPOCH, None));
    db.query(
        "insert into ledger.purchases
             (store, transaction_id, original_id, product, purchased_at, quantity, sandbox, facts_at, state, state_at,
              state_rank, expires_at, stopped_at, share, grace_until, grace_at, ends_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         on conflict (store, transaction_id) do update set product = excluded.product,
             purchased_at = excluded.purchased_at, quantity = excluded.quantity, sandbox = excluded.sandbox,
             facts_at = excluded.facts_at, state = excluded.state, state_at = excluded.state_at,
             state_rank = excluded.state_rank, expires_at = excluded.expires_at, stopped_at = excluded.stopped_at,
             share = excluded.share, grace_until = excluded.grace_until, grace_at = excluded.grace_at,
             ends_at = excluded.ends_at",
        &[
            store.into(),
            id.into(),
            original.into(),
            known.map(|facts| facts.product.clone()).into(),
            millis(known.map(|facts| facts.purchased_at)),
            known.map_or(1, |facts| facts.quantity).into(),
            known.map_or(0, |facts| i64::from(facts.is_sandbox)).into(),
            facts.map_or(0, |(at, _)| at.millis()).into(),
            state.name.into(),
            state_at.millis().into(),
            rank.into(),
            millis(state.expires_at),
            millis(state.stopped_at),
            state.share.into(),
            millis(grace_until),
            grace_at.millis().into(),
            millis(ends_at),
        ],
    )?;
    Ok(())
}
