//! A price as the ledger keeps it, so that a row can be priced again from the ledger alone. Pure.

use serde_json::{Map, Value, json};

use super::{LongPrice, Price, Rate, Rates};

impl Price {
    /// The rates as one line of JSON, without those that are zero: micro-dollars by their names in `[prices]`, and under
    /// `long` those beyond a prompt length. The same rates are the same text.
    #[must_use]
    pub fn stored(&self) -> String {
        let mut members = members_of(&self.rates);
        if let Some(long) = &self.long {
            let mut beyond = members_of(&long.rates);
            beyond.insert("above".to_owned(), json!(long.above));
            members.insert("long".to_owned(), Value::Object(beyond));
        }
        Value::Object(members).to_string()
    }

    /// Reads [`Price::stored`]; none where it is something else, or has a rate that this version does not know.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let members = value.as_object()?;
        let long = match members.get("long") {
            None => None,
            Some(long) => Some(LongPrice {
                above: long.get("above")?.as_u64()?,
                rates: rates_of(long.as_object()?, "above")?,
            }),
        };
        Some(Self {
            rates: rates_of(members, "long")?,
            long,
            ..Self::default()
        })
    }
}

fn members_of(rates: &Rates) -> Map<String, Value> {
    let named = Rates::NAMES.into_iter().zip(rates.values());
    named
        .filter(|(_, rate)| *rate != Rate::default())
        .map(|(name, Rate(micros))| (name.to_owned(), json!(micros)))
        .collect()
}

/// The rates among these members, of which one other is known.
fn rates_of(members: &Map<String, Value>, besides: &str) -> Option<Rates> {
    let mut values = Rates::default().values();
    for (name, micros) in members.iter().filter(|(name, _)| *name != besides) {
        let place = Rates::NAMES.iter().position(|known| known == name)?;
        *values.get_mut(place)? = Rate(micros.as_u64()?);
    }
    Some(Rates::from_values(values))
}
