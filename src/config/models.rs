//! `[models.*]`: names that the operator makes; and the table of what is known of models.
//!
//! Invariant: every candidate of a name is a model with a price and an upstream, and what the name adds to a request is what
//! each endpoint takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::findings::{Invalid, Problem};
use super::reader::Section;
use super::tree::{Value, parse_value};
use super::{Moderator, UpstreamConfig};
use crate::dialect::Dialect;
use crate::endpoint::moderations::DEFAULT_MODEL;
use crate::endpoint::{self, Spec};
use crate::model::{self, Alias, Capability, ModelTable};
use crate::price::PriceTable;

/// The longest name that the operator may make.
const NAME_BYTES_MAX: usize = 64;
/// How many candidates a name may have.
const CANDIDATES_MAX: usize = 8;

/// The models that have a price and an upstream, and the operator's names. `None` if that section has errors: then nothing
/// is missed in it.
pub(super) struct ServedModels<'a> {
    pub(super) prices: Option<&'a PriceTable>,
    pub(super) upstreams: Option<&'a [Arc<UpstreamConfig>]>,
    pub(super) aliases: Option<&'a BTreeMap<String, Alias>>,
}

/// `[models.*]`
pub(super) fn models(
    section: &Section<'_>,
    served: &ServedModels<'_>,
) -> Result<BTreeMap<String, Alias>, Invalid> {
    let mut aliases = BTreeMap::new();
    let mut complete = true;
    for key in section.keys() {
        match alias(key, section, served) {
            Ok(alias) => drop(aliases.insert(key.to_owned(), alias)),
            Err(Invalid) => complete = false,
        }
    }
    if complete { Ok(aliases) } else { Err(Invalid) }
}

fn alias(key: &str, sections: &Section<'_>, served: &ServedModels<'_>) -> Result<Alias, Invalid> {
    let valid = sections.note(key, name(key));
    let section = sections.section(key)?;
    let candidates = candidates(key, sections, &section, served);
    let (set, defaults) = (fields(&section, "set"), fields(&section, "defaults"));
    section.finish();
    let (candidates, set, defaults) = (candidates?, set?, defaults?);
    if let Some(field) = set.keys().find(|field| defaults.contains_key(*field)) {
        let problem = format!("has `{field}`, which set has too");
        let fix = "keep one of the two: set is sent whatever the app says";
        return Err(section.wrong("defaults", Problem::new(problem, fix)));
    }
    let specs = specs(&candidates, served);
    let set = checked(&section, "set", &set, &specs);
    let defaults = checked(&section, "defaults", &defaults, &specs);
    valid?;
    Ok(Alias {
        candidates,
        set: set?,
        defaults: defaults?,
    })
}

/// An app may know it as a name of a model: `gpt-4o-mini`, `openai/gpt-oss-20b`, `qwen3:8b`.
fn name(text: &str) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    Err(Problem::new(
        "is not a name of a model",
        format!("use 1 to {NAME_BYTES_MAX} of letters, digits and . _ - : / @"),
    ))
}

