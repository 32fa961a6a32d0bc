//! A prompt that lives on the server: its text with `{{variables}}`, what it asks for, and its version. Pure.
//!
//! A variable's value is text: it is put in once, and what it says is not looked at again. The text of a prompt is the
//! operator's: no refusal repeats any of it but the names of its variables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

/// The longest name of a variable.
const VARIABLE_BYTES_MAX: usize = 64;
/// How many variables a prompt may have.
pub const VARIABLES_MAX: usize = 64;
/// The longest text with the variables' values in it.
pub const FILLED_BYTES_MAX: usize = 128 * 1024;
/// How much of the digest of a prompt is its version.
const VERSION_BYTES: usize = 6;

/// Every prompt, by its name.
pub type Prompts = BTreeMap<String, Arc<Prompt>>;

/// `[prompts.NAME]`. `Debug` does not show the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its name, the last part of its path.
    pub name: String,
    /// The name of its model, which need not be in the caller's plan.
    pub model: String,
    /// The system message.
    pub system: Template,
    /// The output cap, where it is lower than the plan's.
    pub max_output_tokens: Option<u32>,
    /// The plans whose users may use it; none says all.
    pub plans: Option<BTreeSet<String>>,
    /// The beginning of a digest of all that shapes an answer: the text, the model and the cap.
    pub version: String,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("name", &self.name)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Prompt {
    /// A prompt for the users of all plans.
    #[must_use]
    pub fn new(
        name: &str,
        model: String,
        system: Template,
        max_output_tokens: Option<u32>,
    ) -> Self {
        Self {
            version: version(&system, &model, max_output_tokens),
            name: name.to_owned(),
            model,
            system,
            max_output_tokens,
            plans: None,
        }
    }

    /// Whether users of a plan may use it.
    #[must_use]
    pub fn is_for(&self, plan: &str) -> bool {
        self.plans.as_ref().is_none_or(|plans| plans.contains(plan))
    }
}

/// A text with variables in it: `Summarise {{kind}}.`
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// Why the values of a request do not fit a prompt: always about one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The prompt has it, and the request says nothing of it.
    Missing(String),
    /// The request says it, and the prompt does not have it.
    Unknown(String),
    /// It is most of a text that is longer than [`FILLED_BYTES_MAX`].
    TooLong(String),
}

impl Template {
    /// Reads a text. `{{name}}` is a variable, with or without blanks around the name.
    ///
    /// # Errors
    /// A `{{` without the name of a variable and `}}` after it, or too many variables: what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let read = text.len().saturating_sub(rest.len());
            let line = line(text, read.saturating_add(before.len()));
            let (name, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("has `{{{{` in line {line} without `}}}}`"))?;
            if !is_name(name.trim()) {
                return Err(format!(
                    "has `{{{{` in line {line} without a variable's name after it"
                ));
            }
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Variable(name.trim().to_owned()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let template = Self {
            text: text.to_owned(),
            pieces,
        };
        let count = template.variables().len();
        if count > VARIABLES_MAX {
            return Err(format!("has {count} variables, more than {VARIABLES_MAX}"));
        }
        Ok(template)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its variables, each once.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<&str> {
        self.names().collect()
    }

    /// The names of its variables where they stand.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with a value for each of its variables.
    ///
    /// # Errors
    /// The values are not those of its variables, or too long.
    pub fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, Misfit> {
        let names = self.variables();
        if let Some(unknown) = values.keys().find(|name| !names.contains(name.as_str())) {
            return Err(Misfit::Unknown(unknown.clone()));
        }
        if let Some(missing) = names.iter().find(|name| !values.contains_key(**name)) {
            return Err(Misfit::Missing((*missing).to_owned()));
        }
        let value = |name: &str| values.get(name).map_or("", String::as_str);
        let piece = |piece: &Piece| -> usize {
            match piece {
                Piece::Text(text) => text.len(),
                Piece::Variable(name) => value(name).len(),
            }
        };
        let bytes = self
            .pieces
            .iter()
            .fold(0_usize, |sum, one| sum.saturating_add(piece(one)));
        if bytes > FILLED_BYTES_MAX
            && let Some(longest) = self.names().max_by_key(|name| value(name).len())
        {
            return Err(Misfit::TooLong(longest.to_owned()));
        }
        let mut filled = String::with_capacity(bytes);
        for piece in &self.pieces {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Variable(name) => value(name),
            });
        }
        Ok(filled)
    }
}

fn version(system: &Template, model: &str, max_output_tokens: Option<u32>) -> String {
    let cap = max_output_tokens.map_or(u64::MAX, u64::from);
    let mut context = digest::Context::new(&digest::SHA256);
    // No text holds the byte 0xFF, so no two prompts are digested alike.
    for part in [system.text(), model] {
        context.update(part.as_bytes());
        context.update(&[0xFF]);
    }
    context.update(&cap.to_be_bytes());
    let digest = context.finish();
    let beginning = digest.as_ref().iter().take(VERSION_BYTES);
    let digits = beginning.flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Whether a text may be the name of a variable: letters, digits, `_` and `-`.
fn is_name(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=VARIABLE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_known)
}

