//! What is known of a model besides its price: the reasoning efforts it takes, the parameters it refuses, its last day; and
//! the operator's own names for models. Pure.
//!
//! For a model that is not in the table, the request's parameters are passed on as they are. Sources and format:
//! `models.toml`.

mod capability;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::clock::Timestamp;

pub use self::capability::Capability;

/// The shipped table.
const SHIPPED: &str = include_str!("../../models.toml");

/// More names in a row than this are a circle.
const SUCCESSIONS_MAX: usize = 8;

/// How long a model thinks before it answers (`reasoning_effort`), the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Not at all.
    None,
    /// `minimal`
    Minimal,
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `xhigh`
    Xhigh,
    /// `max`
    Max,
}

impl Effort {
    /// Every effort, the least first.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Minimal,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::Xhigh,
        Self::Max,
    ];

    /// As in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// Reads a request's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effort| effort.as_str() == word)
    }
}

/// Which tokenizer counts a model's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// `o200k_base`: gpt-4o and later.
    O200k,
    /// `cl100k_base`: gpt-4, gpt-3.5.
    Cl100k,
    /// Unknown: a prompt is bounded by its bytes; estimates of output use `o200k_base`.
    #[default]
    Unknown,
}

/// One model, as `models.toml` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The efforts that it takes, the lowest first; empty if it does not reason, or if that is unknown.
    efforts: Vec<Effort>,
    /// Its effort when a request says nothing.
    effort: Option<Effort>,
    /// Fields that it refuses while it reasons.
    refuses: Vec<String>,
    /// It bills tokens that nobody sees; left out where `efforts` says it.
    reasoning: Option<bool>,
    /// What counts its text.
    tokenizer: Option<Tokenizer>,
    /// What it serves; none is [`Capability::DEFAULT`].
    endpoints: Option<Vec<Capability>>,
    /// It can answer event by event; none is that it can.
    streams: Option<bool>,
    /// The last day (UTC) that it answers.
    #[serde(deserialize_with = "day")]
    shutdown: Option<jiff::civil::Date>,
    /// What takes its place on the day after.
    successor: Option<String>,
    /// From when on it is answered by another, and by which.
    #[serde(skip)]
    succession: Option<(Timestamp, String)>,
}

fn day<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<jiff::civil::Date>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// `[models.NAME]`: a name that the operator made, and the models that answer for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alias {
    /// Canonical names of models, each with a price and an upstream. The first that serves the endpoint answers. Never empty.
    pub candidates: Vec<String>,
    /// A JSON object with fields of the request that are sent whatever the app says.
    pub set: Option<String>,
    /// The same, only where the app says nothing.
    pub defaults: Option<String>,
}

/// The effort of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffortChoice {
    /// What to send; nothing where the model does what is wanted by itself.
    pub sent: Option<Effort>,
    /// The model certainly does not reason.
    pub is_none: bool,
}

impl Model {
    /// What to send for a request that asks for `asked` under a plan that allows at most `most`. A model that does not
    /// take so little gets the least that it takes.
    #[must_use]
    pub fn effort(&self, asked: Option<Effort>, most: Option<Effort>) -> EffortChoice {
        let wanted = asked.or(self.effort);
        let sent = match (wanted, most) {
            (Some(wanted), Some(most)) if wanted > most => Some(self.highest_up_to(most)),
            _ => asked,
        };
        EffortChoice {
            sent,
            is_none: !self.efforts.is_empty() && sent.or(self.effort) == Some(Effort::None),
        }
    }

    fn highest_up_to(&self, most: Effort) -> Effort {
        let fitting = self.efforts.iter().rev().find(|effort| **effort <= most);
        fitting.or(self.efforts.first()).copied().unwrap_or(most)
    }

    /// The effort of a request that is not meant for this model in particular: the nearest below that it takes, or else its
    /// lowest.
    #[must_use]
    pub fn nearest(&self, effort: Effort) -> Effort {
        if self.efforts.is_empty() || self.efforts.contains(&effort) {
            return effort;
        }
        self.highest_up_to(effort)
    }

