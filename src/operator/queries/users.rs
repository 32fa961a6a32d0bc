//! Users: the list, one user, and what the operator gives and takes.

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::grants::{self, GrantRow};
use super::plan_reasons::{DatabaseWord, PlanReasons, ended_purchase, last_plan};
use super::{Cursor, Page, Slice, dollars, dollars_at, time_at, today_and_month};

use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::read::connection::{Db, Row};
use crate::ledger::read::report::{By, Desk, Reports, SubscriptionRow, id_before, said_of};
use crate::ledger::users::{find, has_requests};
use crate::ledger::{Failure, limit_states};
use crate::plan::{
    Amount, Credit, CreditBalanceRow, EffectivePlan, LimitRow, LimitState, Per, Period,
    PlanSources, Unit, plan_for, resets_at, window,
};

/// How users are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// What they spent this month, the most first.
    #[default]
    Spend,
    /// Their last request, the newest first.
    Recent,
}

/// A user in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserRow {
    /// The user's id.
    pub id: String,
    /// The plan that the operator gave, else that of the last request, else the default.
    pub plan: String,
    /// The operator blocked this user.
    pub blocked: bool,
    /// Settled and lost requests of today.
    pub requests_today: i64,
    /// What they cost: dollars with six places.
    pub cost_usd_today: String,
    /// What this month's cost.
    pub cost_usd_month: String,
    /// When the last request was held; null if there was none.
    pub last_request_at: Option<String>,
    #[serde(skip)]
    score: i64,
}

/// Everybody who ever made a request, or of whom the operator said anything. `search` is the beginning of an id.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: &Reports,
    config: &Config,
    (search, sort): (&str, Sort),
    slice: &Slice,
    now: Timestamp,
) -> Result<Page<UserRow>, Failure> {
    let (today, month) = today_and_month(now, &config.server.time_zone);
    let (score, id) = slice.after(i64::MAX);
    let search = search.to_ascii_lowercase();
    let params = [
        search.clone().into(),
        // After every id that begins so.
        format!("{search}~").into(),
        id_before(month).into(),
        month.millis().into(),
        today.millis().into(),
        now.millis().into(),
        score.into(),
        id.into(),
        slice.asked().into(),
    ];
    let rows = reports.db().query(&list_sql(sort), &params)?;
    let user = |row: &Row| {
        let (given, last) = (row.maybe_text(2)?, row.maybe_text(4)?);
        let default = || config.plans.default.name.clone();
        Ok(UserRow {
            id: row.text(0)?,
            plan: given
                .or(last)
                .filter(|name| config.plans.by_name.contains_key(name))
                .unwrap_or_else(default),
            blocked: row.maybe_int(3)?.unwrap_or(0) != 0,
            requests_today: row.int(6)?,
            cost_usd_today: dollars_at(row, 7)?,
            cost_usd_month: dollars_at(row, 8)?,
            last_request_at: time_at(row, 5)?,
            score: row.int(1)?,
        })
    };
    let rows = rows.iter().map(user).collect::<Result<Vec<_>, Failure>>()?;
    Ok(slice.page(rows, |row| Cursor {
        score: row.score,
        key: row.id.clone(),
    }))
}

/// Everybody is ranked first; what a page shows is looked up for its users only, by their index.
fn list_sql(sort: Sort) -> String {
    let scores = match sort {
        Sort::Spend => {
            "select people.id, coalesce(sums.score, 0) as score from people left join
                (select user_id, cast(sum(cost_micros) as bigint) as score from ledger.requests
                 where id >= $3 and started_at >= $4 group by user_id) as sums on sums.user_id = people.id"
        }
        Sort::Recent => {
            "select people.id, coalesce((select max(started_at) from ledger.requests as r
                                         where r.user_id = people.id), 0) as score from people"
        }
    };
    let charged =
        "from ledger.requests as r where r.user_id = page.id and r.state in ('settled', 'lost')";
    format!(
        "with people as (
             select user_id as id from ledger.windows
             where per = 'lifetime' and user_id <> 'app' and user_id >= $1 and user_id < $2
             union select user_id from ledger.subscriptions where user_id >= $1 and user_id < $2
             union select user_id from ledger.credits where user_id >= $1 and user_id < $2
             union select user_id from ledger.grants
                   where user_id >= $1 and user_id < $2 and user_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
         scores as ({scores}),
         page as (select id, score from scores where score < $7 or (score = $7 and id > $8)
                  order by score desc, id limit $9)
         select page.id, page.score,
             (select s.plan from ledger.subscriptions as s
              where s.user_id = page.id and (s.until is null or s.until > $6)),
             (select s.blocked from ledger.subscriptions as s where s.user_id = page.id),
             (select r.plan from ledger.requests as r where r.user_id = page.id order by r.started_at desc limit 1),
             (select max(r.started_at) from ledger.requests as r where r.user_id = page.id),
             (select cast(count(*) as bigint) {charged} and r.started_at >= $5),
             (select cast(sum(r.cost_micros) as bigint) {charged} and r.started_at >= $5),
             (select cast(sum(r.cost_micros) as bigint) {charged} and r.started_at >= $4)
         from page order by page.score desc, page.id"
    )
}

