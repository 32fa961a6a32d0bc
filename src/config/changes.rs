//! Which settings differ between two loads, by name.
//!
//! A reading stores a digest of every value and no secret, so only names can be reported.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;

use super::presets::PRESETS;
use super::source::RawSettings;
use super::tree::{Node, Value};

/// A digest of every value that is set, by its key or, for keys of upstreams, by its variable.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fingerprints(BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Fingerprints {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fingerprints").finish_non_exhaustive()
    }
}

impl Fingerprints {
    pub(super) fn of(raw: &RawSettings) -> Self {
        let mut prints = Self::default();
        prints.walk(String::new(), &raw.root, raw);
        prints.variable("OPENAI_BASE_URL", raw);
        for name in PRESETS.iter().filter_map(|preset| preset.api_key_env) {
            prints.variable(name, raw);
        }
        prints
    }

    /// The names of settings that were added, removed or changed since `old`.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<String> {
        let differs = |name: &&String| self.0.get(*name) != old.0.get(*name);
        let mut names: Vec<String> = self
            .0
            .keys()
            .chain(old.0.keys())
            .filter(differs)
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn walk(&mut self, path: String, node: &Node, raw: &RawSettings) {
        let text = match &node.value {
            Value::Table(table) => {
                for (name, node) in table {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    self.walk(path, node, raw);
                }
                return;
            }
            Value::Array(nodes) => {
                for (index, node) in nodes.iter().enumerate() {
                    self.walk(format!("{path}[{index}]"), node, raw);
                }
                return;
            }
            Value::Text(text) | Value::Raw(text) | Value::Float(text) => text.clone(),
            Value::Integer(number) => format!("{number:?}"),
            Value::Boolean(is) => is.to_string(),
            Value::Moment => String::new(),
        };
        let is_store = path.starts_with("webhooks.") && path.ends_with("_env");
        if path.ends_with(".api_key_env") || is_store {
            self.variable(&text, raw);
        }
        self.print(path, &text);
    }

    /// A variable that holds a key, and the variable of its predecessor.
    fn variable(&mut self, name: &str, raw: &RawSettings) {
        for name in [
            name.to_owned(),
            format!("{name}{}", super::upstream_keys::PREVIOUS),
        ] {
            if let Some((value, _)) = raw.variable(&name) {
                self.print(name, value);
            }
        }
    }

    fn print(&mut self, name: String, value: &str) {
        self.0.insert(
            name,
            digest::digest(&digest::SHA256, value.as_bytes())
                .as_ref()
                .to_vec(),
        );
    }
}
