//! Gathers what was said: the defaults, `tollgate.toml`, `.env`, the environment; the later covers the earlier.
//!
//! It knows where a variable belongs in the tree of settings, and not
//! what may be said there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dotenv;
use super::findings::{Complaint, Findings, Noted, complaint, nearest};
use super::load::text_of;
use super::tree::{Node, Origin, Table, Value, parse_defaults, parse_document, parse_value};
use super::{EXAMPLE, Sources};

/// The file of settings, looked for in the working directory.
pub(super) const FILE: &str = "tollgate.toml";
pub(super) const DOT_ENV: &str = ".env";
/// Says where the files are, as `--config` does. It is no setting: it counts in the environment only.
pub(super) const CONFIG_VARIABLE: &str = "TOLLGATE_CONFIG";
const PREFIX: &str = "TOLLGATE_";

/// A variable and where it was said.
#[derive(Clone)]
struct Variable {
    name: String,
    value: String,
    origin: Origin,
    /// Its line in `.env` cannot be read. Only another program's, or one that `api_key_env` names.
    unreadable: Option<Complaint>,
}

/// Everything that was said.
pub(super) struct Gathered {
    /// The tree of settings.
    pub(super) root: Node,
    /// The file that was read, where there was one.
    pub(super) file: Option<PathBuf>,
    /// Where something should have been said that was not.
    pub(super) place: String,
    /// `TOLLGATE_…` variables that lead nowhere.
    strays: Vec<Variable>,
    variables: BTreeMap<String, Variable>,
}

/// Variables of the quick start, and the key that each of them is.
const QUICK: [(&str, [&str; 2]); 8] = [
    ("PORT", ["server", "bind"]),
    ("DATABASE_URL", ["directory", "database_url"]),
    ("SUPABASE_URL", ["auth", "supabase_url"]),
    ("SUPABASE_SERVICE_KEY", ["directory", "supabase_service_key"]),
    ("JWT_SECRET", ["auth", "jwt_secret"]),
    ("JWT_SECRET_PREVIOUS", ["auth", "jwt_secret_previous"]),
    ("TOLLGATE_ADMIN_TOKEN", ["server", "admin_token"]),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", ["telemetry", "otlp_endpoint"]),
];

/// Variables that are read where they are wanted, and are no key.
const OTHERS: [&str; 5] =
    ["OPENAI_API_KEY", "OPENAI_API_KEY_PREVIOUS", "OPENAI_BASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"];

/// The sections that there are.
pub(super) const SECTIONS: [&str; 10] =
    ["server", "auth", "store", "directory", "proxy", "ceiling", "telemetry", "upstreams", "plans", "prices"];

/// Reads every source.
pub(super) fn gather(sources: &Sources, findings: &Findings) -> Result<Gathered, Noted> {
    let file = config_file(sources, findings);
    let dot_env = dot_env(sources, findings);
    let (file, dot_env) = (file?, dot_env?);
    Ok(assemble(file, dot_env.into_iter().chain(environment(&sources.env)).collect(), findings))
}

/// Variables alone, over the defaults: no file is looked at.
pub(super) fn from_variables(env: &BTreeMap<String, String>, findings: &Findings) -> Gathered {
    assemble(None, environment(env), findings)
}

/// A text of the settings, from what can be read of them; what is wrong elsewhere does not matter.
pub(super) fn text_at(sources: &Sources, path: &[&str]) -> Option<String> {
    let findings = Findings::default();
    let file = config_file(sources, &findings).ok().flatten();
    let dot_env = dot_env(sources, &findings).unwrap_or_default();
    let gathered = assemble(file, dot_env.into_iter().chain(environment(&sources.env)).collect(), &findings);
    match &gathered.root.at(path)?.value {
        Value::Text(text) | Value::Raw(text) => Some(text.clone()),
        _ => None,
    }
}

/// What was said, as far as it can be read, if nothing that cannot be read may say `section` too.
pub(super) fn readable(sources: &Sources, section: &str, findings: &Findings) -> Option<Gathered> {
    let file = config_file(sources, findings);
    if file.is_err() {
        let [path, _] = sources.files();
        let text = std::fs::read_to_string(path).ok()?;
        if text.contains(section) {
            return None;
        }
    }
    let dot_env = dot_env(sources, findings).ok()?;
    let variables = dot_env.into_iter().chain(environment(&sources.env)).collect();
    Some(assemble(file.ok().flatten(), variables, findings))
}

/// Lays every source on the defaults.
fn assemble(file: Option<(PathBuf, Node)>, variables: Vec<Variable>, findings: &Findings) -> Gathered {
    let mut root = parse_defaults(EXAMPLE);
    let place = match &file {
        Some((path, _)) => path.display().to_string(),
        None => format!("there is no {FILE}, and no variable says it"),
    };
    let path = file.as_ref().map(|(path, _)| path.clone());
    let said = file.map(|(_, node)| node);
    if names_plans(said.as_ref(), &variables) {
        forget(&mut root, "plans");
    }
    if let Some(node) = said {
        root.cover(node);
    }
    let mut gathered = Gathered { root, file: path, place, strays: Vec::new(), variables: BTreeMap::new() };
    for variable in variables {
        gathered.lay(variable, findings);
    }
    gathered
}