    /// Whether the model refuses a request with this field while it reasons.
    #[must_use]
    pub fn refuses(&self, field: &str) -> bool {
        self.refuses.iter().any(|refused| refused == field)
    }

    /// It refuses some field while it reasons.
    #[must_use]
    pub const fn refuses_something(&self) -> bool {
        !self.refuses.is_empty()
    }

    /// What answers in its place at this moment, if it was shut down.
    #[must_use]
    pub fn successor(&self, now: Timestamp) -> Option<&str> {
        self.succession
            .as_ref()
            .filter(|(from, _)| now >= *from)
            .map(|(_, successor)| successor.as_str())
    }

    /// The last day on which its provider serves it, and the first moment at which it answers no more; known only where it is
    /// served by that provider itself.
    #[must_use]
    pub fn end(&self) -> Option<(jiff::civil::Date, Timestamp)> {
        self.shutdown.zip(self.gone_from())
    }

    /// The first moment at which it answers no more: midnight UTC after its last day.
    fn gone_from(&self) -> Option<Timestamp> {
        let next = self.shutdown?.tomorrow().ok()?;
        let midnight = jiff::tz::TimeZone::UTC
            .to_timestamp(next.at(0, 0, 0, 0))
            .ok()?;
        Some(Timestamp::from_millis(midnight.as_millisecond()))
    }
}

/// Every model of which something is known, by its canonical name, every family of them (`gpt-4o*`), and every name that the operator made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelTable {
    models: BTreeMap<String, Model>,
    /// What the names of a family begin with, and what is known of them; the longest first. Requests for models without an entry look here.
    families: Vec<(String, Model)>,
    aliases: BTreeMap<String, Alias>,
}

/// The models that an entry of a plan may be answered by, in order: those of the operator's name that it is, or itself.
pub(crate) fn candidates<'a>(
    alias: Option<&'a Alias>,
    entry: &'a str,
) -> impl Iterator<Item = &'a str> {
    let itself = alias.is_none().then_some(entry);
    let of_alias = alias.into_iter().flat_map(|alias| &alias.candidates);
    of_alias.map(String::as_str).chain(itself)
}

impl ModelTable {
    /// The table that comes with the program. A test reads every entry of it.
    #[must_use]
    pub fn shipped() -> Self {
        let mut models: BTreeMap<String, Model> = toml::from_str(SHIPPED).unwrap_or_default();
        for model in models.values_mut() {
            model.succession = model.gone_from().zip(model.successor.clone());
        }
        let (mut families, mut single) = (Vec::new(), BTreeMap::new());
        for (name, model) in models {
            match name.strip_suffix('*') {
                Some(start) => families.push((start.to_owned(), model)),
                None => _ = single.insert(name, model),
            }
        }
        families.sort_by_key(|(start, _)| std::cmp::Reverse(start.len()));
        let table = Self {
            models: single,
            families,
            aliases: BTreeMap::new(),
        };
        let models = table.models.iter();
        let models = models.map(|(name, model)| (name.clone(), table.completed(name, model)));
        Self {
            models: models.collect(),
            ..table
        }
    }

    /// A model with what its families say of it, so that no request has to look there.
    fn completed(&self, name: &str, model: &Model) -> Model {
        let endpoints = self.known(name, |model| model.endpoints.clone());
        Model {
            endpoints: endpoints.or_else(|| Some(Capability::DEFAULT.to_vec())),
            streams: Some(self.streams(name)),
            tokenizer: Some(self.tokenizer(name)),
            reasoning: Some(self.reasons(name)),
            ..model.clone()
        }
    }

    /// Adds the operator's names, which may be names of models too.
    #[must_use]
    pub fn with_aliases(self, aliases: BTreeMap<String, Alias>) -> Self {
        Self { aliases, ..self }
    }

    /// The operator's names.
    #[must_use]
    pub const fn aliases(&self) -> &BTreeMap<String, Alias> {
        &self.aliases
    }

    /// What an entry of a plan stands for, if the operator made the name.
    #[must_use]
    pub fn alias(&self, entry: &str) -> Option<&Alias> {
        self.aliases.get(entry)
    }

