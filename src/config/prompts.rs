//! `[prompts.*]`, in `tollgate.toml` or one in a file of its own: `prompts/NAME.toml` beside it.
//!
//! Invariant: the model of every prompt has a price and an upstream and serves chat, and its plans exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sources;
use super::files::unreadable;
use super::findings::{Findings, Invalid, Problem};
use super::models::ServedModels;
use super::plans::{self, TOKENS_MAX};
use super::reader::Section;
use super::tree::{Node, Table, parse_document};
use crate::model::{Capability, ModelTable};
use crate::plan::Plans;
use crate::prompt::{Prompt, Prompts, Template};

/// The folder of prompts in files of their own.
const FOLDER: &str = "prompts";
/// How many prompts there may be.
const PROMPTS_MAX: usize = 1000;
/// The longest text of a prompt.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The longest file of a prompt.
const FILE_BYTES_MAX: u64 = 256 * 1024;

impl Sources {
    /// The files of prompts, by name: `prompts/*.toml` beside `tollgate.toml`, without those that an editor hides.
    #[must_use]
    pub fn prompt_files(&self) -> Vec<PathBuf> {
        let is_file = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let is_hidden = name.is_none_or(|name| name.starts_with('.'));
            !is_hidden && path.extension().is_some_and(|ending| ending == "toml")
        };
        let entries = std::fs::read_dir(self.prompt_folder())
            .into_iter()
            .flatten();
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_file(path))
            .take(PROMPTS_MAX.saturating_add(1))
            .collect();
        files.sort();
        files
    }

    fn prompt_folder(&self) -> PathBuf {
        let [settings, _] = self.files();
        settings.with_file_name(FOLDER)
    }
}

/// The prompts in files of their own, as if they stood in `tollgate.toml`.
pub(super) fn read_files(sources: &Sources, findings: &Findings) -> Result<Table, Invalid> {
    let mut prompts = Table::new();
    let mut complete = true;
    for path in sources.prompt_files() {
        match read_file(&path, findings) {
            Ok((name, node)) => drop(prompts.insert(name, node)),
            Err(Invalid) => complete = false,
        }
    }
    if complete { Ok(prompts) } else { Err(Invalid) }
}

fn read_file(path: &Path, findings: &Findings) -> Result<(String, Node), Invalid> {
    let place = path.display().to_string();
    let wrong = |place: &str, what| findings.error(FOLDER, place, what);
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let name = plans::name(stem.unwrap_or_default()).map_err(|what| wrong(&place, what))?;
    let bytes = std::fs::metadata(path).map_or(0, |facts| facts.len());
    if bytes > FILE_BYTES_MAX {
        let fix = format!("shorten it to {FILE_BYTES_MAX} bytes");
        let problem = format!("is a file of {bytes} bytes");
        return Err(wrong(&place, Problem::new(problem, fix)));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| wrong(&place, unreadable(path, &error)))?;
    let node = parse_document(&text, &Arc::from(place.as_str())).map_err(|bad| {
        let what = Problem::new(format!("is not TOML: {}", bad.message), "correct this line");
        wrong(&format!("{place}:{}", bad.line), what)
    })?;
    Ok((name, node))
}

/// Puts the prompts of files beside those of `tollgate.toml`. None may be in both.
pub(super) fn add_files(root: &mut Node, files: Table, findings: &Findings) {
    for (name, node) in files {
        let path = [FOLDER, name.as_str()];
        match root.at(&path) {
            None => drop(root.set(&path, node)),
            Some(other) => {
                let problem = format!("is in {} and in {}", other.origin, node.origin);
                let what = Problem::new(problem, "keep one of the two");
                findings.error(format!("{FOLDER}.{name}"), &node.origin, what);
            }
        }
    }
}

