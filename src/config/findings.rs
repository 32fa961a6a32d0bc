//! What is wrong with the settings, and what is merely odd.
//!
//! Everything that can be said is said in one go: a reader that finds something wrong notes it here and reads on.
//! Invariant: no value of a secret is ever put into a complaint.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use super::{ConfigError, ConfigErrors};

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}): {}. Fix: {}.", self.key, self.place, self.problem, self.fix)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => out.write_str("a setting is wrong:")?,
            count => write!(out, "{count} settings are wrong:")?,
        }
        self.0.iter().try_for_each(|error| write!(out, "\n  - {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// What is wrong with a value, and the fix; the reader adds the key and the place.
#[derive(Clone)]
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) fix: String,
}

/// Something is wrong, and it was noted: the reader may read on, but will not get a value.
pub(super) struct Noted;

/// A complaint from its two sentences (no full stop at their ends).
pub(super) fn complaint(problem: impl Into<String>, fix: impl Into<String>) -> Complaint {
    Complaint { problem: problem.into(), fix: fix.into() }
}

/// The notebook of one load.
#[derive(Default)]
pub(super) struct Findings {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    known: RefCell<BTreeSet<String>>,
}

impl Findings {
    pub(super) fn error(&self, key: impl Into<String>, place: &(impl ToString + ?Sized), what: Complaint) -> Noted {
        let error = ConfigError { key: key.into(), place: place.to_string(), problem: what.problem, fix: what.fix };
        let mut errors = self.errors.borrow_mut();
        // DATABASE_URL is two keys at once, but one mistake.
        let is_twice = |said: &ConfigError| said.place == error.place && said.problem == error.problem;
        if !(error.place.contains("DATABASE_URL") && errors.iter().any(is_twice)) {
            errors.push(error);
        }
        Noted
    }

    pub(super) fn warn(&self, warning: impl Into<String>) {
        self.warnings.borrow_mut().push(warning.into());
    }

    /// Notes that the schema has this key, so that a wrong name can be told the right one.
    pub(super) fn know(&self, key: String) {
        self.known.borrow_mut().insert(key);
    }

    /// Every key that was asked for.
    pub(super) fn known(&self) -> Vec<String> {
        self.known.borrow().iter().cloned().collect()
    }

    /// The warnings, or all that is wrong.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        let errors = self.errors.into_inner();
        if errors.is_empty() { Ok(self.warnings.into_inner()) } else { Err(ConfigErrors(errors)) }
    }
}

/// The candidate that is written most like `name`, if one is alike at all.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = candidates.into_iter().map(|candidate| (distance(name, candidate), candidate));
    let (distance, candidate) = near.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may differ; more is another word.
    let bound = candidate.len().div_ceil(3).max(1);
    (distance <= bound).then_some(candidate)
}

/// How many letters to add, drop or change (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (above, a) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above.saturating_add(1);
        let mut next = vec![before];
        for (b, up) in right.chars().zip(row.iter().skip(1)) {
            let changed = diagonal.saturating_add(usize::from(a != b));
            before = changed.min(up.saturating_add(1)).min(before.saturating_add(1));
            diagonal = *up;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_close_or_nothing() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("bnid", ["bind", "admin_bind"]), Some("bind"));
        assert_eq!(nearest("zebra", ["bind", "admin_bind"]), None);
    }
}