    /// The models that an entry of a plan may be answered by, in order: its candidates, or itself.
    pub fn candidates<'a>(&'a self, entry: &'a str) -> impl Iterator<Item = &'a str> {
        candidates(self.alias(entry), entry)
    }

    /// Keeps the ends of only those models that their own provider serves, and of their successions those to a model that it
    /// `may_follow`.
    #[must_use]
    pub fn with_ends(
        mut self,
        is_at_its_provider: impl Fn(&str) -> bool,
        may_follow: impl Fn(&str) -> bool,
    ) -> Self {
        for (name, model) in &mut self.models {
            if !is_at_its_provider(name) {
                (model.shutdown, model.succession) = (None, None);
            }
            model
                .succession
                .take_if(|(_, successor)| !may_follow(successor));
        }
        self
    }

    /// Says what a model serves, whatever the table says.
    #[must_use]
    pub fn with_endpoints(mut self, name: &str, endpoints: Vec<Capability>) -> Self {
        let model = self.models.entry(name.to_owned()).or_default();
        model.endpoints = Some(endpoints);
        self
    }

    /// Whether a model serves an endpoint.
    #[must_use]
    pub fn serves(&self, name: &str, endpoint: Capability) -> bool {
        let said = self.known(name, |model| model.endpoints.as_deref());
        said.unwrap_or(&Capability::DEFAULT).contains(&endpoint)
    }

    /// Whether a model can answer event by event.
    #[must_use]
    pub fn streams(&self, name: &str) -> bool {
        self.known(name, |model| model.streams).unwrap_or(true)
    }

    /// What counts a model's text.
    #[must_use]
    pub fn tokenizer(&self, name: &str) -> Tokenizer {
        self.known(name, |model| model.tokenizer)
            .unwrap_or_default()
    }

    /// Whether a model may bill tokens that nobody sees.
    #[must_use]
    pub fn reasons(&self, name: &str) -> bool {
        let reasons = |model: &Model| {
            model
                .reasoning
                .or((!model.efforts.is_empty()).then_some(true))
        };
        self.known(name, reasons).unwrap_or(false)
    }

