//! What differs between two readings of the settings, by name.
//!
//! A reading keeps a digest of every value, so that no secret is kept for it, and names are all that can be told.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;

use super::source::Gathered;
use super::tree::{Node, Value};

/// A digest of every value that was said, by its key or, for keys of upstreams, by its variable.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fingerprints(BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Fingerprints {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fingerprints").finish_non_exhaustive()
    }
}

impl Fingerprints {
    pub(super) fn of(gathered: &Gathered) -> Self {
        let mut prints = Self::default();
        prints.walk(String::new(), &gathered.root, gathered);
        for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL"] {
            prints.variable(name, gathered);
        }
        prints
    }

    /// The names of all that was added, taken away or changed since `old`.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<String> {
        let differs = |name: &&String| self.0.get(*name) != old.0.get(*name);
        let mut names: Vec<String> = self.0.keys().chain(old.0.keys()).filter(differs).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    fn walk(&mut self, path: String, node: &Node, gathered: &Gathered) {
        let text = match &node.value {
            Value::Table(table) => {
                for (name, node) in table {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.walk(path, node, gathered);
                }
                return;
            }
            Value::Array(nodes) => {
                for (index, node) in nodes.iter().enumerate() {
                    self.walk(format!("{path}[{index}]"), node, gathered);
                }
                return;
            }
            Value::Text(text) | Value::Raw(text) | Value::Float(text) => text.clone(),
            Value::Integer(number) => format!("{number:?}"),
            Value::Boolean(is) => is.to_string(),
            Value::Moment => String::new(),
        };
        if path.ends_with(".api_key_env") {
            self.variable(&text, gathered);
        }
        self.print(path, &text);
    }

    /// A variable that holds a key, and the one that holds the key before it.
    fn variable(&mut self, name: &str, gathered: &Gathered) {
        for name in [name.to_owned(), format!("{name}{}", super::upstreams::PREVIOUS)] {
            if let Some((value, _)) = gathered.variable(&name) {
                self.print(name, value);
            }
        }
    }

    fn print(&mut self, name: String, value: &str) {
        self.0.insert(name, digest::digest(&digest::SHA256, value.as_bytes()).as_ref().to_vec());
    }
}
