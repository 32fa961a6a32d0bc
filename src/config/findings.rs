//! The errors and warnings of one load of the settings.
//!
//! All errors are reported at once: a reader that finds one adds it here and reads on.
//! Invariant: no message contains the value of a secret.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use super::{ConfigError, ConfigErrors};

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} ({}): {}. Fix: {}.",
            self.key, self.place, self.problem, self.fix
        )
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => out.write_str("a setting is wrong:")?,
            count => write!(out, "{count} settings are wrong:")?,
        }
        self.0
            .iter()
            .try_for_each(|error| write!(out, "\n  - {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// What is wrong with a value, and the fix; the reader adds the key and the place.
#[derive(Clone)]
pub(super) struct Problem {
    pub(super) problem: String,
    pub(super) fix: String,
}

/// The error was added to [`Findings`]: the reader has no value here, but reads on to find the other errors.
pub(super) struct Invalid;

impl Problem {
    /// The problem and its fix, each a sentence without the full stop.
    pub(super) fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// Collects the errors and warnings of one load, and the keys that the schema has.
#[derive(Default)]
pub(super) struct Findings {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    known: RefCell<BTreeSet<String>>,
}

impl Findings {
    pub(super) fn error(
        &self,
        key: impl Into<String>,
        place: &(impl ToString + ?Sized),
        what: Problem,
    ) -> Invalid {
        let error = ConfigError {
            key: key.into(),
            place: place.to_string(),
            problem: what.problem,
            fix: what.fix,
        };
        let mut errors = self.errors.borrow_mut();
        // DATABASE_URL sets two keys, but the mistake is one.
        let is_twice =
            |said: &ConfigError| said.place == error.place && said.problem == error.problem;
        if !(error.place.contains("DATABASE_URL") && errors.iter().any(is_twice)) {
            errors.push(error);
        }
        Invalid
    }

    pub(super) fn warn(&self, warning: impl Into<String>) {
        self.warnings.borrow_mut().push(warning.into());
    }

    /// Notes that the schema has this key, so that an error about a wrong name can suggest it.
    pub(super) fn know(&self, key: String) {
        self.known.borrow_mut().insert(key);
    }

    /// Every key that was read.
    pub(super) fn known(&self) -> Vec<String> {
        self.known.borrow().iter().cloned().collect()
    }

    /// The warnings, or all errors.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        let errors = self.errors.into_inner();
        if errors.is_empty() {
            Ok(self.warnings.into_inner())
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

/// The candidate most similar to `name`, if any is similar.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let near = candidates
        .into_iter()
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate));
    let (distance, candidate) = near.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may differ; more is another word.
    let bound = candidate.len().div_ceil(3).max(1);
    (distance <= bound).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_close_or_nothing() {
        assert_eq!(nearest("bnid", ["bind", "admin_bind"]), Some("bind"));
        assert_eq!(nearest("zebra", ["bind", "admin_bind"]), None);
    }
}
