//! Settings before they are checked: a tree of values, each with the place where it is set.
//!
//! It knows TOML and how a later source overrides an earlier one. It does not know which keys exist.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value is set.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A built-in default.
    Default,
    /// In a file, on a line.
    File(Arc<str>, usize),
    /// In the environment.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("built in"),
            Self::File(name, line) => write!(out, "{name}:{line}"),
            Self::Variable(name) => write!(out, "the variable {name}"),
        }
    }
}

/// A table of settings.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it is set. No `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    Table(Table),
    Array(Vec<Node>),
    Text(String),
    /// Digits that do not fit 64 bits are `None`.
    Integer(Option<i64>),
    /// As written: no calculation uses floats.
    Float(String),
    Boolean(bool),
    Moment,
    /// From a variable: text, or a TOML value if the key wants one.
    Raw(String),
}

impl Value {
    /// Its type, for error messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::Array(_) => "a list",
            Self::Text(_) | Self::Raw(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a point",
            Self::Boolean(_) => "true or false",
            Self::Moment => "a date or time",
        }
    }
}

/// Why a text is no TOML: the line, and the parser's words (which quote at most a token of the text).
pub(super) struct BadToml {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Reads a file of settings.
pub(super) fn parse_document(text: &str, name: &Arc<str>) -> Result<Node, BadToml> {
    let origin = |offset: usize| Origin::File(name.clone(), line_of(text, offset));
    let table = DeTable::parse(text).map_err(|error| bad(text, &error))?;
    Ok(Node {
        value: Value::Table(entries(table.get_ref(), &origin)),
        origin: origin(0),
    })
}

/// Reads the built-in settings. They are a part of the program, so what cannot be read is left out (a test reads it).
pub(super) fn parse_defaults(text: &str) -> Node {
    let table = DeTable::parse(text).map(|table| entries(table.get_ref(), &|_| Origin::Default));
    Node {
        value: Value::Table(table.unwrap_or_default()),
        origin: Origin::Default,
    }
}

/// Reads one TOML value from a variable.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Result<Node, BadToml> {
    let value = DeValue::parse(text).map_err(|error| bad(text, &error))?;
    Ok(node(value.get_ref(), origin.clone(), &|_| origin.clone()))
}

fn bad(text: &str, error: &toml::de::Error) -> BadToml {
    let offset = error.span().map_or(0, |span| span.start);
    BadToml {
        line: line_of(text, offset),
        message: error.message().to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    memchr::memchr_iter(b'\n', before).count().saturating_add(1)
}

fn entries(table: &DeTable<'_>, origin: &impl Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        (
            key.get_ref().clone().into_owned(),
            node(value.get_ref(), origin(key.span().start), origin),
        )
    };
    table.iter().map(entry).collect()
}

fn node(value: &DeValue<'_>, here: Origin, origin: &impl Fn(usize) -> Origin) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(digits) => {
            Value::Integer(i64::from_str_radix(digits.as_str(), digits.radix()).ok())
        }
        DeValue::Float(digits) => Value::Float(digits.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Moment,
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| node(item.get_ref(), origin(item.span().start), origin))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table, origin)),
    };
    Node {
        value,
        origin: here,
    }
}

impl Node {
    /// JSON as if it had been written in a file; null as text, which nothing takes for a number, a table or a list.
    pub(super) fn of_json(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Text("null".to_owned()),
            serde_json::Value::Bool(value) => Value::Boolean(*value),
            serde_json::Value::Number(number) if number.is_f64() => {
                Value::Float(number.to_string())
            }
            serde_json::Value::Number(number) => Value::Integer(number.as_i64()),
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Value::Array(items.iter().map(Self::of_json).collect())
            }
            serde_json::Value::Object(members) => Value::Table(
                members
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::of_json(value)))
                    .collect(),
            ),
        };
        Self {
            value,
            origin: Origin::Default,
        }
    }

    /// As JSON; text from a variable is a TOML value if it can be read as one. `None`: JSON has no such value.
    pub(super) fn to_json(&self) -> Option<serde_json::Value> {
        Some(match &self.value {
            Value::Table(table) => table
                .iter()
                .map(|(key, node)| Some((key.clone(), node.to_json()?)))
                .collect::<Option<_>>()?,
            Value::Array(items) => {
                serde_json::Value::Array(items.iter().map(Self::to_json).collect::<Option<_>>()?)
            }
            Value::Text(text) => text.clone().into(),
            Value::Raw(text) => match parse_value(text, &self.origin) {
                Ok(node) => node.to_json()?,
                Err(_) => text.clone().into(),
            },
            Value::Integer(number) => (*number)?.into(),
            Value::Float(digits) => {
                let plain = digits.replace('_', "");
                let number: serde_json::Number = plain.trim_start_matches('+').parse().ok()?;
                number.into()
            }
            Value::Boolean(value) => (*value).into(),
            Value::Moment => return None,
        })
    }

    /// Merges `over` into this: tables key by key, anything else as a whole.
    pub(super) fn cover(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(mine), Value::Table(theirs)) => {
                self.origin = over.origin;
                for (key, node) in theirs {
                    cover_key(mine, key, node);
                }
            }
            (mine, value) => {
                *mine = value;
                self.origin = over.origin;
            }
        }
    }

    /// The node at `path`, if there is one.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| match &node.value {
            Value::Table(table) => table.get(*name),
            _ => None,
        })
    }

    /// Lays `leaf` on what is at `path`, making tables on the way. Names are found in any case; an element of a list
    /// is named by its index, and the index after the last adds one.
    ///
    /// False: the path leads nowhere.
    pub(super) fn set(&mut self, path: &[&str], leaf: Self) -> bool {
        let Some((first, rest)) = path.split_first() else {
            self.cover(leaf);
            return true;
        };
        let empty = || Self {
            value: Value::Table(Table::new()),
            origin: leaf.origin.clone(),
        };
        match &mut self.value {
            Value::Table(table) => {
                let name = table
                    .keys()
                    .find(|key| key.eq_ignore_ascii_case(first))
                    .cloned();
                let name = name.unwrap_or_else(|| first.to_ascii_lowercase());
                table.entry(name).or_insert_with(empty).set(rest, leaf)
            }
            Value::Array(items) => {
                let Ok(index) = first.parse::<usize>() else {
                    return false;
                };
                if index == items.len() {
                    items.push(empty());
                }
                items
                    .get_mut(index)
                    .is_some_and(|item| item.set(rest, leaf))
            }
            _ => false,
        }
    }
}

fn cover_key(table: &mut Table, key: String, node: Node) {
    match table.get_mut(&key) {
        Some(mine) => mine.cover(node),
        None => {
            table.insert(key, node);
        }
    }
}
