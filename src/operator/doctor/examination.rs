//! Checks the functions in the developer's database: whether a caller can make them run code of their own, and whether
//! users can write the tables that decide their plan.
//!
//! One statement finds both. The script installs it as `tollgate_examine` for REST; over Postgres it is sent as it is,
//! so it also finds what an older script left behind. PL/pgSQL's dependencies are not in the catalogue, so tables are
//! found by their names in a function's text: it may name one too many, or miss one whose name a function builds.

use serde::Deserialize;
use serde_json::Value;

use super::Check;
use crate::supabase::SCRIPT;

/// The functions of every script so far, as `alter function` names them.
const OF_OLDER_SCRIPTS: [&str; 6] = [
    "tollgate.check_user_limits(uuid)",
    "tollgate.log_request(jsonb)",
    "tollgate.check_user(uuid, uuid)",
    "tollgate.log_requests(jsonb)",
    "public.tollgate_check_user_limits(uuid, uuid)",
    "public.tollgate_log_requests(jsonb)",
];

/// What was found.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Examination {
    #[serde(rename = "unsafe")]
    open: Vec<UnsafeFunction>,
    writable: Vec<Writable>,
}

/// A function that finds a caller's temporary objects before the built-in ones.
#[derive(Debug, Deserialize)]
struct UnsafeFunction {
    function: String,
    path: Option<String>,
}

/// A table, or a view of one, that the app's users may write and that decides on plans.
#[derive(Debug, Deserialize)]
struct Writable {
    role: String,
    relation: String,
    read: String,
    verb: String,
    columns: Vec<String>,
    /// A trigger may still refuse it.
    guarded: bool,
}

/// The statement, out of the script.
pub(super) fn statement() -> Option<&'static str> {
    let (_, rest) = SCRIPT.split_once("function public.tollgate_examine()")?;
    rest.split("$function$").nth(1)
}

/// The lines; `place` is what they begin with.
pub(super) fn checks(place: &str, answer: &Value) -> Vec<Check> {
    let (functions, tables) = (format!("{place} functions"), format!("{place} tables"));
    let found = match Examination::deserialize(answer) {
        Ok(found) => found,
        Err(error) => {
            let fix = "run `tollgate sql` of this version again";
            return vec![Check::warn(
                functions,
                format!("tollgate_examine says something odd: {error}"),
                fix,
            )];
        }
    };
    let mut checks: Vec<Check> = found
        .open
        .iter()
        .map(|open| open.check(&functions))
        .collect();
    if checks.is_empty() {
        checks.push(Check::ok(
            functions,
            "no caller's temporary types come before the built-in ones",
        ));
    }
    checks.extend(
        found
            .writable
            .iter()
            .map(|writable| writable.check(&tables)),
    );
    if found.writable.is_empty() {
        checks.push(Check::ok(
            tables,
            "users can write none that check_user_limits is seen to read",
        ));
    }
    checks
}

/// The lines if `tollgate_examine` is missing: over REST the settings of the functions cannot be read.
pub(super) fn of_an_older_script(place: &str) -> Vec<Check> {
    let line = |function: &str| {
        let detail = format!(
            "an older script made {function}: whoever may call it over Postgres can have code of their own run with its \
             owner's rights"
        );
        let fix = format!(
            "{} Then run `tollgate sql` of this version, which looks after both",
            alter(function, "pg_catalog")
        );
        Check::fail(format!("{place} functions"), detail, fix)
    };
    OF_OLDER_SCRIPTS.into_iter().map(line).collect()
}

fn alter(function: &str, schemas: &str) -> String {
    format!("alter function {function} set search_path = {schemas}, pg_temp;")
}

impl UnsafeFunction {
    fn check(&self, line: &str) -> Check {
        let Self { function, path } = self;
        let path = path.as_deref().filter(|path| *path != "\"\"");
        let has = match path {
            Some(path) => format!("its search_path is {path}"),
            None => "its search_path does not end with pg_temp".to_owned(),
        };
        let detail = format!(
            "whoever may call {function} can have code of their own run with its owner's rights: {has}"
        );
        let mut fix = alter(function, "pg_catalog");
        if let Some(schemas) = path
            .map(without_temporary)
            .filter(|schemas| !schemas.is_empty())
        {
            let kept = alter(function, &schemas);
            fix = format!(
                "{fix} (and write every name in it with its schema; to keep those it has: {kept})"
            );
        }
        Check::fail(line, detail, fix)
    }
}

/// The schemas of a `search_path` but the temporary one.
fn without_temporary(path: &str) -> String {
    let schemas = path
        .split(',')
        .map(str::trim)
        .filter(|schema| !matches!(*schema, "pg_temp" | ""));
    schemas.collect::<Vec<_>>().join(", ")
}

impl Writable {
    fn check(&self, line: &str) -> Check {
        let Self {
            role,
            relation,
            read,
            verb,
            columns,
            guarded,
        } = self;
        let of = if relation == read {
            String::new()
        } else {
            format!(" (a view that leads to {read})")
        };
        let columns = columns.join(", ");
        let detail = format!(
            "{role} can {verb} {relation}{of}, columns {columns}: check_user_limits reads it, so users give themselves plans"
        );
        let fix = format!(
            "keep plans where users cannot write (tollgate.subscriptions, app_metadata), or: revoke {verb} on {relation} \
             from {role}; and grant it for the columns that users may change"
        );
        if *guarded {
            return Check::warn(
                line,
                format!("{detail}, unless its trigger refuses that"),
                fix,
            );
        }
        Check::fail(line, detail, fix)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Status;
    use super::*;

    #[test]
    fn the_statement_is_in_the_script() {
        let statement = statement().unwrap();
        assert!(
            statement.trim_start().starts_with("with recursive")
                && statement.contains("'writable'"),
            "{statement}"
        );
    }

    #[test]
    fn each_open_function_has_the_line_to_run() {
        let answer = json!({"unsafe": [
            {"function": "tollgate.check_user(uuid,uuid)", "path": "\"\""},
            {"function": "tollgate.log_request(jsonb)", "path": null},
            {"function": "tollgate.check_user_limits(uuid)", "path": "pg_temp, public, \"My App\""},
        ], "writable": []});
        let checks = checks("database", &answer);
        let fixes: Vec<&str> = checks
            .iter()
            .filter_map(|check| check.fix.as_deref())
            .collect();
        assert_eq!(
            fixes[0],
            "alter function tollgate.check_user(uuid,uuid) set search_path = pg_catalog, pg_temp;"
        );
        assert_eq!(
            fixes[1],
            "alter function tollgate.log_request(jsonb) set search_path = pg_catalog, pg_temp;"
        );
        assert!(
            fixes[2].contains("set search_path = public, \"My App\", pg_temp;"),
            "{fixes:?}"
        );
        assert_eq!(
            checks
                .iter()
                .filter(|check| check.status == Status::Fail)
                .count(),
            3
        );
    }

    #[test]
    fn a_trigger_that_may_refuse_it_makes_a_warning_of_a_failure() {
        let writable = |guarded: bool| {
            json!({"unsafe": [], "writable": [{"role": "authenticated", "relation": "public.profiles", "verb": "update",
                   "read": "public.profiles", "columns": ["plan"], "guarded": guarded}]})
        };
        for (guarded, status) in [(false, Status::Fail), (true, Status::Warn)] {
            let checks = checks("supabase", &writable(guarded));
            assert_eq!((checks[0].status, checks[1].status), (Status::Ok, status));
            assert!(
                checks[1]
                    .detail
                    .contains("authenticated can update public.profiles"),
                "{checks:?}"
            );
        }
    }
}
