//! The prompts that live on the server, and what they cost.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;

use super::sums::{GroupBy, UsageFilter};
use super::usage::{self, UsageRow};
use super::{Cursor, Slice};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::report::Reports;
use crate::prompt::{Prompt, Prompts};

/// A prompt, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptEntry {
    /// The last part of its path.
    pub name: String,
    /// The model that it goes to.
    pub model: String,
    /// Stands in the rows of its requests, as `prompt_version`.
    pub version: String,
    /// The variables of its text.
    pub variables: Vec<String>,
    /// The plans whose users may use it; null for all.
    pub plans: Option<Vec<String>>,
    /// Its output cap; null for the plan's.
    pub max_output_tokens: Option<u32>,
    /// Its text.
    pub system: String,
}

impl From<&Prompt> for PromptEntry {
    fn from(prompt: &Prompt) -> Self {
        let names = prompt.system.variables().into_iter();
        let plans = prompt.plans.as_ref();
        Self {
            name: prompt.name.clone(),
            model: prompt.model.clone(),
            version: prompt.version.clone(),
            variables: names.map(str::to_owned).collect(),
            plans: plans.map(|plans| plans.iter().cloned().collect()),
            max_output_tokens: prompt.max_output_tokens,
            system: prompt.system.text().to_owned(),
        }
    }
}

/// A prompt, and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptRow {
    /// The prompt.
    #[serde(flatten)]
    pub prompt: PromptEntry,
    /// Settled and lost requests.
    pub requests: i64,
    /// What they cost, in dollars with six places.
    pub cost_usd: String,
}

/// Every prompt, by name, with its use since a moment.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: &Reports,
    prompts: &Prompts,
    from: Timestamp,
) -> Result<Vec<PromptRow>, Failure> {
    let used = by_endpoint(reports, from)?;
    let row = |prompt: &Prompt| {
        let used = used.get(&format!("/api/prompts/{}", prompt.name));
        PromptRow {
            prompt: prompt.into(),
            requests: used.map_or(0, |row| row.requests),
            cost_usd: used.map_or_else(|| super::dollars(0), |row| row.cost_usd.clone()),
        }
    };
    Ok(prompts.values().map(|prompt| row(prompt)).collect())
}

fn by_endpoint(reports: &Reports, from: Timestamp) -> Result<HashMap<String, UsageRow>, Failure> {
    let filter = UsageFilter {
        by: GroupBy::Endpoint,
        from,
        until: Timestamp::MAX,
        user: None,
    };
    let mut rows = HashMap::new();
    let mut after = None;
    loop {
        let slice = Slice::new(Some(Slice::MAX), after);
        let page = usage::list(reports, filter, &TimeZone::UTC, &slice)?;
        rows.extend(page.rows.into_iter().map(|row| (row.key.clone(), row)));
        after = page.next.as_deref().and_then(Cursor::parse);
        if after.is_none() {
            return Ok(rows);
        }
    }
}
