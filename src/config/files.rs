//! Reads `tollgate.toml`, `.env` and the environment. What their values mean is decided elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sources;
use super::dotenv;
use super::findings::{Findings, Invalid, Problem};
use super::names::{DOT_ENV, is_ours};
use super::tree::{Node, Origin, parse_document};

/// A variable and where it is set.
#[derive(Clone)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) origin: Origin,
    /// The error in its line of `.env`. Only for another program's variables, or those that `api_key_env` names.
    pub(super) unreadable: Option<Problem>,
}

/// The file of settings, where there is one.
pub(super) fn config_file(
    sources: &Sources,
    findings: &Findings,
) -> Result<Option<(PathBuf, Node)>, Invalid> {
    let [path, _] = sources.files();
    let name = path.display().to_string();
    // A file that is named must be there; a folder may hold none.
    let is_named = sources
        .file
        .as_ref()
        .is_some_and(|named| sources.directory.join(named) == path);
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
                Problem::new(format!("is not TOML: {}", bad.message), "correct this line"),
            ))
        }
    }
}

/// The variables in `.env`, in its order.
pub(super) fn dot_env(sources: &Sources, findings: &Findings) -> Result<Vec<Variable>, Invalid> {
    let [_, path] = sources.files();
    let name = path.display().to_string();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(findings.error(DOT_ENV, &name, unreadable(&path, &error))),
    };
    let entries = dotenv::read(&bytes, is_ours).map_err(|encoding| {
        let fix =
            "save it as UTF-8 (PowerShell: Out-File -Encoding utf8; an editor: Save with encoding)";
        findings.error(
            DOT_ENV,
            &name,
            Problem::new(format!("is written in {encoding}, not in UTF-8"), fix),
        )
    })?;
    let mut variables = Vec::new();
    let mut wrong = None;
    for dotenv::Assignment {
        name: key,
        line,
        value,
    } in entries
    {
        let unreadable = value.as_ref().err().map(|what| unreadable_line(what));
        if let (Some(what), true) = (&unreadable, is_ours(&key)) {
            wrong = Some(findings.error(&key, &format!("line {line} of {name}"), what.clone()));
        }
        let origin = Origin::Variable(format!("{key} in line {line} of {name}"));
        variables.push(Variable {
            name: key,
            value: value.unwrap_or_default(),
            origin,
            unreadable,
        });
    }
    wrong.map_or_else(|| Ok(port_last(variables)), Err)
}

/// The error does not repeat the line, which may be a secret.
fn unreadable_line(what: &str) -> Problem {
    Problem::new(
        what,
        "write NAME=value, with 'single quotes' around a value of more than letters and digits",
    )
}

/// Why a file of settings cannot be read. In a container the process often has another user than the owner of the file.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
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
            Problem::new(problem, fix)
        }
        (_, Ok(facts)) if facts.is_dir() => {
            let fix = "put a file in its place. (Docker makes a folder where a file that is mounted is not there yet: remove the \
                       folder, and mount the folder above it)";
            Problem::new(problem, fix)
        }
        _ => Problem::new(
            problem,
            "check the path and its permissions; it must be a UTF-8 text",
        ),
    }
}

/// A variable from the environment, or else from `.env`.
pub(super) fn lookup(sources: &Sources, name: &str) -> Option<String> {
    let said = sources.env.get(name).cloned();
    said.or_else(|| {
        let variables = dot_env(sources, &Findings::default()).ok()?;
        let named = variables
            .into_iter()
            .rev()
            .find(|variable| variable.name == name)?;
        named.unreadable.is_none().then_some(named.value)
    })
}

pub(super) fn environment(env: &BTreeMap<String, String>) -> Vec<Variable> {
    let variable = |(name, value): (&String, &String)| Variable {
        name: name.clone(),
        value: value.clone(),
        origin: Origin::Variable(name.clone()),
        unreadable: None,
    };
    port_last(env.iter().map(variable).collect())
}

/// `PORT` goes last: it changes a part of `TOLLGATE_SERVER__BIND`, whatever their order in the source.
fn port_last(mut variables: Vec<Variable>) -> Vec<Variable> {
    variables.sort_by_key(|variable| variable.name == "PORT");
    variables
}