/// One user.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserPage {
    /// Who, and by which plan.
    pub user: UserHead,
    /// As in `/api/me`.
    #[schema(value_type = Vec<LimitRow>)]
    pub limits: Vec<Value>,
    /// Open requests.
    pub concurrent: OpenRequests,
    /// Limits that were raised once, in windows that are current.
    pub credits: Vec<CreditRow>,
    /// Dollars that the user owns beside the plan, as in `/api/me`; null where there are none.
    pub credit_balance: Option<CreditBalanceRow>,
    /// What the user was given of them, the newest first.
    pub grants: Vec<GrantRow>,
    /// This month.
    pub month: Month,
    #[serde(skip)]
    states: Vec<LimitState>,
}

impl UserPage {
    /// Every limit and how much of it is used.
    #[must_use]
    pub fn states(&self) -> &[LimitState] {
        &self.states
    }
}

/// Who, and by which plan.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserHead {
    /// The user's id.
    pub id: Uuid,
    /// Of whom the user is; null for users of the Supabase project.
    pub issuer: Option<String>,
    /// What that issuer calls the user.
    pub subject: Option<String>,
    /// The plan that the operator gave, else that of the last request, else the default.
    pub plan: String,
    /// Where that is known from: `local`, `purchase`, `last_request` or `default`; for the command line, which asks it, also
    /// `database`.
    pub plan_source: &'static str,
    /// The operator's plan counts up to here; null for good.
    pub plan_until: Option<String>,
    /// The operator blocked this user.
    pub blocked: bool,
    /// Why the user has this plan, and which they would have otherwise.
    pub why: String,
}

/// Open requests of one user.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Concurrent)]
pub struct OpenRequests {
    /// How many the plan allows; null for no bound.
    pub limit: Option<u32>,
    /// How many are open.
    pub open: i64,
}

/// A credit as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CreditRow {
    /// The kind of window.
    pub per: &'static str,
    /// What the limit counts.
    pub unit: &'static str,
    /// How much more of it: dollars as a decimal string, others as a number.
    #[schema(value_type = Amount)]
    pub amount: Value,
    /// When its window ends; null where that is never, or not known here.
    pub until: Option<String>,
}

/// One user's month so far.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Month {
    /// Settled and lost requests.
    pub requests: i64,
    /// Dollars with six places.
    pub cost_usd: String,
}

/// What one user has. (What the developer's database or a token would say is not known here: the plan of the last
/// request stands for it.)
///
/// # Errors
/// The ledger cannot be read.
pub fn user(
    reports: &Reports,
    config: &Config,
    user_id: Uuid,
    now: Timestamp,
) -> Result<UserPage, Failure> {
    user_by(reports, config, (user_id, &DatabaseWord::NotAsked), now)
}

