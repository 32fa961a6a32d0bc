//! Which models of the plans and the prompts are shut down soon, and what takes their place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::Config;
use crate::clock::Timestamp;

/// So far ahead the end of a model is told.
pub const TOLD_AHEAD: Duration = Duration::from_hours(60 * 24);

/// A model of some plan or prompt that is shut down soon, or was and nothing takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelEnd {
    /// Its own name.
    pub model: String,
    /// The last day (UTC) on which its provider serves it.
    #[schema(format = Date)]
    pub last_day: String,
    /// Days until then; negative after it.
    pub days_left: i64,
    /// The model that answers from the next day on; null: requests for it fail.
    pub successor: Option<String>,
    /// The plans that have it, under whatever name.
    pub plans: Vec<String>,
    /// The prompts on the server that ask for it.
    pub prompts: Vec<String>,
}

impl ModelEnd {
    /// Who asks for it: the plans, and `prompt/NAME` for each prompt.
    pub fn users(&self) -> impl Iterator<Item = String> {
        let prompts = self.prompts.iter().map(|prompt| format!("prompt/{prompt}"));
        self.plans.iter().cloned().chain(prompts)
    }
}

/// Who asks for a model.
#[derive(Debug, Default)]
struct Users<'a> {
    plans: BTreeSet<&'a str>,
    prompts: BTreeSet<&'a str>,
}

impl fmt::Display for ModelEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, day) = (&self.model, &self.last_day);
        let users = self.users().collect::<Vec<_>>().join(", ");
        let when = match self.days_left {
            ..0 => format!("was shut down on {day}"),
            0 => "is shut down today".to_owned(),
            1 => format!("is shut down on {day}, tomorrow"),
            days => format!("is shut down on {day}, in {days} days"),
        };
        write!(out, "{model} ({users}) {when}: ")?;
        match &self.successor {
            Some(successor) => write!(out, "{successor} takes its place, at its own price"),
            None => write!(
                out,
                "nothing takes its place; name another under [models.{model:?}] use = […]"
            ),
        }
    }
}

impl Config {
    /// The models of all plans and prompts that end within [`TOLD_AHEAD`], and those that have ended without a successor; the
    /// nearest end first.
    #[must_use]
    pub fn model_ends(&self, now: Timestamp) -> Vec<ModelEnd> {
        let mut ends: Vec<ModelEnd> = self
            .users_by_model()
            .into_iter()
            .filter_map(|(model, users)| self.model_end(model, &users, now))
            .collect();
        ends.sort_by(|one, other| {
            (&one.last_day, &one.model).cmp(&(&other.last_day, &other.model))
        });
        ends
    }

    /// Every model that a plan or a prompt may lead to.
    fn users_by_model(&self) -> BTreeMap<&str, Users<'_>> {
        let mut users_by_model: BTreeMap<&str, Users<'_>> = BTreeMap::new();
        for plan in self.plans.by_name.values() {
            let entries = plan.models.iter();
            for model in entries.flat_map(|entry| self.models.candidates(entry)) {
                let users = users_by_model.entry(model).or_default();
                users.plans.insert(&plan.name);
            }
        }
        for prompt in self.prompts.values() {
            for model in self.models.candidates(&prompt.model) {
                let users = users_by_model.entry(model).or_default();
                users.prompts.insert(&prompt.name);
            }
        }
        users_by_model
    }

    fn model_end(&self, model: &str, users: &Users<'_>, now: Timestamp) -> Option<ModelEnd> {
        let (last_day, gone_from) = self.models.get(model)?.end()?;
        let days_left = days_between(now, gone_from);
        let successor = self.models.living(model, gone_from);
        let successor = (successor != model).then(|| successor.to_owned());
        let is_near = gone_from <= now.plus(TOLD_AHEAD);
        let is_told = is_near && (days_left >= 0 || successor.is_none());
        is_told.then(|| ModelEnd {
            model: model.to_owned(),
            last_day: last_day.to_string(),
            days_left,
            successor,
            plans: names(&users.plans),
            prompts: names(&users.prompts),
        })
    }
}

fn names(set: &BTreeSet<&str>) -> Vec<String> {
    set.iter().copied().map(str::to_owned).collect()
}

/// Whole days from one moment to another: 0 on the last day, negative after it.
fn days_between(now: Timestamp, gone_from: Timestamp) -> i64 {
    const DAY_MS: i64 = 86_400_000;
    let left = gone_from.millis().saturating_sub(now.millis());
    left.saturating_sub(1).div_euclid(DAY_MS)
}