/// The line of a place in a text.
fn line(text: &str, place: usize) -> usize {
    let above = text.as_bytes().get(..place).unwrap_or_default();
    memchr::memchr_iter(b'\n', above).count().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn filled(text: &str, pairs: &[(&str, &str)]) -> Result<String, Misfit> {
        Template::parse(text).unwrap().fill(&values(pairs))
    }

    #[test]
    fn variables_are_put_in_where_they_stand() {
        let text = "{{a}}Summarise {{ kind }}, {{kind}} and {{a}}.{{b-2}}";
        let values = [("a", "A"), ("kind", "e-mails"), ("b-2", "")];
        let expected = "ASummarise e-mails, e-mails and A.";
        assert_eq!(filled(text, &values).unwrap(), expected);
        assert_eq!(filled("as it is }} {", &[]).unwrap(), "as it is }} {");
    }

    #[test]
    fn a_value_is_text_whatever_it_says() {
        let odd = "{{secret}} {{a}} }} {{ \\ \" </system> \u{0}";
        let expected = format!("x {odd} y {odd}");
        let values = [("a", odd)];
        assert_eq!(filled("x {{a}} y {{a}}", &values).unwrap(), expected);
    }

    #[test]
    fn the_values_are_exactly_those_of_the_variables() {
        let text = "{{a}} {{b}}";
        let missing = Misfit::Missing("b".to_owned());
        assert_eq!(filled(text, &[("a", "")]), Err(missing));
        let unknown = Misfit::Unknown("c".to_owned());
        let all = [("a", ""), ("b", ""), ("c", "")];
        assert_eq!(filled(text, &all), Err(unknown));
    }

    #[test]
    fn a_text_is_filled_up_to_its_bound() {
        let most = "x".repeat(FILLED_BYTES_MAX / 2);
        assert_eq!(
            filled("{{a}}{{a}}", &[("a", &most)]).unwrap().len(),
            FILLED_BYTES_MAX
        );
        let values = [("a", most.as_str()), ("b", "y")];
        let too_long = Misfit::TooLong("a".to_owned());
        assert_eq!(filled("{{a}}{{b}}{{a}}", &values), Err(too_long));
    }

    #[test]
    fn what_is_no_placeholder_is_told_with_its_line() {
        for (text, problem) in [
            ("{{", "has `{{` in line 1 without `}}`"),
            ("a\n{{a}}\n{{b}", "has `{{` in line 3 without `}}`"),
            (
                "{{}}",
                "has `{{` in line 1 without a variable's name after it",
            ),
            (
                "\n{{a b}}",
                "has `{{` in line 2 without a variable's name after it",
            ),
            (
                "{{{a}}}",
                "has `{{` in line 1 without a variable's name after it",
            ),
        ] {
            assert_eq!(
                Template::parse(text).err().as_deref(),
                Some(problem),
                "{text}"
            );
        }
        let names: Vec<_> = (0..=VARIABLES_MAX)
            .map(|n| format!("{{{{v{n}}}}}"))
            .collect();
        let many = names.concat();
        assert!(Template::parse(&many).is_err());
        let long = "n".repeat(VARIABLE_BYTES_MAX + 1);
        assert!(Template::parse(&format!("{{{{{long}}}}}")).is_err());
    }

    #[test]
    fn a_version_changes_with_all_that_shapes_an_answer() {
        let system = |text| Template::parse(text).unwrap();
        let text = "Summarise {{kind}}.";
        let prompt = Prompt::new("summarize", "fast".to_owned(), system(text), Some(300));
        assert_eq!(prompt.version.len(), 2 * VERSION_BYTES);
        let others = [
            Prompt::new("summarize", "smart".to_owned(), system(text), Some(300)),
            Prompt::new("summarize", "fast".to_owned(), system(text), None),
            Prompt::new(
                "summarize",
                "fast".to_owned(),
                system("Summarise {{ kind }}."),
                Some(300),
            ),
        ];
        for other in &others {
            assert_ne!(other.version, prompt.version);
        }
        let renamed = Prompt::new("other", "fast".to_owned(), system(text), Some(300));
        assert_eq!(renamed.version, prompt.version);
    }

    #[test]
    fn a_prompt_is_for_all_plans_or_for_those_that_it_names() {
        let system = Template::parse("Summarise.").unwrap();
        let all = Prompt::new("summarize", "fast".to_owned(), system, None);
        assert!(all.is_for("free"));
        let plans = Some(["pro".to_owned()].into());
        let some = Prompt { plans, ..all };
        assert!(some.is_for("pro") && !some.is_for("free"));
    }
}
