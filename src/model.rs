//! What is known of a model beside its price: the efforts that it takes, what it refuses, and when it ends. Pure.
//!
//! A model that the table does not have is passed what the request says. Sources and format: `models.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::clock::Timestamp;

/// The shipped table.
const SHIPPED: &str = include_str!("../models.toml");

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
    pub const ALL: [Self; 7] = [Self::None, Self::Minimal, Self::Low, Self::Medium, Self::High, Self::Xhigh, Self::Max];

    /// As it stands in a request.
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

/// One model, as `models.toml` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The efforts that it takes, the lowest first; empty where it does not reason or nobody knows.
    efforts: Vec<Effort>,
    /// Its effort when a request says nothing.
    effort: Option<Effort>,
    /// Fields that it refuses while it reasons.
    refuses: Vec<String>,
    /// The last day (UTC) that it answers.
    #[serde(deserialize_with = "day")]
    shutdown: Option<jiff::civil::Date>,
    /// What takes its place on the day after.
    successor: Option<String>,
    /// From when on it is answered by another, and by which.
    #[serde(skip)]
    succession: Option<(Timestamp, String)>,
}

fn day<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::civil::Date>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
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
        EffortChoice { sent, is_none: !self.efforts.is_empty() && sent.or(self.effort) == Some(Effort::None) }
    }

    fn highest_up_to(&self, most: Effort) -> Effort {
        let fitting = self.efforts.iter().rev().find(|effort| **effort <= most);
        fitting.or(self.efforts.first()).copied().unwrap_or(most)
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
        self.succession.as_ref().filter(|(from, _)| now >= *from).map(|(_, successor)| successor.as_str())
    }

    /// The first moment at which it answers no more: midnight UTC after its last day.
    fn gone_from(&self) -> Option<Timestamp> {
        let next = self.shutdown?.tomorrow().ok()?;
        let midnight = jiff::tz::TimeZone::UTC.to_timestamp(next.at(0, 0, 0, 0)).ok()?;
        Some(Timestamp::from_millis(midnight.as_millisecond()))
    }
}

/// Every model of which something is known, by its canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelTable {
    models: BTreeMap<String, Model>,
}

impl ModelTable {
    /// The table that comes with the program. A test reads every entry of it.
    #[must_use]
    pub fn shipped() -> Self {
        let mut models: BTreeMap<String, Model> = toml::from_str(SHIPPED).unwrap_or_default();
        for model in models.values_mut() {
            model.succession = model.gone_from().zip(model.successor.clone());
        }
        Self { models }
    }

    /// Keeps only those successions for which `holds(name, successor)`: whoever serves the one must serve the other.
    #[must_use]
    pub fn with_successions(mut self, holds: impl Fn(&str, &str) -> bool) -> Self {
        for (name, model) in &mut self.models {
            model.succession.take_if(|(_, successor)| !holds(name, successor));
        }
        self
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
        for (name, model) in &entries {
            let (canonical, price) = prices.resolve(name).unwrap_or_else(|| panic!("{name} has no price"));
            assert_eq!(canonical, name);
            assert_eq!(price.reasoning, !model.efforts.is_empty(), "{name}");
            assert!(model.efforts.is_sorted(), "{name}");
            assert_eq!(model.effort.is_some(), !model.efforts.is_empty(), "{name}");
            assert!(model.effort.is_none_or(|effort| model.efforts.contains(&effort)), "{name}");
            assert_eq!(model.shutdown.is_some(), model.successor.is_some(), "{name}");
        }
        assert_eq!(ModelTable::shipped().models.len(), entries.len());
    }

    #[test]
    fn every_successor_is_priced_and_outlives_what_it_follows() {
        let (table, prices) = (ModelTable::shipped(), PriceTable::shipped());
        let mut count = 0;
        for (name, model) in &table.models {
            let Some((from, successor)) = &model.succession else { continue };
            count += 1;
            assert!(prices.resolve(successor).is_some(), "{successor}");
            assert_ne!(table.living(name, *from), name);
            assert!(table.get(successor).is_none_or(|next| next.successor(*from).is_none()), "{name}");
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
            assert_eq!(table.living(name, at(last).plus(std::time::Duration::from_secs(1))), successor);
        }
        assert_eq!(table.living("my-model", Timestamp::MAX), "my-model");
        assert_eq!(table.with_successions(|_, _| false).living("gpt-3.5-turbo", Timestamp::MAX), "gpt-3.5-turbo");
    }

    #[test]
    fn successors_in_a_circle_end() {
        let followed_by = |to: &str| Model { succession: Some((Timestamp::EPOCH, to.to_owned())), ..Model::default() };
        let models = [("a".to_owned(), followed_by("b")), ("b".to_owned(), followed_by("a"))].into_iter().collect();
        let table = ModelTable { models };
        assert!(["a", "b"].contains(&table.living("a", Timestamp::MAX)));
    }

    #[test]
    fn an_effort_is_lowered_to_the_plans_and_sent_where_the_models_own_is_higher() {
        let table = ModelTable::shipped();
        let choice = |model: &str, asked, most| table.get(model).unwrap().effort(asked, most);
        let (none, low, high) = (Some(Effort::None), Some(Effort::Low), Some(Effort::High));
        assert_eq!(choice("gpt-6-luna", None, none), EffortChoice { sent: none, is_none: true });
        assert_eq!(choice("gpt-6-luna", high, none), EffortChoice { sent: none, is_none: true });
        assert_eq!(choice("gpt-6-luna", high, None), EffortChoice { sent: high, is_none: false });
        assert_eq!(choice("gpt-6-luna", None, None), EffortChoice { sent: None, is_none: false });
        assert_eq!(choice("gpt-6-luna", None, high), EffortChoice { sent: None, is_none: false });
        assert_eq!(choice("gpt-6-luna", Some(Effort::Minimal), low).sent, Some(Effort::Minimal));
        assert_eq!(choice("gpt-6.1-terra", None, none), EffortChoice { sent: low, is_none: false });
        assert_eq!(choice("gpt-5-mini", high, Some(Effort::None)).sent, Some(Effort::Minimal));
        assert_eq!(choice("gpt-5.4", None, none), EffortChoice { sent: None, is_none: true });
        assert_eq!(choice("gpt-4o", None, none), EffortChoice { sent: None, is_none: false });
        let unknown = Model::default();
        assert_eq!(unknown.effort(high, low), EffortChoice { sent: low, is_none: false });
        assert_eq!(unknown.effort(None, none), EffortChoice { sent: None, is_none: false });
    }
}
