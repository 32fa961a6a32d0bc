//! `[plans.*]`: which models a user may use, and up to which limits.
//!
//! Invariant: every model of a plan has a price and an upstream, and every limit is above zero.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::{Findings, Invalid, Problem};
use super::models::ServedModels;
use super::reader::Section;
use super::tree::{Node, Origin, Value};
use super::values::dollars;
use crate::endpoint::moderations::DEFAULT_MODEL;
use crate::model::Effort;
use crate::plan::{ImageCaps, ImageQuality, ImageSize, Limit, Per, Plan, Plans, Unit};
use crate::price::MicroUsd;

/// The most tokens that anything may be capped to (2³¹ − 1).
pub(super) const TOKENS_MAX: u32 = 2_147_483_647;
/// The highest limit in requests or tokens.
const AMOUNT_MAX: i64 = 1_000_000_000_000;
/// The most images that one request may be allowed. (OpenAI makes ten.)
const IMAGES_MAX: u32 = 10;
/// The longest audio that one request may be allowed, in seconds: a day.
const AUDIO_SECONDS_MAX: u32 = 86_400;
/// The longest name of a plan or an upstream.
const NAME_BYTES_MAX: usize = 64;
/// The highest rank of a plan.
pub(super) const RANK_MAX: u32 = 1_000_000;
/// The defaults of a plan, as in the built-in one.
const OUTPUT_TOKENS: u32 = 1024;
const INPUT_TOKENS: u32 = 32_000;
const AUDIO_SECONDS: u32 = 600;

/// Reads a name that appears in logs and answers: `[a-z0-9_-]{1,64}`.
pub(super) fn name(text: &str) -> Result<String, Problem> {
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "_-".contains(letter)
    };
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(Problem::new(
        format!("`{text}` is not a plain name"),
        format!("use 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -"),
    ))
}

/// The names of all plans, for people.
pub(super) fn names(plans: &Plans) -> String {
    plans.by_name.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// `[plans.*]`
pub(super) fn plans(section: &Section<'_>, served: &ServedModels<'_>) -> Result<Plans, Invalid> {
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
        return Err(Invalid);
    }
    for plan in by_name.values() {
        if let Some(name) = plan
            .attested
            .as_ref()
            .filter(|name| !by_name.contains_key(*name))
        {
            let known: Vec<&str> = by_name.keys().map(String::as_str).collect();
            let problem = Problem::new(
                format!("names the plan `{name}`, which there is not"),
                format!("name one of: {}", known.join(", ")),
            );
            return Err(section.section(&plan.name)?.wrong("attested", problem));
        }
    }
    let [default] = defaults.as_slice() else {
        return Err(section
            .findings
            .error("plans", section.origin, one_default(&defaults)));
    };
    Ok(Plans {
        by_name,
        default: default.clone(),
    })
}

/// The ranks of the plans that have one: which of two purchases decides. Errors are told where plans are read.
pub(super) fn ranks(section: &Section<'_>) -> Result<BTreeMap<String, u32>, Invalid> {
    let mut ranks = BTreeMap::new();
    for key in section.keys() {
        let plan = section.section(key)?;
        let rank = plan.get("rank").and_then(|node| match &node.value {
            Value::Integer(number) => number.and_then(|number| u32::try_from(number).ok()),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        });
        ranks.extend(rank.map(|rank| (key.to_owned(), rank)));
    }
    Ok(ranks)
}

/// A plan, and whether it is the default.
fn named_plan(
    key: &str,
    section: &Section<'_>,
    served: &ServedModels<'_>,
) -> Result<(Plan, bool), Invalid> {
    let valid = section.note(key, name(key));
    let plan = section.section(key)?;
    let is_default = plan.flag("default");
    let plan = read_plan(key, &plan, served)?;
    valid?;
    Ok((plan, is_default?))
}

fn one_default(defaults: &[Arc<Plan>]) -> Problem {
    if defaults.is_empty() {
        let fix =
            "write default = true in the plan of callers who have no other, such as [plans.free]";
        return Problem::new("have no default plan", fix);
    }
    let names: Vec<&str> = defaults.iter().map(|plan| plan.name.as_str()).collect();
    let problem = format!("have {} default plans ({})", names.len(), names.join(", "));
    Problem::new(problem, "write default = true in exactly one")
}