/// Whoever names plans does not want the built-in one beside them.
fn names_plans(file: Option<&Node>, variables: &[Variable]) -> bool {
    let in_file = file.is_some_and(|node| matches!(&node.value, Value::Table(table) if table.contains_key("plans")));
    in_file || variables.iter().any(|variable| variable.name.eq_ignore_ascii_case("TOLLGATE_PLANS"))
}

fn forget(root: &mut Node, key: &str) {
    if let Value::Table(table) = &mut root.value {
        table.remove(key);
    }
}

/// The file of settings, where there is one.
fn config_file(sources: &Sources, findings: &Findings) -> Result<Option<(PathBuf, Node)>, Noted> {
    let [path, _] = sources.files();
    let name = path.display().to_string();
    // A file that is named must be there; a folder may hold none.
    let is_named = sources.file.as_ref().is_some_and(|named| sources.directory.join(named) == path);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(None),
        Err(error) => return Err(findings.error("--config", &name, unreadable(&path, &error))),
    };
    match parse_document(&text, &Arc::from(name.as_str())) {
        Ok(node) => Ok(Some((path, node))),
        Err(bad) => {
            let place = format!("{name}:{}", bad.line);
            Err(findings.error(
                "syntax",
                &place,
                complaint(format!("is not TOML: {}", bad.message), "correct this line"),
            ))
        }
    }
}

/// The variables in `.env`, in its order.
fn dot_env(sources: &Sources, findings: &Findings) -> Result<Vec<Variable>, Noted> {
    let [_, path] = sources.files();
    let name = path.display().to_string();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(findings.error(DOT_ENV, &name, unreadable(&path, &error))),
    };
    let entries = dotenv::read(&bytes, is_ours).map_err(|encoding| {
        let fix = "save it as UTF-8 (PowerShell: Out-File -Encoding utf8; an editor: Save with encoding)";
        findings.error(DOT_ENV, &name, complaint(format!("is written in {encoding}, not in UTF-8"), fix))
    })?;
    let mut variables = Vec::new();
    let mut wrong = None;
    for dotenv::Entry { name: key, line, value } in entries {
        let unreadable = value.as_ref().err().map(|what| unreadable_line(what));
        if let (Some(what), true) = (&unreadable, is_ours(&key)) {
            wrong = Some(findings.error(&key, &format!("line {line} of {name}"), what.clone()));
        }
        let origin = Origin::Variable(format!("{key} in line {line} of {name}"));
        variables.push(Variable { name: key, value: value.unwrap_or_default(), origin, unreadable });
    }
    wrong.map_or_else(|| Ok(port_last(variables)), Err)
}

/// The reader's own words never repeat the line, which may be a secret.
fn unreadable_line(what: &str) -> Complaint {
    complaint(what, "write NAME=value, with 'single quotes' around a value of more than letters and digits")
}

/// A variable that Tollgate reads by its name.
fn is_ours(name: &str) -> bool {
    let is_quick = QUICK.iter().any(|(quick, _)| *quick == name);
    is_quick || OTHERS.contains(&name) || after_prefix(name).is_some()
}

/// Why a file of settings cannot be read. In a container the user is another than the one who wrote the file.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Complaint {
    use std::os::unix::fs::MetadataExt as _;
    let problem = format!("cannot be read: {error}");
    let facts = std::fs::metadata(path);
    match (error.kind(), &facts) {
        (std::io::ErrorKind::PermissionDenied, Ok(facts)) => {
            let (owner, mode) = (facts.uid(), facts.mode() & 0o777);
            let user = rustix::process::geteuid().as_raw();
            let fix = format!(
                "let the user that Tollgate runs as (uid {user}) read it: it belongs to uid {owner}, mode {mode:03o}. \
                 chgrp {user} and chmod 640 keep it from all others; chmod 644 is enough where nobody else is on the machine"
            );
            complaint(problem, fix)
        }
        (_, Ok(facts)) if facts.is_dir() => {
            let fix = "put a file in its place. (Docker makes a folder where a file that is mounted is not there yet: remove the \
                       folder, and mount the folder above it)";
            complaint(problem, fix)
        }
        _ => complaint(problem, "check the path and its permissions; it must be a UTF-8 text"),
    }
}

/// A variable from the environment, or else from `.env`.
pub(super) fn lookup(sources: &Sources, name: &str) -> Option<String> {
    let said = sources.env.get(name).cloned();
    said.or_else(|| {
        let variables = dot_env(sources, &Findings::default()).ok()?;
        let named = variables.into_iter().rev().find(|variable| variable.name == name)?;
        named.unreadable.is_none().then_some(named.value)
    })
}

fn environment(env: &BTreeMap<String, String>) -> Vec<Variable> {
    let variable = |(name, value): (&String, &String)| Variable {
        name: name.clone(),
        value: value.clone(),
        origin: Origin::Variable(name.clone()),
        unreadable: None,
    };
    port_last(env.iter().map(variable).collect())
}

