//! Reads typed values from a table of settings and reports errors.
//!
//! A key exists because something asked for it: what was never asked for is unknown, and refused with the nearest
//! name that was. Each reader gives [`Invalid`] when it has noted an error, so that the caller can read on and say all
//! that is wrong at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::SecretString;

use super::findings::{Findings, Invalid, Problem, nearest};
use super::secrets;
use super::tree::{Node, Origin, Table, Value, parse_value};
use super::units;
use super::{ConfigError, ConfigErrors};

/// A table of settings and its dotted path.
pub(super) struct Section<'a> {
    path: String,
    table: &'a Table,
    /// Where the table is set.
    pub(super) origin: &'a Origin,
    pub(super) findings: &'a Findings,
    asked: RefCell<BTreeSet<String>>,
}

/// A plain key, or a quoted one where TOML wants quotes.
fn spelled(key: &str) -> String {
    let bare = key
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-');
    if bare && !key.is_empty() {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}

impl<'a> Section<'a> {
    /// The table in `node`; an error if it is not a table.
    pub(super) fn of(
        path: String,
        node: &'a Node,
        findings: &'a Findings,
    ) -> Result<Self, Invalid> {
        let Value::Table(table) = &node.value else {
            let problem = format!("is {}, not a table", node.value.kind());
            let fix = format!("write it as a section: [{path}]");
            return Err(findings.error(path, &node.origin, Problem::new(problem, fix)));
        };
        Ok(Self {
            path,
            table,
            origin: &node.origin,
            findings,
            asked: RefCell::default(),
        })
    }

    /// The full path of a key in it.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            spelled(key)
        } else {
            format!("{}.{}", self.path, spelled(key))
        }
    }

    /// Its own path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Every key that is there.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(String::as_str)
    }

    /// The value of a key. From now on the key counts as known.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.findings.know(self.path_of(key));
        self.table.get(key)
    }

    /// The table under a key that is there.
    pub(super) fn section(&self, key: &str) -> Result<Section<'a>, Invalid> {
        Section::of(
            self.path_of(key),
            self.get(key).ok_or(Invalid)?,
            self.findings,
        )
    }

    /// Adds an error about a key.
    pub(super) fn wrong(&self, key: &str, what: Problem) -> Invalid {
        let place = self.table.get(key).map_or(self.origin, |node| &node.origin);
        self.findings.error(self.path_of(key), place, what)
    }

    /// The error about a key, without adding it.
    pub(super) fn says(&self, key: &str, what: Problem) -> ConfigErrors {
        let place = self
            .table
            .get(key)
            .map_or(self.origin, |node| &node.origin)
            .to_string();
        ConfigErrors(vec![ConfigError {
            key: self.path_of(key),
            place,
            problem: what.problem,
            fix: what.fix,
        }])
    }

    /// Adds an error for every key that was not read.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, node) in self.table.iter().filter(|(key, _)| !asked.contains(*key)) {
            let known = asked.iter().map(String::as_str);
            let fix = match nearest(key, known) {
                Some(near) => format!("did you mean `{near}`? Otherwise take it out"),
                None => format!(
                    "take it out; known here: {}",
                    asked.iter().cloned().collect::<Vec<_>>().join(", ")
                ),
            };
            self.findings.error(
                self.path_of(key),
                &node.origin,
                Problem::new("is not a known key", fix),
            );
        }
    }

    /// A text that `read` accepts, if the key is there. `example` is shown in the error for a value of another type.
    pub(super) fn maybe<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Result<Option<T>, Invalid> {
        let Some(node) = self.get(key) else {
            return Ok(None);
        };
        let read = match &node.value {
            Value::Text(text) | Value::Raw(text) => read(text),
            other => {
                let fix = format!("write it in quotes: {key} = \"{example}\"");
                Err(Problem::new(format!("is {}, not text", other.kind()), fix))
            }
        };
        self.note(key, read).map(Some)
    }

    /// A text that `read` accepts. The key must be there.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Result<T, Invalid> {
        let found = self.maybe(key, example, read)?;
        found.ok_or_else(|| {
            self.wrong(
                key,
                Problem::new("is missing", format!("add {key} = \"{example}\"")),
            )
        })
    }

    /// A length of time within bounds.
    pub(super) fn duration(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Duration, Invalid> {
        let found = self.maybe_duration(key, bounds)?;
        found.ok_or_else(|| {
            self.wrong(
                key,
                Problem::new("is missing", format!("add {key} = \"60s\"")),
            )
        })
    }

    /// A length of time within bounds, where there is one.
    pub(super) fn maybe_duration(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, Invalid> {
        self.maybe(key, "60s", |text| {
            within(units::duration(text)?, &bounds, |length| {
                units::show_duration(*length)
            })
        })
    }

    /// A size within bounds.
    pub(super) fn size(&self, key: &str, bounds: RangeInclusive<usize>) -> Result<usize, Invalid> {
        self.parsed(key, &units::show_size(*bounds.start()), |text| {
            within(units::size(text)?, &bounds, |bytes| {
                units::show_size(*bytes)
            })
        })
    }

    /// A secret, where there is one. An empty one is refused.
    pub(super) fn secret(&self, key: &str) -> Result<Option<SecretString>, Invalid> {
        self.maybe(key, "…", secret)
    }

    /// A whole number within bounds, where there is one.
    pub(super) fn maybe_integer<T>(
        &self,
        key: &str,
        bounds: RangeInclusive<T>,
    ) -> Result<Option<T>, Invalid>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let Some(node) = self.get(key) else {
            return Ok(None);
        };
        self.note(key, integer(&node.value, &bounds)).map(Some)
    }

    /// A whole number within bounds; it must be there.
    pub(super) fn integer<T>(&self, key: &str, bounds: RangeInclusive<T>) -> Result<T, Invalid>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let least = bounds.start().to_string();
        let found = self.maybe_integer(key, bounds)?;
        found.ok_or_else(|| {
            self.wrong(
                key,
                Problem::new("is missing", format!("add {key} = {least}")),
            )
        })
    }

    /// `true` or `false`; `false` by default.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Invalid> {
        let Some(node) = self.get(key) else {
            return Ok(false);
        };
        let value = match &node.value {
            Value::Boolean(value) => Ok(*value),
            Value::Raw(text) if text == "true" => Ok(true),
            Value::Raw(text) if text == "false" => Ok(false),
            other => {
                let problem = format!("is {}, neither true nor false", other.kind());
                Err(Problem::new(
                    problem,
                    format!("write {key} = true, without quotes"),
                ))
            }
        };
        self.note(key, value)
    }

    /// A list of texts; a variable may also separate them by commas. The default is an empty list.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, Invalid> {
        let Some(node) = self.get(key) else {
            return Ok(Vec::new());
        };
        self.note(key, texts(key, node))
    }

    /// The elements of a list with the path of each, where there is a list.
    pub(super) fn elements(&self, key: &str) -> Result<Vec<(String, Node)>, Invalid> {
        let Some(node) = self.get(key) else {
            return Ok(Vec::new());
        };
        let items = self.note(key, list(key, node))?;
        let path = self.path_of(key);
        Ok(items
            .into_iter()
            .enumerate()
            .map(|(index, item)| (format!("{path}[{index}]"), item))
            .collect())
    }

    /// Returns a value, or adds the error.
    pub(super) fn note<T>(&self, key: &str, result: Result<T, Problem>) -> Result<T, Invalid> {
        result.map_err(|what| self.wrong(key, what))
    }
}

