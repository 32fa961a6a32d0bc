//! Every name that apps may ask for: what answers for it, what that costs, when it ends, and what was spent on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::dollars;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::{Reports, id_before};
use crate::price::{Price, Rate};

/// How far back spending is summed up.
const SPENT_WITHIN: Duration = Duration::from_hours(30 * 24);

/// A name that a plan has, or that `[models]` has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedModel {
    /// What apps ask for.
    pub name: String,
    /// What may answer, in order: the first that serves the endpoint does.
    pub candidates: Vec<CandidateModel>,
    /// Fields that are sent whatever the app says, as JSON; null where there are none.
    #[schema(value_type = Option<Object>)]
    pub set: Option<serde_json::Value>,
    /// Fields that are sent where the app says nothing, as JSON; null where there are none.
    #[schema(value_type = Option<Object>)]
    pub defaults: Option<serde_json::Value>,
    /// The plans that have it.
    pub plans: Vec<String>,
    /// Settled and lost requests for it in the last 30 days; null where there is no ledger yet.
    pub requests: Option<i64>,
    /// What they cost: dollars with six places.
    pub cost_usd: Option<String>,
}

/// A model that may answer for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CandidateModel {
    /// Its own name.
    pub model: String,
    /// What answers in its place now that it is shut down; null while it answers itself.
    pub answered_by: Option<String>,
    /// The upstream that serves what answers.
    pub upstream: Option<String>,
    /// Dollars for a million prompt tokens, with six places, of what answers.
    pub input_usd: String,
    /// The same for prompt tokens read from a cache.
    pub cached_input_usd: String,
    /// The same for generated tokens.
    pub output_usd: String,
    /// The last day (UTC) on which its provider serves it; null where none is known.
    pub last_day: Option<String>,
    /// What takes its place then; null where nothing does.
    pub successor: Option<String>,
}

/// Every name, with what was spent on it if there is a ledger.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: Option<&Reports>,
    config: &Config,
    now: Timestamp,
) -> Result<Vec<NamedModel>, Failure> {
    let spent = reports
        .map(|reports| spent_by_name(reports, config, now.minus(SPENT_WITHIN)))
        .transpose()?;
    let named = |(name, plans): (&str, BTreeSet<&str>)| {
        let (requests, cost) = spent
            .as_ref()
            .map(|spent| spent.get(name).copied().unwrap_or_default())
            .unzip();
        let alias = config.models.alias(name);
        let json = |fields: Option<&String>| serde_json::from_str(fields?).ok();
        NamedModel {
            name: name.to_owned(),
            candidates: config
                .models
                .candidates(name)
                .map(|model| candidate(config, model, now))
                .collect(),
            set: json(alias.and_then(|alias| alias.set.as_ref())),
            defaults: json(alias.and_then(|alias| alias.defaults.as_ref())),
            plans: plans.into_iter().map(str::to_owned).collect(),
            requests,
            cost_usd: cost.map(dollars),
        }
    };
    Ok(names(config).into_iter().map(named).collect())
}

/// Every name of a plan and every name of the operator's, with the plans that have it.
fn names(config: &Config) -> BTreeMap<&str, BTreeSet<&str>> {
    let made = config.models.aliases().keys();
    let mut names: BTreeMap<&str, BTreeSet<&str>> =
        made.map(|name| (name.as_str(), BTreeSet::new())).collect();
    for plan in config.plans.by_name.values() {
        for entry in &plan.models {
            names.entry(entry).or_default().insert(&plan.name);
        }
    }
    names
}

fn candidate(config: &Config, model: &str, now: Timestamp) -> CandidateModel {
    let answers = config.models.living(model, now);
    let end = config.models.get(model).and_then(crate::model::Model::end);
    let successor = end.map(|(_, gone_from)| config.models.living(model, gone_from));
    let upstream = config.upstreams.iter().find(|to| to.serves(answers));
    let price = config.prices.resolve(answers).map(|(_, price)| price);
    let dollars_of = |rate: fn(&Price) -> Rate| {
        let Rate(micros) = price.map(rate).unwrap_or_default();
        dollars(i64::try_from(micros).unwrap_or(i64::MAX))
    };
    CandidateModel {
        model: model.to_owned(),
        answered_by: (answers != model).then(|| answers.to_owned()),
        upstream: upstream.map(|upstream| upstream.name.clone()),
        input_usd: dollars_of(|price| price.rates.input),
        cached_input_usd: dollars_of(|price| price.rates.cached_input),
        output_usd: dollars_of(|price| price.rates.output),
        last_day: end.map(|(day, _)| day.to_string()),
        successor: successor
            .filter(|successor| *successor != model)
            .map(str::to_owned),
    }
}

/// Requests and micro-dollars by the entry of a plan that a request asked for, in whatever form.
fn spent_by_name(
    reports: &Reports,
    config: &Config,
    from: Timestamp,
) -> Result<BTreeMap<String, (i64, i64)>, Failure> {
    let sql = "select coalesce(requested_model, model) as name, cast(count(*) as bigint),
                      cast(coalesce(sum(cost_micros), 0) as bigint)
               from ledger.requests
               where id >= $1 and started_at >= $2 and state in ('settled', 'lost')
               group by coalesce(requested_model, model)";
    let params = [id_before(from).into(), from.millis().into()];
    let mut spent: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for row in reports.db().query(sql, &params)? {
        let (name, requests, cost) = read(&row)?;
        let entry = config.prices.entry(&name, &config.models);
        let (all, sum) = spent.entry(entry.unwrap_or(&name).to_owned()).or_default();
        *all = all.saturating_add(requests);
        *sum = sum.saturating_add(cost);
    }
    Ok(spent)
}

fn read(row: &Row) -> Result<(String, i64, i64), Failure> {
    Ok((row.text(0)?, row.int(1)?, row.int(2)?))
}
