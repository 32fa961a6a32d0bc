//! Reads JSON values of a type that nobody can rely on: what is not of the wanted type is skipped, and breaks nothing. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What every visitor here does with the values that it is not about.
macro_rules! others_are {
    ($other:expr => $($kind:ident)*) => { $(others_are!(@$kind $other);)* };
    (@unit $other:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($other)
        }
    };
    (@bool $other:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($other)
        }
    };
    (@numbers $other:expr) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($other)
        }
    };
    (@text $other:expr) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($other)
        }
    };
    (@list $other:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok($other)
        }
    };
    (@object $other:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($other)
        }
    };
}
pub(super) use others_are;

/// A string, handed to a function; nothing else.
pub(super) struct Text<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some((self.0)(text)))
    }

    others_are!(None => unit bool numbers list object);
}

/// A count: a whole number that is not negative, also written as `13.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// `null`, or an empty string.
    Missing,
    /// So many.
    Known(u64),
    /// So many, written as a string: it is believed, and odd.
    Text(u64),
    /// Anything else.
    Nonsense,
}

impl Count {
    /// The number, if it is one.
    pub(super) const fn known(self) -> Option<u64> {
        match self {
            Self::Known(count) | Self::Text(count) => Some(count),
            Self::Missing | Self::Nonsense => None,
        }
    }

    /// A float is written without an exponent, and without a point only if it is whole.
    fn of_float(value: f64) -> Self {
        value
            .to_string()
            .parse()
            .map_or(Self::Nonsense, Self::Known)
    }
}

/// Reads a [`Count`].
pub(super) struct CountSeed;

impl<'de> DeserializeSeed<'de> for CountSeed {
    type Value = Count;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Count, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CountSeed {
    type Value = Count;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count::Missing)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Count, E> {
        Ok(Count::Known(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count::Nonsense)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Count, E> {
        Ok(Count::of_float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Count, E> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Count::Missing);
        }
        let of_float = || {
            text.parse()
                .ok()
                .and_then(|value| Count::of_float(value).known())
        };
        Ok(text
            .parse()
            .ok()
            .or_else(of_float)
            .map_or(Count::Nonsense, Count::Text))
    }

    others_are!(Count::Nonsense => bool list object);
}

/// Whether a value says anything. `null`, `false`, `0` and what is empty or holds nothing but such values do not: servers
/// that always write every member write them so.
pub(super) struct SaysSomething;

impl<'de> DeserializeSeed<'de> for SaysSomething {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SaysSomething {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        Ok(value != 0)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        Ok(Count::of_float(value) != Count::Known(0))
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(!is_blank(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut any = false;
        while let Some(says) = items.next_element_seed(Self)? {
            any |= says;
        }
        Ok(any)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let mut any = false;
        while members.next_key::<IgnoredAny>()?.is_some() {
            any |= members.next_value_seed(Self)?;
        }
        Ok(any)
    }
}

/// A text that stands for nothing. Some servers write their `null` as a word.
pub(super) fn is_blank(text: &str) -> bool {
    let text = text.trim();
    text.is_empty()
        || ["null", "none", "undefined"]
            .iter()
            .any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: DeserializeSeed<'static>>(seed: T, json: &'static str) -> T::Value {
        let mut reader = serde_json::Deserializer::from_str(json);
        let value = seed.deserialize(&mut reader).unwrap();
        reader.end().unwrap();
        value
    }

    #[test]
    fn a_count_is_whole_however_it_is_written() {
        for json in ["13", "13.0", "1.3e1"] {
            assert_eq!(read(CountSeed, json), Count::Known(13), "{json}");
        }
        for json in ["\"13\"", "\" 13.0 \""] {
            assert_eq!(read(CountSeed, json), Count::Text(13), "{json}");
        }
        for json in [
            "-1",
            "13.5",
            "\"13.5\"",
            "\"-1\"",
            "\"NaN\"",
            "1e300",
            "true",
            "[13]",
            "{\"a\":13}",
            "\"many\"",
        ] {
            assert_eq!(read(CountSeed, json), Count::Nonsense, "{json}");
        }
        assert_eq!(
            (read(CountSeed, "null"), read(CountSeed, "\" \"")),
            (Count::Missing, Count::Missing)
        );
    }

    #[test]
    fn what_is_empty_says_nothing() {
        for json in [
            "null",
            "false",
            "0",
            "0.0",
            "\"\"",
            "\"null\"",
            "{}",
            "[]",
            "{\"message\":\"\",\"code\":null}",
            "[{}]",
        ] {
            assert!(!read(SaysSomething, json), "{json}");
        }
        for json in [
            "true",
            "7",
            "-1",
            "\"x\"",
            "{\"code\":500}",
            "[\"x\"]",
            "{\"a\":{\"b\":\"c\"}}",
        ] {
            assert!(read(SaysSomething, json), "{json}");
        }
    }
}
