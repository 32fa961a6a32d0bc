//! Merges the sources of settings into one tree: the defaults, `tollgate.toml`, `.env`, the environment. A later source
//! overrides an earlier one.
//!
//! It knows which key of the tree a variable sets. Which values the key may have is checked elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::files::{Variable, config_file, dot_env, environment};
use super::findings::{Findings, Invalid, Problem, nearest};
use super::names::{
    CONFIG_VARIABLE, FILE, QUICK, SECTIONS, after_prefix, is_from_kubernetes, variable_of,
};
use super::tree::{Node, Origin, Table, Value, parse_defaults, parse_value};
use super::values::text_of;
use super::{EXAMPLE, Sources, prompts};

/// The settings of all sources in one tree.
pub(super) struct RawSettings {
    /// The tree of settings.
    pub(super) root: Node,
    /// The file that was read, where there was one.
    pub(super) file: Option<PathBuf>,
    /// The place to name in errors about missing settings.
    pub(super) place: String,
    /// `TOLLGATE_…` variables that name no setting.
    strays: Vec<Variable>,
    variables: BTreeMap<String, Variable>,
}

/// Reads every source.
pub(super) fn gather(sources: &Sources, findings: &Findings) -> Result<RawSettings, Invalid> {
    let file = config_file(sources, findings);
    let dot_env = dot_env(sources, findings);
    let prompts = prompts::read_files(sources, findings);
    let (file, dot_env, prompts) = (file?, dot_env?, prompts?);
    let variables: Vec<_> = dot_env
        .into_iter()
        .chain(environment(&sources.env))
        .collect();
    let mut raw = covered(file, &variables);
    prompts::add_files(&mut raw.root, prompts, findings);
    for variable in variables {
        raw.apply(variable, findings);
    }
    Ok(raw)
}

/// The defaults and variables only, without files.
pub(super) fn from_variables(env: &BTreeMap<String, String>, findings: &Findings) -> RawSettings {
    assemble(None, environment(env), findings)
}

/// One text of the settings. Errors elsewhere do not matter.
pub(super) fn text_at(sources: &Sources, path: &[&str]) -> Option<String> {
    let findings = Findings::default();
    let file = config_file(sources, &findings).ok().flatten();
    let dot_env = dot_env(sources, &findings).unwrap_or_default();
    let raw = assemble(
        file,
        dot_env
            .into_iter()
            .chain(environment(&sources.env))
            .collect(),
        &findings,
    );
    match &raw.root.at(path)?.value {
        Value::Text(text) | Value::Raw(text) => Some(text.clone()),
        _ => None,
    }
}

/// The settings as far as they can be read. `None` if a part that cannot be read may set `section`.
pub(super) fn readable(
    sources: &Sources,
    section: &str,
    findings: &Findings,
) -> Option<RawSettings> {
    let file = config_file(sources, findings);
    if file.is_err() {
        let [path, _] = sources.files();
        let text = std::fs::read_to_string(path).ok()?;
        if text.contains(section) {
            return None;
        }
    }
    let dot_env = dot_env(sources, findings).ok()?;
    let variables = dot_env
        .into_iter()
        .chain(environment(&sources.env))
        .collect();
    Some(assemble(file.ok().flatten(), variables, findings))
}

/// Merges every source into the defaults.
fn assemble(
    file: Option<(PathBuf, Node)>,
    variables: Vec<Variable>,
    findings: &Findings,
) -> RawSettings {
    let mut raw = covered(file, &variables);
    for variable in variables {
        raw.apply(variable, findings);
    }
    raw
}

/// The defaults with the file over them.
fn covered(file: Option<(PathBuf, Node)>, variables: &[Variable]) -> RawSettings {
    let mut root = parse_defaults(EXAMPLE);
    let place = match &file {
        Some((path, _)) => path.display().to_string(),
        None => format!("there is no {FILE}, and no variable says it"),
    };
    let path = file.as_ref().map(|(path, _)| path.clone());
    let said = file.map(|(_, node)| node);
    if names_plans(said.as_ref(), variables) {
        forget(&mut root, "plans");
    }
    if let Some(node) = said {
        root.cover(node);
    }
    RawSettings {
        root,
        file: path,
        place,
        strays: Vec::new(),
        variables: BTreeMap::new(),
    }
}

/// Settings with plans of their own replace the built-in plan.
fn names_plans(file: Option<&Node>, variables: &[Variable]) -> bool {
    let in_file = file.is_some_and(
        |node| matches!(&node.value, Value::Table(table) if table.contains_key("plans")),
    );
    in_file
        || variables
            .iter()
            .any(|variable| variable.name.eq_ignore_ascii_case("TOLLGATE_PLANS"))
}

fn forget(root: &mut Node, key: &str) {
    if let Value::Table(table) = &mut root.value {
        table.remove(key);
    }
}

impl RawSettings {
    /// A variable by its exact name, if it is set, with its origin. It may be empty.
    pub(super) fn variable(&self, name: &str) -> Option<(&str, &Origin)> {
        self.variables
            .get(name)
            .map(|variable| (variable.value.as_str(), &variable.origin))
    }

    /// The error in the line that sets it.
    pub(super) fn unreadable(&self, name: &str) -> Option<Problem> {
        self.variables.get(name)?.unreadable.clone()
    }

    /// Sets a variable's key in the tree, if it is one of ours.
    fn apply(&mut self, variable: Variable, findings: &Findings) {
        let quick = QUICK.iter().find(|(name, _)| *name == variable.name);
        if variable.name == CONFIG_VARIABLE {
            refuse_config_in_dot_env(&variable, findings);
        } else if let Some((name, path)) = quick {
            self.lay_quick(name, path, &variable);
        } else if let Some(rest) = after_prefix(&variable.name).map(str::to_owned)
            && !is_from_kubernetes(&rest, &variable.value)
        {
            self.lay_key(&rest, &variable, findings);
        }
        self.variables.insert(variable.name.clone(), variable);
    }

