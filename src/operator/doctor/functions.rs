//! The two functions in the developer's database, over Postgres. Whether anybody else may call them is read from the grants,
//! not tried.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::Check;
use super::rest::{SQL_FIX, unknown_user};
use crate::config::Config;
use crate::pg::Database;

const CHECK: &str = "database check_user_limits";
const LOG: &str = "database log_request";
const GRANTS: &str = "database grants";

/// Which functions there are, and whether this role may call them. Read from the catalogue: looking a name up in a
/// schema that is shut is an error.
const FUNCTIONS: &str = "
    select p.proname::text,
           bool_or(has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute'))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'tollgate'
    group by 1";

/// What users and strangers can call or write that they must not. `public` stands for every role.
const TOO_WIDE: &str = "
    with roles (name) as (
        select 'public' union all select rolname::text from pg_roles where rolname in ('anon', 'authenticated'))
    select r.name || ' can call ' || p.oid::regprocedure::text
    from roles r, pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where (n.nspname = 'tollgate' or (n.nspname = 'public' and p.proname like 'tollgate\\_%'))
      and has_function_privilege(r.name, p.oid, 'execute')
    union all
    select r.name || ' can write ' || c.oid::regclass::text
    from roles r, pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('tollgate', 'tollgate_ledger') and c.relkind in ('r', 'p')
      and has_table_privilege(r.name, c.oid, 'insert, update, delete, truncate')
    order by 1 limit 8";

/// The lines of the two functions.
pub(super) async fn functions(database: &Database, config: &Config) -> Vec<Check> {
    let there: BTreeMap<String, bool> = match database.query(FUNCTIONS, Vec::new()).await {
        Ok(rows) => rows
            .iter()
            .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
            .collect(),
        Err(problem) => {
            return vec![Check::fail(
                CHECK,
                format!("the catalogue cannot be read: {problem}"),
                SQL_FIX,
            )];
        }
    };
    let check = match amiss(
        CHECK,
        &there,
        ["check_user", "check_user_limits"],
        "check_user(uuid, uuid)",
    ) {
        Some(check) => check,
        None => ask(database, config).await,
    };
    let log = amiss(
        LOG,
        &there,
        ["log_requests", "log_request"],
        "log_requests(jsonb)",
    );
    vec![
        check,
        log.unwrap_or_else(|| Check::ok(LOG, "is there, and may be called")),
    ]
}

/// What is wrong with two functions, if anything: the first, which Tollgate `calls`, calls the second.
fn amiss(
    line: &str,
    there: &BTreeMap<String, bool>,
    names: [&str; 2],
    calls: &str,
) -> Option<Check> {
    if let Some(missing) = names.into_iter().find(|name| !there.contains_key(*name)) {
        return Some(Check::fail(
            line,
            format!("there is no function tollgate.{missing}"),
            SQL_FIX,
        ));
    }
    let [called, _] = names;
    let fix = format!(
        "as the functions' owner, for the role in DATABASE_URL: grant usage on schema tollgate to …; \
         grant execute on function tollgate.{calls} to …"
    );
    let may_call = there.get(called).copied().unwrap_or(false);
    (!may_call).then(|| {
        Check::fail(
            line,
            format!("the role in DATABASE_URL may not call tollgate.{called}"),
            fix,
        )
    })
}

/// Asks about an unknown user.
async fn ask(database: &Database, config: &Config) -> Check {
    let user = vec![Uuid::now_v7().into(), None::<Uuid>.into()];
    match database
        .query("select tollgate.check_user($1, $2)", user)
        .await
    {
        Ok(rows) => {
            let answer: Option<Value> = rows.first().and_then(|row| row.try_get(0).ok()).flatten();
            unknown_user(CHECK.to_owned(), &answer.unwrap_or_default(), config)
        }
        Err(problem) => {
            let fix = "try it yourself: select tollgate.check_user_limits(gen_random_uuid()); your version of it may be \
                       at fault";
            Check::fail(CHECK, format!("it fails: {problem}"), fix)
        }
    }
}

/// The line of the grants.
pub(super) async fn grants(database: &Database) -> Check {
    match database.query(TOO_WIDE, Vec::new()).await {
        Err(problem) => Check::warn(GRANTS, format!("cannot be read: {problem}"), SQL_FIX),
        Ok(rows) if rows.is_empty() => Check::ok(
            GRANTS,
            "neither users nor strangers can call or write anything",
        ),
        Ok(rows) => {
            let told: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
            let fix = format!(
                "{SQL_FIX}, and takes these grants back; for another function: revoke execute on function \
                               … from public, anon, authenticated"
            );
            Check::fail(GRANTS, told.join("; "), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_missing_or_shut_is_told_with_what_to_type() {
        let there = |names: &[(&str, bool)]| {
            names
                .iter()
                .map(|(name, may)| ((*name).to_owned(), *may))
                .collect()
        };
        let amiss = |names: &[(&str, bool)]| {
            amiss(
                LOG,
                &there(names),
                ["log_requests", "log_request"],
                "log_requests(jsonb)",
            )
        };
        let told = amiss(&[("log_requests", true)]).unwrap();
        assert!(
            told.detail.contains("no function tollgate.log_request")
                && told.fix.unwrap().contains("tollgate sql")
        );
        let told = amiss(&[("log_requests", false), ("log_request", true)]).unwrap();
        let fix = told.fix.unwrap();
        assert!(
            told.detail.contains("may not call")
                && fix.contains("grant execute on function tollgate.log_requests")
        );
        assert_eq!(
            amiss(&[("log_requests", true), ("log_request", false)]),
            None
        );
    }
}