/// The canonical names of `use`, each once, in order.
fn candidates(
    key: &str,
    sections: &Section<'_>,
    section: &Section<'_>,
    served: &ServedModels<'_>,
) -> Result<Vec<String>, Invalid> {
    let written = section.texts("use")?;
    if !(1..=CANDIDATES_MAX).contains(&written.len()) {
        let problem = format!("lists {} models", written.len());
        let fix = format!("list 1 to {CANDIDATES_MAX}, such as use = [\"gpt-6-luna\"]");
        return Err(section.wrong("use", Problem::new(problem, fix)));
    }
    let mut canonical = Vec::new();
    let mut complete = true;
    for model in &written {
        let is_alias = model != key && sections.keys().any(|other| other == model);
        let read = if is_alias {
            let problem = format!("names `{model}`, which is a name under [models] itself");
            Err(Problem::new(problem, "write the models that it uses here"))
        } else {
            served.model(model)
        };
        match section.note("use", read) {
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

/// The fields under `set` or `defaults`.
fn fields(section: &Section<'_>, key: &str) -> Result<Map<String, Json>, Invalid> {
    let Some(node) = section.get(key) else {
        return Ok(Map::new());
    };
    let parsed = match &node.value {
        Value::Raw(text) => parse_value(text, &node.origin).ok(),
        _ => None,
    };
    let node = parsed.as_ref().unwrap_or(node);
    match node.to_json() {
        Some(Json::Object(fields)) => Ok(fields),
        Some(_) => {
            let problem = format!("is {}, not a table", node.value.kind());
            let fix = format!("write {key} = {{ reasoning_effort = \"none\" }}");
            Err(section.wrong(key, Problem::new(problem, fix)))
        }
        None => {
            let what = Problem::new("has a value that JSON cannot have", "write text or numbers");
            Err(section.wrong(key, what))
        }
    }
}

/// The endpoints that some candidate serves.
fn specs(candidates: &[String], served: &ServedModels<'_>) -> Vec<&'static Spec> {
    let models = served.table().unwrap_or_else(ModelTable::shipped);
    let has = |needed: Capability| candidates.iter().any(|model| models.serves(model, needed));
    let all = endpoint::ALL.into_iter();
    all.filter(|spec| has(spec.capability)).collect()
}

/// The fields as JSON, if there are any. Each is one that an endpoint of the candidates has, with a value that it takes.
fn checked(
    section: &Section<'_>,
    key: &str,
    fields: &Map<String, Json>,
    specs: &[&'static Spec],
) -> Result<Option<String>, Invalid> {
    let mut result = Ok(());
    for field in fields.keys() {
        let has = |spec: &&&Spec| spec.settable.fields.contains(&field.as_str());
        if !specs.iter().any(|spec| has(&spec)) {
            result = Err(section.wrong(key, not_settable(field, specs)));
        }
    }
    // Several endpoints may refuse it in the same words.
    let mut refused = BTreeSet::new();
    for spec in specs {
        let part = |(field, value): (&String, &Json)| {
            let has = spec.settable.fields.contains(&field.as_str());
            has.then(|| (field.clone(), value.clone()))
        };
        let part: Map<String, Json> = fields.iter().filter_map(part).collect();
        if let Err(refusal) = (spec.settable.check)(&Json::Object(part).to_string()) {
            refused.insert(refusal.message);
        }
    }
    for message in refused {
        let fix = "write a value that a request may have";
        let problem = format!("is refused: {}", message.trim_end_matches('.'));
        result = Err(section.wrong(key, Problem::new(problem, fix)));
    }
    result?;
    let has_some = !fields.is_empty();
    Ok(has_some.then(|| Json::Object(fields.clone()).to_string()))
}

fn not_settable(field: &str, specs: &[&'static Spec]) -> Problem {
    let known: Vec<&str> = specs
        .iter()
        .flat_map(|spec| spec.settable.fields)
        .copied()
        .collect();
    Problem::new(
        format!("names `{field}`, which cannot be set for these models"),
        format!("take it out; these can be set: {}", known.join(", ")),
    )
}

impl ServedModels<'_> {
    /// What an entry of a plan is called: a name that the operator made, or the canonical name of a model.
    pub(super) fn entry(&self, name: &str) -> Result<String, Problem> {
        match self.aliases {
            Some(aliases) if !aliases.contains_key(name) => self.model(name),
            _ => Ok(name.to_owned()),
        }
    }

    /// The models that an entry may be answered by.
    pub(super) fn candidates<'n>(&'n self, entry: &'n str) -> impl Iterator<Item = &'n str> {
        let alias = self.aliases.and_then(|aliases| aliases.get(entry));
        model::candidates(alias, entry)
    }

    /// Whether some upstream has a moderation model. Where the prices or the upstreams have errors, nothing is missed.
    pub(super) fn has_moderator(&self) -> bool {
        let parts = self.prices.zip(self.upstreams);
        parts.is_none_or(|(prices, upstreams)| moderator(prices, upstreams).is_some())
    }

    /// What is known of models, if their prices are right.
    pub(super) fn table(&self) -> Option<ModelTable> {
        let upstreams = self.upstreams.unwrap_or_default();
        self.prices.map(|prices| known(prices, upstreams))
    }

    /// The canonical name of a model that has a price and an upstream.
    fn model(&self, model: &str) -> Result<String, Problem> {
        let Some(prices) = self.prices else {
            return Ok(model.to_owned());
        };
        let Some((canonical, _)) = prices.resolve(model) else {
            let fix = format!(
                "add [prices.{model:?}] with input and output in US dollars a million tokens (or free = true)"
            );
            return Err(Problem::new(
                format!("names `{model}`, which has no price"),
                fix,
            ));
        };
        let misses = |upstreams: &[Arc<UpstreamConfig>]| {
            !upstreams.iter().any(|upstream| upstream.serves(canonical))
        };
        if self.upstreams.is_some_and(misses) {
            let fix = format!(
                "add it to the models of one of the [[upstreams]]: models = [{canonical:?}]"
            );
            return Err(Problem::new(
                format!("names `{canonical}`, which no upstream serves"),
                fix,
            ));
        }
        Ok(canonical.to_owned())
    }
}

/// The moderation model of the first upstream that has one: OpenAI's, or one that `[prices]` says serves moderations.
pub(super) fn moderator(
    prices: &PriceTable,
    upstreams: &[Arc<UpstreamConfig>],
) -> Option<Moderator> {
    let said = prices.endpoints.iter();
    let said = said.filter(|(_, endpoints)| endpoints.contains(&Capability::Moderations));
    let names: Vec<&str> = std::iter::once(DEFAULT_MODEL)
        .chain(said.map(|(name, _)| name.as_str()))
        .collect();
    upstreams.iter().find_map(|upstream| {
        let model = names.iter().find(|name| upstream.serves(name))?;
        Some(Moderator {
            upstream: upstream.clone(),
            model: (*model).to_owned(),
        })
    })
}

/// The table of models for these upstreams. A model that was shut down is replaced by its successor only if both are
/// OpenAI's own, and the successor has a price.
pub(super) fn table(
    prices: &PriceTable,
    upstreams: &[Arc<UpstreamConfig>],
    aliases: BTreeMap<String, Alias>,
) -> ModelTable {
    let is_openai = |name: &str| {
        upstreams
            .iter()
            .find(|upstream| upstream.serves(name))
            .is_some_and(|to| to.manner.dialect == Dialect::Openai)
    };
    let may_follow = |name: &str| is_openai(name) && prices.models.contains_key(name);
    known(prices, upstreams)
        .with_ends(is_openai, may_follow)
        .with_aliases(aliases)
}

/// What the program knows of models, and what the settings say they serve. At a server that speaks Anthropic's API every
/// model serves that and nothing else.
fn known(prices: &PriceTable, upstreams: &[Arc<UpstreamConfig>]) -> ModelTable {
    let said = prices.endpoints.iter();
    let table = said.fold(ModelTable::shipped(), |table, (name, endpoints)| {
        table.with_endpoints(name, endpoints.clone())
    });
    let is_anthropics = |name: &&String| {
        upstreams
            .iter()
            .find(|upstream| upstream.serves(name))
            .is_some_and(|to| to.manner.dialect == Dialect::Anthropic)
    };
    let at_anthropics = prices.models.keys().filter(is_anthropics);
    at_anthropics.fold(table, |table, name| {
        table.with_endpoints(name, vec![Capability::Messages])
    })
}
