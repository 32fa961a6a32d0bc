//! `[plans.*]` and `[prices.*]`: what may be used, and what it costs.
//!
//! Invariant: every model of a plan has a price and an upstream, and every limit is above zero.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::{Complaint, Findings, Noted, complaint};
use super::load::dollars;
use super::reader::Section;
use super::tree::{Node, Origin, Value, parse_value};
use super::{Dialect, UpstreamConfig};
use crate::model::{Effort, ModelTable};
use crate::plan::{Limit, Per, Plan, Plans, Unit};
use crate::price::{MicroUsd, Price, PriceEntry, PriceTable};
use crate::upstream;

/// The most tokens that anything may be capped to (2³¹ − 1).
pub(super) const TOKENS_MAX: u32 = 2_147_483_647;
/// The highest limit in requests or tokens.
const AMOUNT_MAX: i64 = 1_000_000_000_000;
/// The longest name of a plan or an upstream.
const NAME_BYTES_MAX: usize = 64;
/// What a plan has that says nothing of it: as the built-in one.
const OUTPUT_TOKENS: u32 = 1024;
const INPUT_TOKENS: u32 = 32_000;

/// Reads a name that stands in logs and answers: `[a-z0-9_-]{1,64}`.
pub(super) fn name(text: &str) -> Result<String, Complaint> {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_-".contains(letter);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(complaint(format!("`{text}` is not a plain name"), format!("use 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -")))
}

/// The names of all plans, for people.
pub(super) fn names(plans: &Plans) -> String {
    plans.by_name.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// `[plans.*]`
pub(super) fn plans(section: &Section<'_>, served: &Served<'_>) -> Result<Plans, Noted> {
    let mut by_name = BTreeMap::new();
    let mut defaults = Vec::new();
    let mut complete = true;
    for key in section.keys() {
        let Ok((plan, is_default)) = named_plan(key, section, served) else {
            complete = false;
            continue;
        };
        let plan = Arc::new(plan);
        if is_default {
            defaults.push(plan.clone());
        }
        by_name.insert(key.to_owned(), plan);
    }
    if !complete {
        return Err(Noted);
    }
    let [default] = defaults.as_slice() else {
        return Err(section.findings.error("plans", section.origin, one_default(&defaults)));
    };
    Ok(Plans { by_name, default: default.clone() })
}

/// A plan, and whether it is the default.
fn named_plan(key: &str, section: &Section<'_>, served: &Served<'_>) -> Result<(Plan, bool), Noted> {
    let valid = section.note(key, name(key));
    let plan = section.section(key)?;
    let is_default = plan.flag("default");
    let plan = read_plan(key, &plan, served)?;
    valid?;
    Ok((plan, is_default?))
}

fn one_default(defaults: &[Arc<Plan>]) -> Complaint {
    if defaults.is_empty() {
        let fix = "write default = true in the plan of callers who have no other, such as [plans.free]";
        return complaint("have no default plan", fix);
    }
    let names: Vec<&str> = defaults.iter().map(|plan| plan.name.as_str()).collect();
    let problem = format!("have {} default plans ({})", names.len(), names.join(", "));
    complaint(problem, "write default = true in exactly one")
}

/// What a model needs to be usable; `None` where that could not be read, so that it cannot be missed either.
pub(super) struct Served<'a> {
    pub(super) prices: Option<&'a PriceTable>,
    pub(super) upstreams: Option<&'a [Arc<UpstreamConfig>]>,
}

fn read_plan(name: &str, section: &Section<'_>, served: &Served<'_>) -> Result<Plan, Noted> {
    let models = models(section, served);
    let max_output_tokens = section.maybe_integer("max_output_tokens", 1..=TOKENS_MAX);
    let max_input_tokens = section.maybe_integer("max_input_tokens", 1..=TOKENS_MAX);
    let max_choices = section.maybe_integer("max_choices", 1..=128);
    let concurrent_requests = section.maybe_integer("concurrent_requests", 1..=1_000_000);
    let reasoning_effort_max = section.maybe("reasoning_effort_max", "none", effort);
    let limits = limits(section);
    section.finish();
    Ok(Plan {
        name: name.to_owned(),
        models: models?,
        max_output_tokens: max_output_tokens?.unwrap_or(OUTPUT_TOKENS),
        max_input_tokens: max_input_tokens?.unwrap_or(INPUT_TOKENS),
        max_choices: max_choices?.unwrap_or(1),
        concurrent_requests: concurrent_requests?,
        reasoning_effort_max: reasoning_effort_max?,
        limits: limits?,
    })
}