/// The same, with what the developer's database says.
///
/// # Errors
/// The ledger cannot be read.
pub fn user_by(
    reports: &Reports,
    config: &Config,
    (user_id, database): (Uuid, &DatabaseWord),
    now: Timestamp,
) -> Result<UserPage, Failure> {
    let zone = &config.server.time_zone;
    let said = reports.said_of(user_id, now)?;
    let blocked = said.is_blocked();
    let local = said.subscription_at(now);
    let given = local.as_ref().is_some_and(|row| row.plan.is_some());
    let live = config.products.live(&said.purchases, &config.plans, now);
    let ended = ended_purchase(reports.db(), config, user_id, now)?;
    let claim = if given || !live.is_empty() {
        None
    } else {
        let sources = (said.subscription.as_ref(), ended.as_ref());
        last_plan(reports.db(), user_id, sources, now)?
    };
    let until = said
        .subscription
        .and_then(|row| row.until)
        .filter(|until| given && now < *until);
    let given = local.as_ref().and_then(|row| row.plan.clone());
    let reasons = PlanReasons {
        database,
        given: given.map(|plan| (plan, until)),
        live: &live,
        ended: ended.as_ref(),
        last: claim.as_deref(),
    };
    let why = reasons.text(config);
    let looked = PlanSources {
        database: database.answer().cloned(),
        local,
        claim,
        purchase: live.first().map(|live| (live.clone(), now)),
        credits: said.credits,
        ..PlanSources::default()
    };
    let granted = plan_for(&looked, &config.plans);
    let limits = granted.limits_at(now, zone);
    let counters: Vec<_> = limits
        .iter()
        .map(|(limit, window)| limit.counter(*window))
        .collect();
    let standing = reports.standing(user_id, now, &counters)?;
    let states = limit_states(&limits, &standing.windows);
    let plan_source = match granted.source.as_str() {
        "claim" => "last_request",
        other => other,
    };
    let known = find(reports.db(), &user_id.to_string())?
        .into_iter()
        .find(|it| it.user_id == user_id);
    Ok(UserPage {
        user: UserHead {
            id: user_id,
            issuer: known.as_ref().map(|it| it.issuer.clone()),
            subject: known.map(|it| it.subject),
            plan: granted.plan.name.clone(),
            plan_source,
            plan_until: until.map(Timestamp::rfc3339),
            blocked,
            why,
        },
        limits: states
            .iter()
            .map(|state| json!(LimitRow::of(state)))
            .collect(),
        concurrent: OpenRequests {
            limit: granted.plan.concurrent_requests,
            open: standing.open,
        },
        credits: credits(&granted, now, zone),
        credit_balance: standing.credits.as_ref().map(CreditBalanceRow::of),
        grants: grants::of_user(reports.db(), user_id, now)?,
        month: month(reports.db(), user_id, today_and_month(now, zone).1)?,
        states,
    })
}

/// Who is meant by an id, or by what another issuer calls a user. Several where two issuers call two users the same.
///
/// # Errors
/// The ledger cannot be read.
pub fn named(reports: &Reports, name: &str) -> Result<Vec<Uuid>, Failure> {
    let found: Vec<Uuid> = find(reports.db(), name)?
        .iter()
        .map(|it| it.user_id)
        .collect();
    let Ok(id) = name.parse::<Uuid>() else {
        return Ok(found);
    };
    // An issuer may call its users by UUIDs, and the project may have a user of that id.
    if found.is_empty() || found.contains(&id) || has_requests(reports.db(), id)? {
        return Ok(vec![id]);
    }
    Ok(found)
}

fn month(db: &Db, user_id: Uuid, since: Timestamp) -> Result<Month, Failure> {
    let sql =
        "select cast(count(*) as bigint), cast(sum(cost_micros) as bigint) from ledger.requests
               where user_id = $1 and started_at >= $2 and state in ('settled', 'lost')";
    let row = db.query_one(sql, &[user_id.to_string().into(), since.millis().into()])?;
    let row = row.ok_or_else(|| Failure::new("the ledger gives no answer".to_owned()))?;
    Ok(Month {
        requests: row.int(0)?,
        cost_usd: dollars(row.maybe_int(1)?.unwrap_or(0)),
    })
}

/// Those of the windows that are current.
fn credits(granted: &EffectivePlan, now: Timestamp, zone: &TimeZone) -> Vec<CreditRow> {
    let in_force = |credit: &&Credit| {
        let current = window(credit.per, now, zone, granted.period);
        current.start <= credit.given_at && credit.given_at < current.end
    };
    granted
        .credits
        .iter()
        .filter(in_force)
        .map(|credit| credit_row(credit, zone, granted.period))
        .collect()
}