fn read_plan(
    name: &str,
    section: &Section<'_>,
    served: &ServedModels<'_>,
) -> Result<Plan, Invalid> {
    let models = models(section, served);
    let max_output_tokens = section.maybe_integer("max_output_tokens", 1..=TOKENS_MAX);
    let max_input_tokens = section.maybe_integer("max_input_tokens", 1..=TOKENS_MAX);
    let max_choices = section.maybe_integer("max_choices", 1..=128);
    let images = image_caps(section);
    let audio_seconds_max = section.maybe_integer("max_audio_seconds", 1..=AUDIO_SECONDS_MAX);
    let concurrent_requests = section.maybe_integer("concurrent_requests", 1..=1_000_000);
    let reasoning_effort_max = section.maybe("reasoning_effort_max", "none", effort);
    let moderates_input = section.maybe("moderate", "input", moderate);
    if let Ok(Some(true)) = moderates_input
        && !served.has_moderator()
    {
        let problem = Problem::new(
            "asks for moderation, and no upstream has a model for it",
            format!("add {DEFAULT_MODEL:?} to the models of an upstream that has it"),
        );
        section.wrong("moderate", problem);
    }
    let rank = section.maybe_integer("rank", 0..=RANK_MAX);
    let attested = section.maybe("attested", "free_plus", |name| Ok(name.to_owned()));
    let names = models
        .as_ref()
        .ok()
        .map(|models| LimitNames { models, served });
    let limits = limits(section, names);
    section.finish();
    rank?;
    Ok(Plan {
        name: name.to_owned(),
        models: models?,
        max_output_tokens: max_output_tokens?.unwrap_or(OUTPUT_TOKENS),
        max_input_tokens: max_input_tokens?.unwrap_or(INPUT_TOKENS),
        max_choices: max_choices?.unwrap_or(1),
        images: images?,
        audio_seconds_max: audio_seconds_max?.unwrap_or(AUDIO_SECONDS),
        concurrent_requests: concurrent_requests?,
        reasoning_effort_max: reasoning_effort_max?,
        moderates_input: moderates_input?.unwrap_or(false),
        attested: attested?,
        limits: limits?,
    })
}

fn image_caps(section: &Section<'_>) -> Result<ImageCaps, Invalid> {
    let default = ImageCaps::default();
    let most = section.maybe_integer("max_images", 1..=IMAGES_MAX);
    let size = section.maybe("max_image_size", "1024x1024", |text| {
        let fix = "write width and height in pixels, such as \"1024x1024\"";
        ImageSize::parse(text).ok_or_else(|| Problem::new(format!("`{text}` is no size"), fix))
    });
    let quality = section.maybe("max_image_quality", "medium", |text| {
        let words = ImageQuality::ALL.map(|quality| (quality.as_str(), quality));
        super::values::choice(text, &words)
    });
    Ok(ImageCaps {
        most: most?.unwrap_or(default.most),
        size: size?.unwrap_or(default.size),
        quality: quality?.unwrap_or(default.quality),
    })
}

/// Whether what a user says is checked.
fn moderate(text: &str) -> Result<bool, Problem> {
    super::values::choice(text, &[("input", true), ("none", false)])
}

fn effort(text: &str) -> Result<Effort, Problem> {
    super::values::choice(text, &Effort::ALL.map(|effort| (effort.as_str(), effort)))
}

/// The entries of a plan, each once, in order: names that the operator made, and canonical names of models.
fn models(section: &Section<'_>, served: &ServedModels<'_>) -> Result<Vec<String>, Invalid> {
    let written = section.texts("models")?;
    if written.is_empty() {
        let fix = "list at least one, such as models = [\"gpt-6-luna\"]; the first is the default";
        return Err(section.wrong("models", Problem::new("is empty or missing", fix)));
    }
    let mut canonical = Vec::new();
    let mut complete = true;
    for model in &written {
        match section.note("models", served.entry(model)) {
            Ok(name) if canonical.contains(&name) => {}
            Ok(name) => canonical.push(name),
            Err(Invalid) => complete = false,
        }
    }
    if complete {
        Ok(canonical)
    } else {
        Err(Invalid)
    }
}

/// The names that a limit of a plan may be for.
#[derive(Clone, Copy)]
struct LimitNames<'a> {
    models: &'a [String],
    served: &'a ServedModels<'a>,
}

impl LimitNames<'_> {
    /// The name in the plan.
    fn resolve(self, name: &str) -> Result<Arc<str>, Problem> {
        let is_in_plan = |entry: &String| self.models.contains(entry);
        let entry = self.served.entry(name).ok().filter(is_in_plan);
        let fix = || format!("name one of its models: {}", self.models.join(", "));
        entry.map(Arc::from).ok_or_else(|| {
            Problem::new(format!("is `{name}`, which this plan does not have"), fix())
        })
    }
}