fn effort(text: &str) -> Result<Effort, Complaint> {
    super::load::choice(text, &Effort::ALL.map(|effort| (effort.as_str(), effort)))
}

/// What is known of models, where these upstreams answer: a shut down name goes on to its successor only where both are
/// OpenAI's own, and the successor has a price.
pub(super) fn models_at(prices: &PriceTable, upstreams: &[Arc<UpstreamConfig>]) -> ModelTable {
    let is_openai =
        |name: &str| upstream::route(upstreams, name).is_some_and(|to| to.manner.dialect == Dialect::Openai);
    ModelTable::shipped().with_successions(|name, successor| {
        is_openai(name) && is_openai(successor) && prices.models.contains_key(successor)
    })
}

/// The canonical names of a plan's models, each once, in order.
fn models(section: &Section<'_>, served: &Served<'_>) -> Result<Vec<String>, Noted> {
    let written = section.texts("models")?;
    if written.is_empty() {
        let fix = "list at least one, such as models = [\"gpt-6-luna\"]; the first is the default";
        return Err(section.wrong("models", complaint("is empty or missing", fix)));
    }
    let mut canonical = Vec::new();
    let mut complete = true;
    for model in &written {
        match section.note("models", served.model(model)) {
            Ok(name) if canonical.contains(&name) => {}
            Ok(name) => canonical.push(name),
            Err(Noted) => complete = false,
        }
    }
    if complete { Ok(canonical) } else { Err(Noted) }
}

impl Served<'_> {
    /// The canonical name of a model that has a price and an upstream.
    fn model(&self, model: &str) -> Result<String, Complaint> {
        let Some(prices) = self.prices else { return Ok(model.to_owned()) };
        let Some((canonical, _)) = prices.resolve(model) else {
            let fix =
                format!("add [prices.{model:?}] with input and output in US dollars a million tokens (or free = true)");
            return Err(complaint(format!("names `{model}`, which has no price"), fix));
        };
        let misses = |upstreams: &[Arc<UpstreamConfig>]| !upstreams.iter().any(|upstream| upstream.serves(canonical));
        if self.upstreams.is_some_and(misses) {
            let fix = format!("add it to the models of one of the [[upstreams]]: models = [{canonical:?}]");
            return Err(complaint(format!("names `{canonical}`, which no upstream serves"), fix));
        }
        Ok(canonical.to_owned())
    }
}

fn limits(section: &Section<'_>) -> Result<Vec<Limit>, Noted> {
    let mut limits = Vec::new();
    let mut taken = BTreeSet::new();
    let elements = section.elements("limits")?;
    let wanted = elements.len();
    if elements.is_empty() {
        let path = section.path_of("limits");
        section.findings.warn(format!("{path} is empty: only [ceiling] bounds what its users may spend"));
    }
    for (path, node) in &elements {
        let entry = Section::of(path.clone(), node, section.findings);
        let Ok(limit) = entry.and_then(|entry| read_limit(&entry)) else { continue };
        if !taken.insert((limit.per, limit.unit)) {
            let problem = format!("is a second limit of {} per {}", limit.unit.as_str(), limit.per.as_str());
            section.findings.error(path, &node.origin, complaint(problem, "keep one of the two"));
        }
        limits.push(limit);
    }
    if limits.len() == wanted { Ok(limits) } else { Err(Noted) }
}

/// The limits of one user, as `check_user_limits` answers them: a list in the shape of a plan's, read by the same rules.
///
/// # Errors
/// Everything that is wrong, for the log.
pub fn limits_of_answer(limits: &serde_json::Value) -> Result<Vec<Limit>, String> {
    let findings = Findings::default();
    let table = Value::Table([("limits".to_owned(), Node::of_json(limits))].into());
    let node = Node { value: table, origin: Origin::Default };
    let read = Section::of(String::new(), &node, &findings).and_then(|section| self::limits(&section));
    if let Err(errors) = findings.finish() {
        let told = errors.0.iter().map(|error| format!("{} {} ({})", error.key, error.problem, error.fix));
        return Err(told.collect::<Vec<_>>().join("; "));
    }
    read.map_err(|Noted| "limits cannot be read".to_owned())
}