    /// An empty variable counts as unset, unless it is a secret: an empty secret is a mistake, and refused.
    fn lay_quick(&mut self, name: &str, path: &[&str], variable: &Variable) {
        let is_secret =
            name.ends_with("SECRET") || name.ends_with("KEY") || name.ends_with("TOKEN");
        if variable.value.is_empty() && !is_secret {
            return;
        }
        if name == "DATABASE_URL" && self.lay_ledger(variable) {
            return;
        }
        let text = match name {
            "PORT" => self.with_port(path, &variable.value),
            _ => variable.value.clone(),
        };
        self.root.set(
            path,
            Node {
                value: Value::Text(text),
                origin: variable.origin.clone(),
            },
        );
    }

    /// The address that was set before, with another port.
    fn with_port(&self, path: &[&str], port: &str) -> String {
        let said = self.root.at(path).and_then(text_of).unwrap_or("0.0.0.0");
        let host = match said.rsplit_once(':') {
            // An address of IPv6 has colons of its own, in brackets.
            Some((host, port)) if !port.ends_with(']') => host,
            _ => said,
        };
        format!("{host}:{port}")
    }

    /// `DATABASE_URL` is the ledger, unless `[store] url` says where that is, whichever was said later: who writes both
    /// wants them apart. True: it is the ledger and nothing else, as only Postgres is a directory as well.
    fn lay_ledger(&mut self, variable: &Variable) -> bool {
        let is_postgres = variable.value.starts_with("postgres");
        let said = self.root.at(&["store", "url"]).map(|node| &node.origin);
        let by_us = |origin: &Origin| matches!(origin, Origin::Variable(name) if name.starts_with("DATABASE_URL"));
        if !said.is_none_or(by_us) {
            return variable.value.starts_with("sqlite:");
        }
        let node = Node {
            value: Value::Text(variable.value.clone()),
            origin: variable.origin.clone(),
        };
        self.root.set(&["store", "url"], node);
        !is_postgres
    }

    /// `SECTION__KEY`, `SECTION` for a whole one, and deeper.
    fn lay_key(&mut self, rest: &str, variable: &Variable, findings: &Findings) {
        let path: Vec<&str> = rest.split("__").collect();
        let section = path
            .first()
            .map(|section| section.to_ascii_lowercase())
            .unwrap_or_default();
        if !SECTIONS.contains(&section.as_str()) || path.iter().any(|part| part.is_empty()) {
            self.strays.push(variable.clone());
            return;
        }
        let Ok(node) = leaf(&path, &section, variable, findings) else {
            return;
        };
        if !self.root.set(&path, node) {
            let fix = "name a table or an index of a list in every step but the last";
            findings.error(
                path.join(".").to_lowercase(),
                &variable.origin,
                Problem::new("leads nowhere", fix),
            );
        }
    }

    /// Adds an error for each variable that names no setting, with the name that was probably meant.
    pub(super) fn refuse_unknown_variables(&self, findings: &Findings) {
        let mut names: Vec<String> = SECTIONS
            .iter()
            .map(|section| variable_of(section))
            .collect();
        names.push("TOLLGATE_ADMIN_TOKEN".to_owned());
        names.extend(findings.known().iter().map(|key| variable_of(key)));
        for stray in &self.strays {
            let upper = stray.name.to_ascii_uppercase();
            let ending = |name: &&String| {
                after_prefix(&upper).is_some_and(|rest| name.ends_with(&format!("__{rest}")))
            };
            let near = names.iter().find(ending).map(String::as_str);
            let near = near.or_else(|| nearest(&upper, names.iter().map(String::as_str)));
            let fix = match near {
                Some(name) => format!("did you mean {name}? Otherwise unset it"),
                None => "write TOLLGATE_SECTION__KEY, such as TOLLGATE_SERVER__BIND, or unset it"
                    .to_owned(),
            };
            findings.error(
                &stray.name,
                &stray.origin,
                Problem::new("is not a known setting", fix),
            );
        }
    }
}

/// `TOLLGATE_CONFIG` in `.env` is an error: that file has been found already.
fn refuse_config_in_dot_env(variable: &Variable, findings: &Findings) {
    if !matches!(&variable.origin, Origin::Variable(name) if *name == variable.name) {
        let fix = "set it in the environment, or say --config";
        findings.error(
            &variable.name,
            &variable.origin,
            Problem::new("does nothing in a file", fix),
        );
    }
}

/// The value of a variable: a whole section, plan, price or upstream is a TOML value; anything else is read by its key.
fn leaf(
    path: &[&str],
    section: &str,
    variable: &Variable,
    findings: &Findings,
) -> Result<Node, Invalid> {
    let whole = match path.len() {
        1 => true,
        2 => [
            "upstreams",
            "models",
            "plans",
            "products",
            "prompts",
            "prices",
        ]
        .contains(&section),
        _ => false,
    };
    if !whole {
        return Ok(Node {
            value: Value::Raw(variable.value.clone()),
            origin: variable.origin.clone(),
        });
    }
    let read = parse_value(&variable.value, &variable.origin);
    read.map_err(|bad| {
        let fix =
            "write an inline table, such as { bind = \"127.0.0.1:8080\" }, or set one key of it";
        let problem = format!("is not a TOML value: {}", bad.message);
        findings.error(
            path.join(".").to_lowercase(),
            &variable.origin,
            Problem::new(problem, fix),
        )
    })
}

/// The empty table, for a section that is missing.
pub(super) fn empty() -> Node {
    Node {
        value: Value::Table(Table::new()),
        origin: Origin::Default,
    }
}