/// The limits of a plan, or of one user, whose plan may not be known.
fn limits(section: &Section<'_>, names: Option<LimitNames<'_>>) -> Result<Vec<Limit>, Invalid> {
    let mut limits = Vec::new();
    let mut taken = BTreeSet::new();
    let elements = section.elements("limits")?;
    let wanted = elements.len();
    if elements.is_empty() {
        let path = section.path_of("limits");
        section.findings.warn(format!(
            "{path} is empty: only [ceiling] bounds what its users may spend"
        ));
    }
    for (path, node) in &elements {
        let entry = Section::of(path.clone(), node, section.findings);
        let Ok(limit) = entry.and_then(|entry| read_limit(&entry, names)) else {
            continue;
        };
        if !taken.insert((limit.per, limit.unit, limit.model.clone())) {
            let of_model = limit.model.as_ref();
            let problem = format!(
                "is a second limit of {} per {}{}",
                limit.unit.as_str(),
                limit.per.as_str(),
                of_model.map_or_else(String::new, |model| format!(" for `{model}`"))
            );
            section.findings.error(
                path,
                &node.origin,
                Problem::new(problem, "keep one of the two"),
            );
        }
        limits.push(limit);
    }
    if limits.len() == wanted {
        Ok(limits)
    } else {
        Err(Invalid)
    }
}

/// The limits of one user, as `check_user_limits` answers them: a list in the shape of a plan's, read by the same rules.
///
/// # Errors
/// Everything that is wrong, for the log.
pub fn limits_of_answer(limits: &serde_json::Value) -> Result<Vec<Limit>, String> {
    let findings = Findings::default();
    let table = Value::Table([("limits".to_owned(), Node::of_json(limits))].into());
    let node = Node {
        value: table,
        origin: Origin::Default,
    };
    let read = Section::of(String::new(), &node, &findings)
        .and_then(|section| self::limits(&section, None));
    if let Err(errors) = findings.finish() {
        let told = errors
            .0
            .iter()
            .map(|error| format!("{} {} ({})", error.key, error.problem, error.fix));
        return Err(told.collect::<Vec<_>>().join("; "));
    }
    read.map_err(|Invalid| "limits cannot be read".to_owned())
}

/// `{ per = "day", requests = 50 }`: one window, one unit, and perhaps one name of the plan.
fn read_limit(section: &Section<'_>, names: Option<LimitNames<'_>>) -> Result<Limit, Invalid> {
    let per = section.parsed("per", "day", per);
    let requests = section.maybe_integer("requests", 1..=AMOUNT_MAX);
    let tokens = section.maybe_integer("tokens", 1..=AMOUNT_MAX);
    let cost = section.maybe("cost_usd", "0.50", |text| {
        dollars(text).map(|MicroUsd(micros)| micros)
    });
    let images = section.maybe_integer("images", 1..=AMOUNT_MAX);
    let audio_seconds = section.maybe_integer("audio_seconds", 1..=AMOUNT_MAX);
    let characters = section.maybe_integer("characters", 1..=AMOUNT_MAX);
    let model = section.maybe("model", "gpt-6-sol", |name| match names {
        Some(names) => names.resolve(name),
        None if name.is_empty() => Err(Problem::new("is empty", "name a model of the plan")),
        None => Ok(name.into()),
    });
    section.finish();
    let amounts = [
        (Unit::Requests, requests?),
        (Unit::Tokens, tokens?),
        (Unit::CostUsd, cost?),
        (Unit::Images, images?),
        (Unit::AudioSeconds, audio_seconds?),
        (Unit::Characters, characters?),
    ];
    let mut given = amounts
        .into_iter()
        .filter_map(|(unit, amount)| Some((unit, amount?)));
    match (given.next(), given.next()) {
        (Some((unit, amount)), None) => Ok(Limit {
            per: per?,
            unit,
            amount,
            model: model?,
        }),
        (first, _) => {
            let problem = if first.is_none() {
                "limits nothing"
            } else {
                "limits more than one thing"
            };
            let fix = format!(
                "write exactly one of {}, such as {{ per = \"day\", requests = 50 }}",
                Unit::names()
            );
            Err(section
                .findings
                .error(section.path(), section.origin, Problem::new(problem, fix)))
        }
    }
}

fn per(text: &str) -> Result<Per, Problem> {
    let all = [
        Per::Minute,
        Per::Hour,
        Per::Day,
        Per::Month,
        Per::Period,
        Per::Lifetime,
    ];
    super::values::choice(text, &all.map(|per| (per.as_str(), per)))
}