/// `{ per = "day", requests = 50 }`: one window, one unit.
fn read_limit(section: &Section<'_>) -> Result<Limit, Noted> {
    let per = section.parsed("per", "day", per);
    let requests = section.maybe_integer("requests", 1..=AMOUNT_MAX);
    let tokens = section.maybe_integer("tokens", 1..=AMOUNT_MAX);
    let cost = section.maybe("cost_usd", "0.50", |text| dollars(text).map(|MicroUsd(micros)| micros));
    section.finish();
    let amounts = [(Unit::Requests, requests?), (Unit::Tokens, tokens?), (Unit::CostUsd, cost?)];
    let mut given = amounts.into_iter().filter_map(|(unit, amount)| Some((unit, amount?)));
    match (given.next(), given.next()) {
        (Some((unit, amount)), None) => Ok(Limit { per: per?, unit, amount }),
        (first, _) => {
            let problem = if first.is_none() { "limits nothing" } else { "limits more than one thing" };
            let fix = "write exactly one of requests, tokens and cost_usd, such as { per = \"day\", requests = 50 }";
            Err(section.findings.error(section.path(), section.origin, complaint(problem, fix)))
        }
    }
}

fn per(text: &str) -> Result<Per, Complaint> {
    let all = [Per::Minute, Per::Hour, Per::Day, Per::Month, Per::Period, Per::Lifetime];
    super::load::choice(text, &all.map(|per| (per.as_str(), per)))
}

/// The shipped table with `[prices.*]` over it.
pub(super) fn prices(section: &Section<'_>) -> Result<PriceTable, Noted> {
    let mut table = PriceTable::shipped();
    let mut complete = true;
    for key in section.keys() {
        match section.get(key).ok_or(Noted).and_then(|node| price(section, key, node, &table)) {
            Ok(price) => drop(table.models.insert(key.to_owned(), price)),
            Err(Noted) => complete = false,
        }
    }
    if complete { Ok(table) } else { Err(Noted) }
}

fn price(section: &Section<'_>, key: &str, node: &Node, shipped: &PriceTable) -> Result<Price, Noted> {
    let entry = section.note(key, deserialized(node))?.over(shipped.models.get(key));
    let fix = "write US dollars a million tokens in quotes: input = \"0.15\", output = \"0.60\"; or free = true";
    section.note(key, Price::try_from(entry).map_err(|problem| complaint(problem, fix)))
}

/// Reads a price by its own schema. Text from a variable becomes a TOML value where the schema does not take it as text.
fn deserialized(node: &Node) -> Result<PriceEntry, Complaint> {
    let mut as_values = BTreeSet::new();
    loop {
        let value = plain(node, "", &as_values);
        let error = match serde_path_to_error::deserialize(value) {
            Ok(entry) => return Ok(entry),
            Err(error) => error,
        };
        let path = error.path().to_string();
        if !as_values.insert(path.clone()) || !is_raw(node, &path) {
            let fix = "write US dollars in quotes, and no other keys than in the example file";
            let message = error.inner().message().trim().to_owned();
            return Err(complaint(format!("has a wrong `{path}` ({message})"), fix));
        }
    }
}

fn is_raw(node: &Node, path: &str) -> bool {
    let found = path.split('.').try_fold(node, |node, name| match &node.value {
        Value::Table(table) => table.get(name),
        _ => None,
    });
    found.is_some_and(|node| matches!(node.value, Value::Raw(_)))
}

/// A node as TOML without origins; what the schema of prices has no use for becomes text, and is refused by it.
fn plain(node: &Node, path: &str, as_values: &BTreeSet<String>) -> toml::Value {
    match &node.value {
        Value::Table(table) => {
            let entry = |(key, node): (&String, &Node)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                (key.clone(), plain(node, &path, as_values))
            };
            toml::Value::Table(table.iter().map(entry).collect())
        }
        Value::Array(items) => toml::Value::Array(items.iter().map(|item| plain(item, path, as_values)).collect()),
        Value::Raw(text) if as_values.contains(path) => match parse_value(text, &node.origin) {
            Ok(node) => plain(&node, path, as_values),
            Err(_) => toml::Value::String(text.clone()),
        },
        Value::Text(text) | Value::Raw(text) => toml::Value::String(text.clone()),
        Value::Integer(Some(number)) => toml::Value::Integer(*number),
        Value::Boolean(value) => toml::Value::Boolean(*value),
        // A float is told apart from text by its type: the schema then refuses it.
        Value::Float(digits) => digits.parse().map_or_else(|_| toml::Value::Boolean(false), toml::Value::Float),
        Value::Integer(None) | Value::Moment => toml::Value::Boolean(false),
    }
}
