//! Credits of a product: given once a transaction, and taken back by the share that the store refunds.

use uuid::Uuid;

use super::chain::StoreTransaction;
use super::event::{PurchaseState, Rules, WHOLE_SHARE};
use crate::ledger::Failure;
use crate::ledger::grants::{GRANT_MICROS_MAX, NewGrant, grant, refund, user_of};
use crate::ledger::read::connection::Db;
use crate::price::MicroUsd;

/// What a grant comes from: one transaction of one store.
fn source((store, transaction): (&str, &str)) -> String {
    format!("{store}:{transaction}")
}

/// Whom a transaction has given credits.
pub(super) fn given_to(db: &Db, place: (&str, &str)) -> Result<Option<Uuid>, Failure> {
    user_of(db, &source(place))
}

/// Brings the credits of a transaction to what its row says. True where that changed something.
pub(super) fn settle(
    db: &Db,
    place: (&str, &str),
    row: &StoreTransaction,
    user: Uuid,
    rules: Rules<'_>,
) -> Result<bool, Failure> {
    let Some(((_, facts), (_, said))) = row.facts.as_ref().zip(row.state) else {
        return Ok(false);
    };
    let product = rules.products.get(&facts.product);
    let Some((product, MicroUsd(each))) = product.and_then(|it| Some((it, it.credit?))) else {
        return Ok(false);
    };
    if facts.is_sandbox {
        return Ok(false);
    }
    let share = match said.state {
        PurchaseState::Revoked { share, .. } => share,
        PurchaseState::Live(_) | PurchaseState::Ended(_) => 0,
    };
    let source = source(place);
    let mut changed = false;
    if share < WHOLE_SHARE {
        let all = each.saturating_mul(facts.quantity);
        let until = product.credit_expires;
        let new = NewGrant {
            user_id: user,
            source: source.clone(),
            amount: MicroUsd(all.min(GRANT_MICROS_MAX)),
            until: until.map(|length| facts.purchased_at.plus(length)),
        };
        changed = grant(db, &new, rules.now)?;
    }
    let taken = refund(db, &source, u32::try_from(share).unwrap_or(0))?;
    Ok(changed || taken)
}