/// A text to be kept secret; an empty one is refused.
pub(super) fn secret(text: &str) -> Result<SecretString, Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(
            "is an empty secret",
            "give it a value, or take it out altogether",
        ));
    }
    secrets::bare(text)?;
    Ok(SecretString::from(text))
}

fn within<T: PartialOrd>(
    value: T,
    bounds: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, Problem> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (show(bounds.start()), show(bounds.end()));
    let problem = format!("{} is out of range", show(&value));
    Err(Problem::new(
        problem,
        format!("choose a value from {least} to {most}"),
    ))
}

fn integer<T>(value: &Value, bounds: &RangeInclusive<T>) -> Result<T, Problem>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    let (least, most) = (bounds.start(), bounds.end());
    let out = |what: &str| {
        Problem::new(
            format!("{what} is out of range"),
            format!("choose a value from {least} to {most}"),
        )
    };
    let number = match value {
        Value::Integer(Some(number)) => *number,
        Value::Integer(None) => return Err(out("this number")),
        Value::Raw(text) => text.trim().parse().map_err(|_| not_whole("text"))?,
        other => return Err(not_whole(other.kind())),
    };
    let fitting = T::try_from(number)
        .ok()
        .filter(|number| bounds.contains(number));
    fitting.ok_or_else(|| out(&number.to_string()))
}

fn not_whole(kind: &str) -> Problem {
    Problem::new(
        format!("is {kind}, not a whole number"),
        "write a whole number, without quotes",
    )
}

fn list(key: &str, node: &Node) -> Result<Vec<Node>, Problem> {
    let fix = || format!("write a list: {key} = […]");
    match &node.value {
        Value::Array(items) => Ok(items.clone()),
        Value::Raw(text) => match parse_value(text, &node.origin).map(|node| node.value) {
            Ok(Value::Array(items)) => Ok(items),
            Ok(other) => Err(Problem::new(
                format!("is {}, not a list", other.kind()),
                fix(),
            )),
            Err(bad) => Err(Problem::new(
                format!("is not a TOML list ({})", bad.message),
                fix(),
            )),
        },
        other => Err(Problem::new(
            format!("is {}, not a list", other.kind()),
            fix(),
        )),
    }
}

fn texts(key: &str, node: &Node) -> Result<Vec<String>, Problem> {
    if let Value::Raw(text) = &node.value
        && !text.trim_start().starts_with('[')
    {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        return Ok(parts.map(str::to_owned).collect());
    }
    let text_of = |item: Node| match item.value {
        Value::Text(text) | Value::Raw(text) => Ok(text),
        other => {
            let problem = format!("holds {}, where text is wanted", other.kind());
            Err(Problem::new(
                problem,
                format!("write every element in quotes: {key} = [\"…\"]"),
            ))
        }
    };
    list(key, node)?.into_iter().map(text_of).collect()
}
