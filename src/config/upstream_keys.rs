//! The keys of upstreams, from the variables that hold them.

use secrecy::{ExposeSecret, SecretString};

use super::findings::{Invalid, Problem};
use super::presets::Preset;
use super::reader::{Section, secret};
use super::source::RawSettings;
use super::urls::Address;
use crate::dialect::Dialect;

/// The name of the upstream that needs no `base_url`.
pub(super) const OPENAI: &str = "openai";
/// The variable of its key.
pub(super) const OPENAI_KEY: &str = "OPENAI_API_KEY";
/// What ends the name of the variable that holds the key before the one in force.
pub(super) const PREVIOUS: &str = "_PREVIOUS";

/// What decides whether an upstream needs a key.
pub(super) struct KeyRequirement<'a> {
    pub(super) name: &'a str,
    pub(super) base: &'a Address,
    pub(super) dialect: Dialect,
    pub(super) preset: Option<Preset>,
    /// The variable that is written.
    pub(super) variable: Option<String>,
}

impl KeyRequirement<'_> {
    /// The variable that holds the key, and whether it must be set. A preset's own is needed at its own address; elsewhere
    /// it is taken where it is set.
    fn variable(&self) -> Option<(&str, bool)> {
        if let Some(variable) = &self.variable {
            return Some((variable, true));
        }
        let is_openai = self.dialect == Dialect::Openai;
        if is_openai || self.name == OPENAI {
            return Some((OPENAI_KEY, is_openai && !self.base.is_loopback()));
        }
        let preset = self.preset?;
        let is_at_home = preset.base_url == Some(self.base.text.as_str());
        Some((preset.api_key_env?, is_at_home))
    }
}

/// The operator's key. An error where one is needed and there is none.
pub(super) fn api_key(
    section: &Section<'_>,
    requirement: &KeyRequirement<'_>,
    raw: &RawSettings,
) -> Result<Option<SecretString>, Invalid> {
    let Some((variable, needed)) = requirement.variable() else {
        return Ok(None);
    };
    match raw.variable(variable) {
        Some((text, origin)) => {
            let path = format!("{} ({variable})", section.path_of("api_key_env"));
            let read = match raw.unreadable(variable) {
                Some(what) => Err(what),
                None if text.is_empty() && needed => Err(Problem::new(
                    "is an empty secret",
                    format!("set {variable} to the key of `{}`", requirement.name),
                )),
                None => key(text),
            };
            read.map(Some)
                .map_err(|what| section.findings.error(path, origin, what))
        }
        None if needed => {
            let fix = format!(
                "set {variable} in the environment or in .env to the key of `{}`",
                requirement.name
            );
            let what = Problem::new(format!("needs a key, and {variable} is not set"), fix);
            Err(section
                .findings
                .error(section.path_of("api_key_env"), &raw.place, what))
        }
        None => Ok(None),
    }
}

/// The key before the current one, during a rotation. An empty variable counts as unset.
pub(super) fn previous_key(
    section: &Section<'_>,
    requirement: &KeyRequirement<'_>,
    raw: &RawSettings,
) -> Result<Option<SecretString>, Invalid> {
    let Some((variable, _)) = requirement.variable() else {
        return Ok(None);
    };
    let variable = format!("{variable}{PREVIOUS}");
    let said = raw.variable(&variable).filter(|(text, _)| !text.is_empty());
    let Some((text, origin)) = said else {
        return Ok(None);
    };
    key(text)
        .map(Some)
        .map_err(|what| section.findings.error(variable, origin, what))
}

/// A key that can stand in a header.
fn key(text: &str) -> Result<SecretString, Problem> {
    let key = secret(text)?;
    if key
        .expose_secret()
        .chars()
        .all(|letter| letter.is_ascii_graphic())
    {
        return Ok(key);
    }
    Err(Problem::new(
        "holds a space, a line break or a letter beyond ASCII",
        "copy the key again, without anything around it",
    ))
}