/// `[prompts.*]`
pub(super) fn prompts(
    section: &Section<'_>,
    served: &ServedModels<'_>,
    plans: Option<&Plans>,
) -> Result<Prompts, Invalid> {
    let scope = PromptScope {
        served,
        models: served.table(),
        plans,
    };
    let mut prompts = Prompts::new();
    let mut complete = true;
    for key in section.keys() {
        let valid = section.note(key, plans::name(key));
        let prompt = section
            .section(key)
            .and_then(|section| prompt(key, &section, &scope));
        match (valid, prompt) {
            (Ok(name), Ok(prompt)) => drop(prompts.insert(name, Arc::new(prompt))),
            _ => complete = false,
        }
    }
    if prompts.len() > PROMPTS_MAX {
        let what = Problem::new(
            format!("has more than {PROMPTS_MAX} prompts"),
            "take some out",
        );
        return Err(section.findings.error(FOLDER, section.origin, what));
    }
    if complete { Ok(prompts) } else { Err(Invalid) }
}

fn prompt(name: &str, section: &Section<'_>, scope: &PromptScope<'_>) -> Result<Prompt, Invalid> {
    let model = section.parsed("model", "gpt-6-luna", |model| scope.model(model));
    let system = section.parsed("system", "You summarise {{kind}}.", template);
    let max_output_tokens = section.maybe_integer("max_output_tokens", 1..=TOKENS_MAX);
    let plans = scope.plans(section);
    section.finish();
    let prompt = Prompt::new(name, model?, system?, max_output_tokens?);
    Ok(Prompt {
        plans: plans?,
        ..prompt
    })
}

fn template(text: &str) -> Result<Template, Problem> {
    if text.trim().is_empty() {
        let fix = "write what the model is to do: system = \"You summarise {{kind}}.\"";
        return Err(Problem::new("is empty", fix));
    }
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("has {} bytes", text.len());
        let fix = format!("shorten it to {TEXT_BYTES_MAX} bytes");
        return Err(Problem::new(problem, fix));
    }
    let fix = "write {{name}} for a variable, the name of letters, digits, _ and -; two opening braces mean nothing else";
    Template::parse(text).map_err(|problem| Problem::new(problem, fix))
}

/// What a prompt may name.
struct PromptScope<'a> {
    served: &'a ServedModels<'a>,
    /// What models serve; `None` if their section has errors.
    models: Option<ModelTable>,
    /// `None` if their section has errors.
    plans: Option<&'a Plans>,
}

impl PromptScope<'_> {
    /// A model of a prompt: as one of a plan, and it serves chat.
    fn model(&self, model: &str) -> Result<String, Problem> {
        let name = self.served.entry(model)?;
        let serves = |models: &ModelTable| {
            let mut candidates = self.served.candidates(&name);
            candidates.any(|model| models.serves(model, Capability::Chat))
        };
        if self.models.as_ref().is_none_or(serves) {
            return Ok(name);
        }
        let problem = format!("names `{name}`, which does not serve chat");
        Err(Problem::new(problem, "name a model for chat"))
    }

    /// The plans that a prompt is for, if it is not for all.
    fn plans(&self, section: &Section<'_>) -> Result<Option<BTreeSet<String>>, Invalid> {
        if section.get("plans").is_none() {
            return Ok(None);
        }
        let written = section.texts("plans")?;
        if written.is_empty() {
            let fix = "name a plan; or take it out, if the prompt is for all plans";
            return Err(section.wrong("plans", Problem::new("is empty", fix)));
        }
        let known = |name: &&String| {
            self.plans
                .is_none_or(|plans| plans.by_name.contains_key(*name))
        };
        if let (Some(unknown), Some(plans)) = (written.iter().find(|name| !known(name)), self.plans)
        {
            let problem = format!("names the plan `{unknown}`, which there is not");
            let fix = format!("name one of: {}", plans::names(plans));
            return Err(section.wrong("plans", Problem::new(problem, fix)));
        }
        Ok(Some(written.into_iter().collect()))
    }
}
