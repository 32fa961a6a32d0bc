//! Which model a request is for, the same for every endpoint.

use super::Terms;
use super::field_error::tidy;
use crate::error::{Code, Refusal};
use crate::model::{Alias, Capability, Model};
use crate::price::Price;

/// How many model names a refusal lists.
const LISTED_MODELS_MAX: usize = 20;

/// A model that the caller may use.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    /// Its canonical name.
    pub(super) name: &'a str,
    pub(super) price: &'a Price,
    /// What else is known of it.
    pub(super) known: Option<&'a Model>,
    /// The operator's name that it answers for, and what goes with that.
    pub(super) alias: Option<&'a Alias>,
    /// The name that was asked for, where it is another: the operator's, a dated form, or one that its provider shut down.
    pub(super) requested: Option<String>,
    /// The entry of the plan that allows it, where that has another name.
    pub(super) entry: Option<String>,
}

impl Choice<'_> {
    /// The model, as an order has it.
    pub(super) fn into_ordered(self) -> OrderedModel {
        OrderedModel {
            name: self.name.to_owned(),
            requested: self.requested,
            entry: self.entry,
            price: self.price.clone(),
        }
    }
}

/// The model that an order is for.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderedModel {
    /// Its canonical name: it has a price, is in the plan and serves the endpoint.
    pub(super) name: String,
    /// The name that was asked for, where it is another.
    pub(super) requested: Option<String>,
    /// The entry of the plan that allows it, where that has another name.
    pub(super) entry: Option<String>,
    /// What it costs.
    pub(super) price: Price,
}

/// The model that answers for the name that was asked for, or else for the plan's first that serves the endpoint.
///
/// # Errors
/// `model_not_allowed`: it is not in the plan, or does not serve this endpoint, or none of the plan's does.
pub(super) fn choose<'a>(
    asked: Option<&str>,
    terms: &Terms<'a>,
    needed: Capability,
) -> Result<Choice<'a>, Refusal> {
    let entries = &terms.plan.models;
    let candidate = |entry: &'a str| {
        let mut candidates = terms.models.candidates(entry);
        candidates.find(|model| may_answer(model, terms, needed))
    };
    let name = match asked {
        Some(name) => name,
        None => entries
            .iter()
            .find(|entry| candidate(entry).is_some())
            .ok_or_else(|| none_serves(needed))?,
    };
    let refuse = |why: &str| {
        let serving = entries.iter().filter(|entry| candidate(entry).is_some());
        not_allowed(name, why, serving)
    };
    let entry = terms
        .prices
        .entry(name, terms.models)
        .filter(|entry| entries.iter().any(|allowed| allowed == entry))
        .ok_or_else(|| refuse("is not in this plan"))?;
    let model =
        candidate(entry).ok_or_else(|| refuse(&format!("does not serve {}", needed.as_str())))?;
    choice((name, entry, model), terms).ok_or_else(|| refuse("has no price"))
}

/// The model that answers for a prompt, which need not be in the caller's plan.
///
/// # Errors
/// None does. The settings are checked for that.
pub(super) fn of_prompt<'a>(
    name: &str,
    terms: &Terms<'a>,
    needed: Capability,
) -> Result<Choice<'a>, Refusal> {
    let may = |model: &&str| may_answer(model, terms, needed);
    let found = terms.prices.entry(name, terms.models).and_then(|entry| {
        let model = terms.models.candidates(entry).find(may)?;
        choice((name, entry, model), terms)
    });
    let message = "No provider serves the model of this prompt right now.";
    found.ok_or_else(|| Refusal::new(Code::UpstreamUnavailable, message))
}

/// Whether a candidate serves the endpoint, and is the one that is to answer.
fn may_answer(model: &str, terms: &Terms<'_>, needed: Capability) -> bool {
    terms.candidate.is_none_or(|candidate| candidate == model) && terms.models.serves(model, needed)
}

/// A model that answers for an entry and a name. One that its provider shut down is answered, and paid, as its successor.
fn choice<'a>(
    (name, entry, model): (&str, &'a str, &'a str),
    terms: &Terms<'a>,
) -> Option<Choice<'a>> {
    let (model, price) = terms.answering(model)?;
    Some(Choice {
        name: model,
        price,
        known: terms.models.get(model),
        alias: terms.models.alias(entry),
        requested: other_name(name, model),
        entry: other_name(entry, model),
    })
}

fn other_name(asked: &str, chosen: &str) -> Option<String> {
    (asked != chosen).then(|| asked.to_owned())
}

fn none_serves(needed: Capability) -> Refusal {
    let message = format!("No model of this plan serves {}.", needed.as_str());
    Refusal::new(Code::ModelNotAllowed, message).at("model")
}

fn not_allowed<'a>(name: &str, why: &str, models: impl Iterator<Item = &'a String>) -> Refusal {
    let mut listed: Vec<&str> = models
        .take(LISTED_MODELS_MAX.saturating_add(1))
        .map(String::as_str)
        .collect();
    let more = if listed.len() > LISTED_MODELS_MAX {
        ", and others"
    } else {
        ""
    };
    listed.truncate(LISTED_MODELS_MAX);
    let message = format!(
        "The model `{}` {why}. It has: {}{more}.",
        tidy(name, 64),
        listed.join(", ")
    );
    Refusal::new(Code::ModelNotAllowed, message).at("model")
}
