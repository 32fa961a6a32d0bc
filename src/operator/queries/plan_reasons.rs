//! Why a user has their plan, in one line with the runner-up: "pro: bought as com.example.pro in `app_store`; without it free: the
//! default".
//!
//! What a token names is in no table: the plan of the last request stands for it, and so it does for the developer's database
//! where nobody asked that. It counts only as long as nothing else about the user's plan has changed or ended since.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::read::connection::{Db, Row};
use crate::ledger::read::report::{SubscriptionRow, id_before};
use crate::plan::{DatabaseAnswer, LivePurchase, Purchase};

/// Of so many purchases, the newest, it is seen whether they have ended.
const ENDED_MAX: i64 = 20;

/// What the developer's database says of a user.
#[derive(Clone, Debug, Default)]
pub enum DatabaseWord {
    /// There is none, or nobody asked it.
    #[default]
    NotAsked,
    /// It was asked, and this is its answer, if it has one.
    Answered(Option<DatabaseAnswer>),
    /// It lets the user do nothing.
    Blocks,
    /// It could not be asked: why.
    Unavailable(String),
}

impl DatabaseWord {
    /// Its answer, if it has one.
    pub(super) const fn answer(&self) -> Option<&DatabaseAnswer> {
        match self {
            Self::Answered(answer) => answer.as_ref(),
            Self::NotAsked | Self::Blocks | Self::Unavailable(_) => None,
        }
    }
}

/// What may decide a user's plan, as far as it is known here.
pub(super) struct PlanReasons<'a> {
    pub(super) database: &'a DatabaseWord,
    /// The plan that the operator gave, and until when.
    pub(super) given: Option<(String, Option<Timestamp>)>,
    pub(super) live: &'a [LivePurchase],
    pub(super) ended: Option<&'a EndedPurchase>,
    /// The plan of the last request, where it still says something.
    pub(super) last: Option<&'a str>,
}

impl PlanReasons<'_> {
    /// One line: what decides, and what would without it.
    pub(super) fn text(&self, config: &Config) -> String {
        let known = |plan: &&str| config.plans.by_name.contains_key(*plan);
        let until = |at: Option<Timestamp>| {
            at.map_or_else(String::new, |at| format!(" until {}", at.rfc3339()))
        };
        let answer = self.database.answer();
        let named = answer.and_then(|it| it.plan.as_deref()).filter(known);
        let named = named.map(|plan| format!("{plan}: named by your database"));
        let last = self.last.filter(known);
        let last = last.map(|plan| format!("{plan}: the plan of the last request"));
        let given = self
            .given
            .as_ref()
            .filter(|(plan, _)| known(&plan.as_str()));
        let given = given.map(|(plan, end)| format!("{plan}: given by an operator{}", until(*end)));
        let bought = self.live.iter().map(|live| {
            let (plan, bought) = (&live.plan, &live.purchase);
            let end = until(live.ends_at);
            format!(
                "{plan}: bought as {} in {}{end}",
                bought.product, bought.store
            )
        });
        let default = format!("{}: the default", config.plans.default.name);
        let reasons = named.into_iter().chain(given).chain(bought).chain(last);
        let mut reasons = reasons.chain([default]);
        let mut text = reasons.next().unwrap_or_default();
        if let Some(next) = reasons.next() {
            text.extend(["; without it ", next.as_str()]);
        }
        text.push_str(&self.remarks());
        text
    }

    fn remarks(&self) -> String {
        let ended = self.ended.filter(|_| self.live.is_empty());
        let ended = ended.map(|it| {
            let (product, store) = (&it.product, &it.store);
            format!("; {product} in {store} ended at {}", it.ended_at.rfc3339())
        });
        let database = match self.database {
            DatabaseWord::Unavailable(why) => {
                Some(format!("; your database could not be asked: {why}"))
            }
            DatabaseWord::Blocks => Some("; your database blocks this user".to_owned()),
            DatabaseWord::NotAsked | DatabaseWord::Answered(_) => None,
        };
        [ended, database].into_iter().flatten().collect()
    }
}

/// A purchase that gave a plan.
pub(super) struct EndedPurchase {
    product: String,
    store: String,
    ended_at: Timestamp,
}

/// The purchase of a plan that ended last.
///
/// # Errors
/// The ledger cannot be read.
pub(super) fn ended_purchase(
    db: &Db,
    config: &Config,
    user_id: Uuid,
    now: Timestamp,
) -> Result<Option<EndedPurchase>, Failure> {
    let sql = "select p.product, p.store, p.purchased_at, p.expires_at, p.ends_at, p.sandbox
               from ledger.purchase_origins as o
               join ledger.purchases as p on p.store = o.store and p.original_id = o.original_id
               where o.user_id = $1 and p.product is not null and p.state <> 'unknown'
               order by p.purchased_at desc limit $2";
    let rows = db.query(sql, &[user_id.to_string().into(), ENDED_MAX.into()])?;
    let purchases = rows.iter().map(purchase);
    let purchases = purchases.collect::<Result<Vec<_>, Failure>>()?;
    let ended = purchases.into_iter().filter_map(|purchase| {
        let gift = config.products.gift(&purchase);
        let ended_at = gift
            .ends_at
            .filter(|end| *end <= now && gift.plan.is_some())?;
        Some(EndedPurchase {
            ended_at,
            product: purchase.product,
            store: purchase.store,
        })
    });
    Ok(ended.max_by_key(|it| it.ended_at))
}

fn purchase(row: &Row) -> Result<Purchase, Failure> {
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    Ok(Purchase {
        product: row.text(0)?,
        store: row.text(1)?,
        purchased_at: time(2)?.unwrap_or(Timestamp::EPOCH),
        expires_at: time(3)?,
        ends_at: time(4)?,
        is_sandbox: row.int(5)? != 0,
        will_renew: None,
    })
}

/// The plan of the last request, unless something that may have decided it was changed or has ended since.
///
/// # Errors
/// The ledger cannot be read.
pub(super) fn last_plan(
    db: &Db,
    user_id: Uuid,
    (local, ended): (Option<&SubscriptionRow>, Option<&EndedPurchase>),
    now: Timestamp,
) -> Result<Option<String>, Failure> {
    let sql = "select plan, started_at from ledger.requests where user_id = $1
               order by started_at desc limit 1";
    let Some(row) = db.query_one(sql, &[user_id.to_string().into()])? else {
        return Ok(None);
    };
    let at = Timestamp::from_millis(row.int(1)?);
    let until = local
        .and_then(|row| row.until)
        .filter(|until| *until <= now);
    let ends = [until, ended.map(|it| it.ended_at)];
    if ends.into_iter().flatten().any(|end| end > at) {
        return Ok(None);
    }
    let sql = "select at from ledger.audit
               where id >= $1 and user_id = $2 and at > $3 and action in ('plan', 'purchase') limit 1";
    let params = [
        id_before(at).into(),
        user_id.to_string().into(),
        at.millis().into(),
    ];
    let is_changed = db.query_one(sql, &params)?.is_some();
    (!is_changed).then(|| row.text(0)).transpose()
}
