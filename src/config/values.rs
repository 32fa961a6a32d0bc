//! Values that several sections have: choices, amounts of money, URLs of databases, ranges of durations.

use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::SecretString;

use super::findings::Problem;
use super::secrets::bare;
use super::tree::{Node, Value};
use crate::price::MicroUsd;

/// The upper bound of most durations.
pub(super) const HOUR: Duration = Duration::from_hours(1);
/// The upper bound of the duration of a whole answer.
pub(super) const DAY: Duration = Duration::from_hours(24);
/// A range of whole seconds.
pub(super) fn seconds(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())
}

/// A range from milliseconds to a duration.
pub(super) fn millis_to(least: u64, most: Duration) -> RangeInclusive<Duration> {
    Duration::from_millis(least)..=most
}

/// The value of one of a few words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Problem> {
    let chosen = choices
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value);
    chosen.ok_or_else(|| {
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        Problem::new(
            format!("`{text}` is not one of the choices"),
            format!("choose {}", words.join(" or ")),
        )
    })
}

/// The URL of a Postgres database, checked as far as that goes without a connection.
pub(super) fn postgres_url(text: &str) -> Result<SecretString, Problem> {
    bare(text)?;
    let url = SecretString::from(text);
    crate::pg::check_url(&url).map_err(|fault| Problem::new(fault.problem, fault.fix))?;
    Ok(url)
}

/// Reads US dollars, more than nothing.
pub(super) fn dollars(text: &str) -> Result<MicroUsd, Problem> {
    const FIX: &str = "write US dollars in quotes, such as \"0.50\"";
    match MicroUsd::parse(text) {
        Ok(MicroUsd(0)) => Err(Problem::new("is nothing", FIX)),
        Ok(amount) => Ok(amount),
        Err(_) => Err(Problem::new(
            format!("`{text}` is not an amount of up to a billion dollars"),
            FIX,
        )),
    }
}

/// The text of a node, if it is one.
pub(super) fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) | Value::Raw(text) => Some(text),
        _ => None,
    }
}
