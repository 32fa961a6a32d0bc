//! The rows of purchases, in both stores: an event is merged into them in one transaction, with a row of the audit log where it
//! changed something.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::chain::Chain;
use super::credits;
use super::event::{Channel, OwnerMove, PurchaseChange, PurchaseEvent, Rules};
use super::rows::{StateCells, chain_of, move_owner, moves, original_of, save, seen, user_of};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Db;
use crate::ledger::read::report::{By, Desk, note};

/// Of several processes one at a time merges: what it read must not have changed when it writes.
const LOCK: i64 = 7_160_412_601;
/// Events are kept this long, for people and so that none is taken twice. (Taken twice, it would change nothing.)
const KEEP_EVENTS: Duration = Duration::from_hours(24 * 90);

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed something.
    Applied,
    /// It said nothing new, or nothing that matters.
    Unchanged,
    /// It was taken before.
    Repeated,
    /// It changed something, and nobody knows whose it is.
    NoUser,
    /// It changed something, and the settings do not have what was bought: it gives nothing until they do.
    NoProduct,
}

impl Outcome {
    /// As in rows and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Repeated => "repeated",
            Self::NoUser => "no_user",
            Self::NoProduct => "no_product",
        }
    }
}

/// What was done with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEffect {
    /// What became of it.
    pub outcome: Outcome,
    /// Whose purchases it touched.
    pub users: Vec<Uuid>,
}

/// The purchase is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurchaseConflict;

/// Takes an event, once; with `again` also one that was taken before.
///
/// # Errors
/// The ledger cannot be written.
pub fn take(
    desk: &Desk,
    event: &PurchaseEvent,
    rules: Rules<'_>,
    again: bool,
) -> Result<EventEffect, Failure> {
    desk.db()
        .in_transaction(|db| take_within(db, event, rules, again))
}

/// The same as a step of a transaction of the caller's.
///
/// # Errors
/// As [`take`].
pub(super) fn take_within(
    db: &Db,
    event: &PurchaseEvent,
    rules: Rules<'_>,
    again: bool,
) -> Result<EventEffect, Failure> {
    lock(db)?;
    if !again && is_known(db, event)? {
        let (outcome, users) = (Outcome::Repeated, Vec::new());
        return Ok(EventEffect { outcome, users });
    }
    let taken = merge(db, event, rules)?;
    remember(db, event, &taken, rules.now)?;
    Ok(taken)
}

/// Binds a transaction that Apple signed to the user who sent it.
///
/// # Errors
/// The ledger cannot be written. Inside: it is somebody else's.
pub fn bind(
    desk: &Desk,
    event: &PurchaseEvent,
    user: Uuid,
    rules: Rules<'_>,
) -> Result<Result<EventEffect, PurchaseConflict>, Failure> {
    desk.db().in_transaction(|db| {
        lock(db)?;
        let Some(change) = &event.change else {
            return Ok(Err(PurchaseConflict));
        };
        let original = original_of(db, change)?;
        let chain = chain_of(db, &change.store, &original)?;
        let owner = chain.user(moves(db)?);
        let others = owner.filter(|owner| *owner != user);
        let place = (change.store.as_str(), change.transaction.as_str());
        let given_to = credits::given_to(db, place)?;
        if given_to.is_some_and(|other| other != user) {
            return Ok(Err(PurchaseConflict));
        }
        if others.is_some() && chain.is_live(rules.now) {
            return Ok(Err(PurchaseConflict));
        }
        let mut bound = event.clone();
        if let Some(change) = &mut bound.change {
            change.owner = None;
        }
        let told = merge(db, &bound, rules)?;
        let mut taken = told.clone();
        if owner != Some(user) {
            let claim = PurchaseEvent {
                at: rules.now,
                change: Some(PurchaseChange {
                    state: None,
                    facts: None,
                    grace_until: None,
                    will_renew: None,
                    owner: Some(user.to_string()),
                    ..change.clone()
                }),
                ..bound
            };
            taken = merge(db, &claim, rules)?;
        } else if told.outcome == Outcome::NoUser {
            taken.outcome = Outcome::Applied;
        }
        if taken.outcome != Outcome::Unchanged {
            remember(db, event, &taken, rules.now)?;
        }
        Ok(Ok(taken))
    })
}

pub(super) fn lock(db: &Db) -> Result<(), Failure> {
    if let Db::Transaction(..) = db {
        let sql = "select coalesce(cast(pg_catalog.pg_advisory_xact_lock($1) as text), '')";
        db.query(sql, &[LOCK.into()])?;
    }
    Ok(())
}

fn is_known(db: &Db, event: &PurchaseEvent) -> Result<bool, Failure> {
    let sql = "select event_id from ledger.purchase_events where channel = $1 and event_id = $2";
    let key = [event.channel.as_str().into(), event.id.clone().into()];
    Ok(db.query_one(sql, &key)?.is_some())
}

/// An event that is told again changes nothing, and still waits for its product.
fn remember(
    db: &Db,
    event: &PurchaseEvent,
    taken: &EventEffect,
    now: Timestamp,
) -> Result<(), Failure> {
    let change = event.change.as_ref();
    let user = taken.users.first().map(Uuid::to_string);
    db.query(
        "insert into ledger.purchase_events
             (channel, event_id, kind, at, received_at, store, transaction_id, user_id, outcome)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (channel, event_id) do update set received_at = excluded.received_at,
             user_id = excluded.user_id, outcome = case
                 when purchase_events.outcome = 'no_product' and excluded.outcome = 'unchanged'
                 then 'no_product' else excluded.outcome end",
        &[
            event.channel.as_str().into(),
            event.id.clone().into(),
            event.kind.clone().into(),
            event.at.millis().into(),
            now.millis().into(),
            change.map(|change| change.store.clone()).into(),
            change.map(|change| change.transaction.clone()).into(),
            user.into(),
            taken.outcome.as_str().into(),
        ],
    )?;
    let old = now.minus(KEEP_EVENTS).millis();
    // What waits for its product waits for as long as that takes.
    db.query(
        "delete from ledger.purchase_events where received_at < $1 and outcome <> 'no_product'",
        &[old.into()],
    )?;
    Ok(())
}

