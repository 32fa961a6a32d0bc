//! `[prices]`: the shipped price table, and what the settings change in it.

use std::collections::{BTreeSet, HashSet};

use super::findings::{Invalid, Problem};
use super::reader::Section;
use super::tree::{Node, Value, parse_value};
use crate::model::{Capability, ModelTable};
use crate::price::{Price, PriceEntry, PriceTable};

/// The sections in which models are named.
const NAMING_SECTIONS: [&str; 4] = ["plans", "models", "prompts", "prices"];

/// What parts the words of a text in which a model may be named: everything that no name of a model has.
const fn is_between(letter: char) -> bool {
    !(letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | ':' | '/' | '@'))
}

/// The shipped prices of all models that the settings may mean, with `[prices.*]` over them.
pub(super) fn prices(section: &Section<'_>, root: &Node) -> Result<PriceTable, Invalid> {
    let known = ModelTable::shipped();
    let mut names: HashSet<&str> = known.names().collect();
    for section in NAMING_SECTIONS {
        root.at(&[section])
            .into_iter()
            .for_each(|node| gather_words(node, &mut names));
    }
    let mut table = PriceTable::shipped_for(&names);
    let mut complete = true;
    for key in section.keys() {
        match section
            .get(key)
            .ok_or(Invalid)
            .and_then(|node| price(section, key, node, &table))
        {
            Ok((price, endpoints)) => {
                table.models.insert(key.to_owned(), price);
                table
                    .endpoints
                    .extend(endpoints.map(|endpoints| (key.to_owned(), endpoints)));
            }
            Err(Invalid) => complete = false,
        }
    }
    if complete { Ok(table) } else { Err(Invalid) }
}

/// Every word of the keys and texts of a node: some of them are names of models.
fn gather_words<'a>(node: &'a Node, words: &mut HashSet<&'a str>) {
    match &node.value {
        Value::Table(table) => {
            for (key, node) in table {
                words.insert(key);
                gather_words(node, words);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather_words(item, words)),
        Value::Text(text) | Value::Raw(text) => words.extend(text.split(is_between)),
        _ => {}
    }
}

fn price(
    section: &Section<'_>,
    key: &str,
    node: &Node,
    shipped: &PriceTable,
) -> Result<(Price, Option<Vec<Capability>>), Invalid> {
    let mut entry = section
        .note(key, deserialized(node))?
        .over(shipped.models.get(key));
    let endpoints = entry.endpoints.take();
    let fix = "write US dollars a million tokens in quotes: input = \"0.15\", output = \"0.60\"; or free = true";
    let price = section.note(
        key,
        Price::try_from(entry).map_err(|problem| Problem::new(problem, fix)),
    )?;
    Ok((price, endpoints))
}

/// Reads a price by its own schema. Text from a variable becomes a TOML value where the schema does not take it as text.
fn deserialized(node: &Node) -> Result<PriceEntry, Problem> {
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
            return Err(Problem::new(
                format!("has a wrong `{path}` ({message})"),
                fix,
            ));
        }
    }
}

fn is_raw(node: &Node, path: &str) -> bool {
    let found = path
        .split('.')
        .try_fold(node, |node, name| match &node.value {
            Value::Table(table) => table.get(name),
            _ => None,
        });
    found.is_some_and(|node| matches!(node.value, Value::Raw(_)))
}

/// A node as TOML without origins. A value that no price can have becomes one that the schema refuses.
fn plain(node: &Node, path: &str, as_values: &BTreeSet<String>) -> toml::Value {
    match &node.value {
        Value::Table(table) => {
            let entry = |(key, node): (&String, &Node)| {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                (key.clone(), plain(node, &path, as_values))
            };
            toml::Value::Table(table.iter().map(entry).collect())
        }
        Value::Array(items) => toml::Value::Array(
            items
                .iter()
                .map(|item| plain(item, path, as_values))
                .collect(),
        ),
        Value::Raw(text) if as_values.contains(path) => match parse_value(text, &node.origin) {
            Ok(node) => plain(&node, path, as_values),
            Err(_) => toml::Value::String(text.clone()),
        },
        Value::Text(text) | Value::Raw(text) => toml::Value::String(text.clone()),
        Value::Integer(Some(number)) => toml::Value::Integer(*number),
        Value::Boolean(value) => toml::Value::Boolean(*value),
        // The schema refuses a float by its type.
        Value::Float(digits) => digits
            .parse()
            .map_or_else(|_| toml::Value::Boolean(false), toml::Value::Float),
        Value::Integer(None) | Value::Moment => toml::Value::Boolean(false),
    }
}