/// `PORT` changes a part of what `TOLLGATE_SERVER__BIND` says beside it, wherever in its source that stands.
fn port_last(mut variables: Vec<Variable>) -> Vec<Variable> {
    variables.sort_by_key(|variable| variable.name == "PORT");
    variables
}

impl Gathered {
    /// A variable by its exact name, where it is set, with its origin. An empty one is told as it is.
    pub(super) fn variable(&self, name: &str) -> Option<(&str, &Origin)> {
        self.variables.get(name).map(|variable| (variable.value.as_str(), &variable.origin))
    }

    /// What is wrong with the line in which it was said.
    pub(super) fn unreadable(&self, name: &str) -> Option<Complaint> {
        self.variables.get(name)?.unreadable.clone()
    }

    /// Lays a variable on the tree, if it is one of ours.
    fn lay(&mut self, variable: Variable, findings: &Findings) {
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
        let is_secret = name.ends_with("SECRET") || name.ends_with("KEY") || name.ends_with("TOKEN");
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
        self.root.set(path, Node { value: Value::Text(text), origin: variable.origin.clone() });
    }

    /// The address that was said before, with another port.
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
        let node = Node { value: Value::Text(variable.value.clone()), origin: variable.origin.clone() };
        self.root.set(&["store", "url"], node);
        !is_postgres
    }

    /// `SECTION__KEY`, `SECTION` for a whole one, and deeper.
    fn lay_key(&mut self, rest: &str, variable: &Variable, findings: &Findings) {
        let path: Vec<&str> = rest.split("__").collect();
        let section = path.first().map(|section| section.to_ascii_lowercase()).unwrap_or_default();
        if !SECTIONS.contains(&section.as_str()) || path.iter().any(|part| part.is_empty()) {
            self.strays.push(variable.clone());
            return;
        }
        let Ok(node) = leaf(&path, &section, variable, findings) else { return };
        if !self.root.set(&path, node) {
            let fix = "name a table or an index of a list in every step but the last";
            findings.error(path.join(".").to_lowercase(), &variable.origin, complaint("leads nowhere", fix));
        }
    }

    /// Refuses the variables that lead nowhere, with the name that was probably meant.
    pub(super) fn refuse_strays(&self, findings: &Findings) {
        let mut names: Vec<String> = SECTIONS.iter().map(|section| variable_of(section)).collect();
        names.push("TOLLGATE_ADMIN_TOKEN".to_owned());
        names.extend(findings.known().iter().map(|key| variable_of(key)));
        for stray in &self.strays {
            let upper = stray.name.to_ascii_uppercase();
            let ending = |name: &&String| after_prefix(&upper).is_some_and(|rest| name.ends_with(&format!("__{rest}")));
            let near = names.iter().find(ending).map(String::as_str);
            let near = near.or_else(|| nearest(&upper, names.iter().map(String::as_str)));
            let fix = match near {
                Some(name) => format!("did you mean {name}? Otherwise unset it"),
                None => "write TOLLGATE_SECTION__KEY, such as TOLLGATE_SERVER__BIND, or unset it".to_owned(),
            };
            findings.error(&stray.name, &stray.origin, complaint("is not a known setting", fix));
        }
    }
}

/// The variable of a dotted key.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn after_prefix(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(rest)
}

/// `TOLLGATE_CONFIG` in `.env`: whoever reads that has found it already.
fn refuse_config_in_dot_env(variable: &Variable, findings: &Findings) {
    if !matches!(&variable.origin, Origin::Variable(name) if *name == variable.name) {
        let fix = "set it in the environment, or say --config";
        findings.error(&variable.name, &variable.origin, complaint("does nothing in a file", fix));
    }
}

/// Kubernetes sets such variables in every pod beside a service named `tollgate`; they are no settings.
fn is_from_kubernetes(rest: &str, value: &str) -> bool {
    let service = rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT");
    let address = (rest == "PORT" || rest.starts_with("PORT_")) && !rest.contains("__");
    service || (address && (rest.contains('_') || value.contains("://")))
}

/// The value of a variable: a whole section, plan, price or upstream is a TOML value; anything else is read by its key.
fn leaf(path: &[&str], section: &str, variable: &Variable, findings: &Findings) -> Result<Node, Noted> {
    let whole = match path.len() {
        1 => true,
        2 => ["upstreams", "plans", "prices"].contains(&section),
        _ => false,
    };
    if !whole {
        return Ok(Node { value: Value::Raw(variable.value.clone()), origin: variable.origin.clone() });
    }
    let read = parse_value(&variable.value, &variable.origin);
    read.map_err(|bad| {
        let fix = "write an inline table, such as { bind = \"127.0.0.1:8080\" }, or set one key of it";
        let problem = format!("is not a TOML value: {}", bad.message);
        findings.error(path.join(".").to_lowercase(), &variable.origin, complaint(problem, fix))
    })
}

/// The empty table, for a section that nobody wrote.
pub(super) fn empty() -> Node {
    Node { value: Value::Table(Table::new()), origin: Origin::Default }
}