fn credit_row(credit: &Credit, zone: &TimeZone, period: Option<Period>) -> CreditRow {
    let window = window(credit.per, credit.given_at, zone, period);
    // Without a period of the operator's own, the developer's database decides when one ends.
    let is_known = credit.per != Per::Period || period.is_some();
    let until = resets_at(&window)
        .as_str()
        .filter(|_| is_known)
        .map(str::to_owned);
    CreditRow {
        per: credit.per.as_str(),
        unit: credit.unit.as_str(),
        amount: json!(Amount::of(credit.unit, credit.amount)),
        until,
    }
}

/// Gives a user a plan (until a moment, or for good; with a period for `period` limits), or takes it back where `row`
/// has none. A block stays as it is.
///
/// # Errors
/// The ledger cannot be written.
pub fn set_plan(
    desk: &Desk,
    user_id: Uuid,
    row: &SubscriptionRow,
    by: By<'_>,
) -> Result<(), Failure> {
    desk.change(by, ("plan", Some(user_id)), |db| {
        let before = said_of(db, user_id, by.at)?.subscription.unwrap_or_default();
        db.query(
            "insert into ledger.subscriptions (user_id, plan, until, period_start, period_end, updated_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (user_id) do update set plan = excluded.plan, until = excluded.until,
                 period_start = excluded.period_start, period_end = excluded.period_end,
                 updated_at = excluded.updated_at",
            &[
                user_id.to_string().into(),
                row.plan.clone().into(),
                row.until.map(Timestamp::millis).into(),
                row.period.map(|period| period.start.millis()).into(),
                row.period.map(|period| period.end.millis()).into(),
                by.at.millis().into(),
            ],
        )?;
        Ok(((), Some(json!({ "before": plan_json(&before), "after": plan_json(row) }))))
    })
}

fn plan_json(row: &SubscriptionRow) -> Value {
    json!({ "plan": row.plan, "until": row.until.map(Timestamp::rfc3339) })
}

/// Blocks a user, or lifts the block.
///
/// # Errors
/// The ledger cannot be written.
pub fn set_blocked(desk: &Desk, user_id: Uuid, blocked: bool, by: By<'_>) -> Result<(), Failure> {
    let action = if blocked { "block" } else { "unblock" };
    desk.change(by, (action, Some(user_id)), |db| {
        let before = said_of(db, user_id, by.at)?.is_blocked();
        db.query(
            "insert into ledger.subscriptions (user_id, blocked, updated_at) values ($1, $2, $3)
             on conflict (user_id) do update set blocked = excluded.blocked, updated_at = excluded.updated_at",
            &[user_id.to_string().into(), i64::from(blocked).into(), by.at.millis().into()],
        )?;
        Ok(((), Some(json!({ "before": { "blocked": before }, "after": { "blocked": blocked } }))))
    })
}

/// Raises a limit of a user once: in the window that is current now, and in no other.
///
/// # Errors
/// The ledger cannot be written.
pub fn raise(
    desk: &Desk,
    user_id: Uuid,
    (per, unit, amount): (Per, Unit, i64),
    zone: &TimeZone,
    by: By<'_>,
) -> Result<CreditRow, Failure> {
    desk.change(by, ("credit", Some(user_id)), |db| {
        let period = said_of(db, user_id, by.at)?
            .subscription_at(by.at)
            .and_then(|row| row.period);
        let credit = Credit {
            per,
            unit,
            amount,
            given_at: by.at,
        };
        let row = credit_row(&credit, zone, period);
        // A period may be the developer's database's own, and end at any time.
        let ends = if per == Per::Period {
            Timestamp::MAX
        } else {
            window(per, by.at, zone, None).end
        };
        db.query(
            "insert into ledger.credits (id, user_id, per, unit, amount, given_at, counts_until)
             values ($1, $2, $3, $4, $5, $6, $7)",
            &[
                Uuid::now_v7().to_string().into(),
                user_id.to_string().into(),
                per.as_str().into(),
                unit.as_str().into(),
                amount.into(),
                by.at.millis().into(),
                ends.millis().into(),
            ],
        )?;
        let detail = json!(row);
        Ok((row, Some(detail)))
    })
}