    /// Every name of a model and of a successor; no families.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.models.keys().map(String::as_str);
        let successors = self
            .models
            .values()
            .filter_map(|model| model.successor.as_deref());
        names.chain(successors)
    }

    /// What the table says of a model itself, or else of the smallest family that it belongs to.
    fn known<'a, T>(&'a self, name: &str, said: impl Fn(&'a Model) -> Option<T>) -> Option<T> {
        if let Some(itself) = self.get(name).and_then(&said) {
            return Some(itself);
        }
        self.families
            .iter()
            .filter(|(start, _)| name.starts_with(start))
            .find_map(|(_, model)| said(model))
    }

    /// What is known of a model; nothing is an answer too.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    /// The name by which `name` is answered at this moment: itself, or the successor of a model that was shut down.
    #[must_use]
    pub fn living<'a>(&'a self, name: &'a str, now: Timestamp) -> &'a str {
        let mut name = name;
        for _ in 0..SUCCESSIONS_MAX {
            match self.get(name).and_then(|model| model.successor(now)) {
                Some(successor) => name = successor,
                None => break,
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::PriceTable;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn every_shipped_entry_is_read_and_has_a_price() {
        let entries: BTreeMap<String, Model> = toml::from_str(SHIPPED).unwrap();
        let prices = PriceTable::shipped();
        for (name, model) in entries.iter().filter(|(name, _)| !name.ends_with('*')) {
            let (canonical, price) = prices
                .resolve(name)
                .unwrap_or_else(|| panic!("{name} has no price"));
            assert_eq!(canonical, name);
            assert_eq!(price.reasoning, !model.efforts.is_empty(), "{name}");
            assert!(model.efforts.is_sorted(), "{name}");
            assert_eq!(model.effort.is_some(), !model.efforts.is_empty(), "{name}");
            assert!(
                model
                    .effort
                    .is_none_or(|effort| model.efforts.contains(&effort)),
                "{name}"
            );
            assert_eq!(
                model.shutdown.is_some(),
                model.successor.is_some(),
                "{name}"
            );
        }
        let table = ModelTable::shipped();
        assert_eq!(table.models.len() + table.families.len(), entries.len());
    }

    #[test]
    fn every_successor_is_priced_and_outlives_what_it_follows() {
        let (table, prices) = (ModelTable::shipped(), PriceTable::shipped());
        let mut count = 0;
        for (name, model) in &table.models {
            let Some((from, successor)) = &model.succession else {
                continue;
            };
            count += 1;
            assert!(prices.resolve(successor).is_some(), "{successor}");
            assert_ne!(table.living(name, *from), name);
            assert!(
                table
                    .get(successor)
                    .is_none_or(|next| next.successor(*from).is_none()),
                "{name}"
            );
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn a_name_is_itself_until_its_last_day_is_over_in_utc() {
        let table = ModelTable::shipped();
        for (name, last, successor) in [
            ("gpt-3.5-turbo", "2026-10-23T23:59:59Z", "gpt-6-luna"),
            ("gpt-5-nano", "2026-12-11T23:59:59Z", "gpt-6-luna"),
            ("gpt-4o-mini", "2027-01-14T23:59:59Z", "gpt-6-luna"),
        ] {
            assert_eq!(table.living(name, at(last)), name);
            assert_eq!(
                table.living(name, at(last).plus(std::time::Duration::from_secs(1))),
                successor
            );
        }
        assert_eq!(table.living("my-model", Timestamp::MAX), "my-model");
        assert_eq!(
            table
                .with_ends(|_| true, |_| false)
                .living("gpt-3.5-turbo", Timestamp::MAX),
            "gpt-3.5-turbo"
        );
    }

    #[test]
    fn successors_in_a_circle_end() {
        let followed_by = |to: &str| Model {
            succession: Some((Timestamp::EPOCH, to.to_owned())),
            ..Model::default()
        };
        let models = [
            ("a".to_owned(), followed_by("b")),
            ("b".to_owned(), followed_by("a")),
        ]
        .into_iter()
        .collect();
        let table = ModelTable {
            models,
            ..ModelTable::default()
        };
        assert!(["a", "b"].contains(&table.living("a", Timestamp::MAX)));
    }

    #[test]
    fn an_effort_is_lowered_to_the_plans_and_sent_where_the_models_own_is_higher() {
        let table = ModelTable::shipped();
        let choice = |model: &str, asked, most| table.get(model).unwrap().effort(asked, most);
        let (none, low, high) = (Some(Effort::None), Some(Effort::Low), Some(Effort::High));
        assert_eq!(
            choice("gpt-6-luna", None, none),
            EffortChoice {
                sent: none,
                is_none: true
            }
        );
        assert_eq!(
            choice("gpt-6-luna", high, none),
            EffortChoice {
                sent: none,
                is_none: true
            }
        );
        assert_eq!(
            choice("gpt-6-luna", high, None),
            EffortChoice {
                sent: high,
                is_none: false
            }
        );
        assert_eq!(
            choice("gpt-6-luna", None, None),
            EffortChoice {
                sent: None,
                is_none: false
            }
        );
        assert_eq!(
            choice("gpt-6-luna", None, high),
            EffortChoice {
                sent: None,
                is_none: false
            }
        );
        assert_eq!(
            choice("gpt-6-luna", Some(Effort::Minimal), low).sent,
            Some(Effort::Minimal)
        );
        assert_eq!(
            choice("gpt-6.1-terra", None, none),
            EffortChoice {
                sent: low,
                is_none: false
            }
        );
        assert_eq!(
            choice("gpt-5-mini", high, Some(Effort::None)).sent,
            Some(Effort::Minimal)
        );
        assert_eq!(
            choice("gpt-5.4", None, none),
            EffortChoice {
                sent: None,
                is_none: true
            }
        );
        assert_eq!(
            choice("gpt-4o", None, none),
            EffortChoice {
                sent: None,
                is_none: false
            }
        );
        let unknown = Model::default();
        assert_eq!(
            unknown.effort(high, low),
            EffortChoice {
                sent: low,
                is_none: false
            }
        );
        assert_eq!(
            unknown.effort(None, none),
            EffortChoice {
                sent: None,
                is_none: false
            }
        );
    }
}