/// Merges what an event says, and notes what it changed.
fn merge(db: &Db, event: &PurchaseEvent, rules: Rules<'_>) -> Result<EventEffect, Failure> {
    let mut merged = EventChanges::default();
    for OwnerMove { from, to } in &event.moves {
        for moved in move_owner(db, (from, to), event.at, rules.now)? {
            let place = (moved.store.as_str(), "");
            let given = give(db, place, (&moved.chain, moved.after), rules)?;
            merged.touch(moved.before, moved.after);
            merged.notes.extend(given);
        }
    }
    if let Some(change) = &event.change {
        let original = original_of(db, change)?;
        let before = chain_of(db, &change.store, &original)?;
        let mut after = before.clone();
        after.take(change, event.at);
        let place = (change.store.as_str(), original.as_str());
        let users = (user_of(db, place)?, after.user(moves(db)?));
        save(db, place, (&before, &after), users, rules.now)?;
        merged
            .notes
            .extend(give(db, place, (&after, users.1), rules)?);
        merged.is_nobodys = users.1.is_none() && !after.rows.is_empty();
        let row = after.rows.get(&change.transaction);
        let facts = row.and_then(|row| row.facts.as_ref());
        merged.is_unknown = facts.is_some_and(|(_, it)| rules.products.get(&it.product).is_none());
        if differ(&before, &after) || users.0 != users.1 {
            merged.notes.push(json!({
                "store": change.store, "transaction": change.transaction, "event": event.kind,
                "before": chain_json(&before, users.0, &change.transaction),
                "after": chain_json(&after, users.1, &change.transaction),
            }));
        }
        merged
            .users
            .extend([users.0, users.1].into_iter().flatten());
    }
    merged.users.sort_unstable();
    merged.users.dedup();
    let by = By {
        name: event.channel.as_str(),
        at: rules.now,
    };
    for detail in &merged.notes {
        note(db, by, ("purchase", merged.users.first().copied()), detail)?;
    }
    let outcome = match &merged {
        it if it.notes.is_empty() => Outcome::Unchanged,
        it if it.is_unknown => Outcome::NoProduct,
        it if it.is_nobodys => Outcome::NoUser,
        _ => Outcome::Applied,
    };
    Ok(EventEffect {
        outcome,
        users: merged.users,
    })
}

/// Brings the credits of each transaction to what its row says; what that changed.
pub(super) fn give(
    db: &Db,
    (store, _): (&str, &str),
    (chain, user): (&Chain, Option<Uuid>),
    rules: Rules<'_>,
) -> Result<Vec<Value>, Failure> {
    let Some(user) = user else {
        return Ok(Vec::new());
    };
    let mut notes = Vec::new();
    for (id, row) in &chain.rows {
        if credits::settle(db, (store, id), row, user, rules)? {
            notes.push(json!({ "store": store, "transaction": id, "event": "credits" }));
        }
    }
    Ok(notes)
}

/// What an event changed.
#[derive(Default)]
struct EventChanges {
    users: Vec<Uuid>,
    notes: Vec<Value>,
    is_nobodys: bool,
    is_unknown: bool,
}

impl EventChanges {
    fn touch(&mut self, from: Option<Uuid>, to: Option<Uuid>) {
        self.users.extend(from.iter().chain(&to));
        self.notes
            .push(json!({ "event": "move", "before": from, "after": to }));
    }
}

/// Whatever an operator would see as different: not the times at which the same was said again.
fn differ(before: &Chain, after: &Chain) -> bool {
    let renews = |chain: &Chain| chain.renewal.map(|(_, renews)| renews);
    let rows = before.rows.iter().map(|(id, row)| (id, seen(before, row)));
    !rows.eq(after.rows.iter().map(|(id, row)| (id, seen(after, row))))
        || renews(before) != renews(after)
}

fn chain_json(chain: &Chain, user: Option<Uuid>, transaction: &str) -> Value {
    let row = chain.rows.get(transaction);
    let ends_at = row.and_then(|row| chain.ends_at(row));
    json!({
        "user": user,
        "product": row.and_then(|row| Some(row.facts.as_ref()?.1.product.clone())),
        "state": row.map(|row| StateCells::of(row).name),
        "ends_at": ends_at.map(Timestamp::rfc3339),
        "will_renew": chain.renewal.map(|(_, renews)| renews),
    })
}

/// When each channel last told anything, for `doctor` and metrics.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn last_events(db: &Db) -> Result<Vec<(Channel, Timestamp)>, Failure> {
    let sql = "select channel, max(received_at) from ledger.purchase_events group by channel";
    let mut last = Vec::new();
    for row in db.query(sql, &[])? {
        let name = row.text(0)?;
        let channel = Channel::ALL.into_iter().find(|it| it.as_str() == name);
        let at = Timestamp::from_millis(row.int(1)?);
        last.extend(channel.map(|channel| (channel, at)));
    }
    Ok(last)
}
