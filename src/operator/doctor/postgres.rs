//! Databases reached over Postgres: the ledger's and the developer's.
//!
//! The checks work through any pooler, as the server's own connections do.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::functions::{functions, grants};
use super::rest::SQL_FIX;
use super::{Check, Deployment, LIMIT, examination};
use crate::config::Via;
use crate::pg::{Database, PgError, PgSettings};

const NAME: &str = "database";
/// Supabase's pooler, and `PgBouncer` beside the database, in transaction mode.
const TRANSACTION_PORT: &str = "6543";
/// Older servers are no longer maintained, and are not tried here.
const VERSION_MIN: i64 = 140_000;

const FACTS: &str = "
    select current_setting('server_version_num')::int8,
           coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
           pg_is_in_recovery(),
           coalesce(has_schema_privilege(to_regnamespace('tollgate_ledger')::oid, 'create'),
                    has_database_privilege(current_database(), 'create'))";

/// The ledger's line.
pub(super) async fn ledger(url: &SecretString) -> Check {
    match facts(url).await {
        Err(problem) => unreachable("ledger", url, &problem),
        Ok((_, facts)) if facts.is_standby => {
            let fix = "name the primary in DATABASE_URL (or [store] url), not a read replica";
            Check::fail(
                "ledger",
                format!("{} is a standby, which takes no writes", place(url)),
                fix,
            )
        }
        Ok((_, facts)) if !facts.may_create => {
            let fix = "as its owner: grant create on database … to the role in the URL; `serve` makes the schema";
            Check::fail(
                "ledger",
                format!(
                    "the role may not make the schema tollgate_ledger in {}",
                    place(url)
                ),
                fix,
            )
        }
        Ok((database, facts)) => match write(&database).await {
            Ok(()) => {
                let detail = format!(
                    "Postgres {} at {}, {} ms a round trip",
                    facts.major(),
                    place(url),
                    facts.trip_ms
                );
                modest("ledger", detail, url, &facts)
            }
            Err(error) => {
                let fix = "let the role in the URL use the schema tollgate_ledger, its tables and its functions, and write";
                Check::fail(
                    "ledger",
                    format!("no row can be written in {}: {}", place(url), error.message),
                    fix,
                )
            }
        },
    }
}

/// Writes a row and takes it back, where the tables are there already.
async fn write(database: &Database) -> Result<(), PgError> {
    let rows = database
        .query(
            "select to_regclass('tollgate_ledger.owners')::text",
            Vec::new(),
        )
        .await?;
    let table: Option<String> = rows.first().and_then(|row| row.try_get(0).ok()).flatten();
    if table.is_none() {
        return Ok(());
    }
    database
        .query(
            "insert into tollgate_ledger.owners (id, lease_until, lease_ms) values ('doctor', 0, 0)
             on conflict (id) do nothing",
            Vec::new(),
        )
        .await?;
    database
        .query(
            "delete from tollgate_ledger.owners where id = 'doctor'",
            Vec::new(),
        )
        .await?;
    Ok(())
}

/// The lines of the developer's own database, where it is reached this way.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let Via::Postgres(url) = &deployment.config.directory.via else {
        let why = format!(
            "plans come by [directory] via = \"{}\"",
            deployment.config.directory.via.as_str()
        );
        return vec![Check::skip(
            NAME,
            format!("{why}: Postgres is not asked for them"),
        )];
    };
    let (database, facts) = match facts(url).await {
        Ok(connected) => connected,
        Err(problem) => return vec![unreachable(NAME, url, &problem)],
    };
    let detail = format!(
        "Postgres {} at {}, {} ms a round trip",
        facts.major(),
        place(url),
        facts.trip_ms
    );
    let mut checks = vec![modest(NAME, detail, url, &facts)];
    checks.extend(functions(&database, &deployment.config).await);
    checks.push(grants(&database).await);
    checks.extend(examine(&database).await);
    checks
}

/// Whether callers can have code of their own run, and users write what decides their plans.
async fn examine(database: &Database) -> Vec<Check> {
    let asked = async {
        let transaction = database.begin(LIMIT).await?;
        // It is long and small: to compile it takes a hundred times as long as to run it.
        transaction
            .query("select set_config('jit', 'off', true)", Vec::new())
            .await?;
        transaction
            .query(
                "select set_config('search_path', 'pg_catalog, pg_temp', true)",
                Vec::new(),
            )
            .await?;
        transaction
            .query(examination::statement().unwrap_or_default(), Vec::new())
            .await
    };
    match asked.await {
        Ok(rows) => {
            let answer: Option<Value> = rows.first().and_then(|row| row.try_get(0).ok()).flatten();
            examination::checks(NAME, &answer.unwrap_or_default())
        }
        Err(problem) => vec![Check::warn(
            "database functions",
            format!("cannot be looked at: {problem}"),
            SQL_FIX,
        )],
    }
}

/// What the server says of itself.
struct ServerFacts {
    version: i64,
    is_encrypted: bool,
    is_standby: bool,
    may_create: bool,
    trip_ms: u128,
}

impl ServerFacts {
    const fn major(&self) -> i64 {
        self.version
            .saturating_sub(self.version.rem_euclid(10_000))
            .div_euclid(10_000)
    }
}

async fn facts(url: &SecretString) -> Result<(Database, ServerFacts), PgError> {
    let settings = PgSettings {
        connections: 1,
        call_timeout: LIMIT,
    };
    let database = Database::new(url, settings, TaskTracker::new());
    let database = database.map_err(|message| PgError {
        sqlstate: None,
        message,
        unavailable: true,
        late: false,
    })?;
    let rows = database.query(FACTS, Vec::new()).await?;
    let begun = Instant::now();
    database.query("select 1", Vec::new()).await?;
    let trip_ms = begun.elapsed().as_millis();
    let row = rows.first();
    let truth = |column: usize| {
        row.and_then(|row| row.try_get(column).ok())
            .unwrap_or(false)
    };
    let facts = ServerFacts {
        version: row.and_then(|row| row.try_get(0).ok()).unwrap_or(0),
        is_encrypted: truth(1),
        is_standby: truth(2),
        may_create: truth(3),
        trip_ms,
    };
    Ok((database, facts))
}

/// It answers; what should be known about how.
fn modest(name: &str, detail: String, url: &SecretString, facts: &ServerFacts) -> Check {
    let place = place(url);
    if facts.version < VERSION_MIN {
        return Check::warn(
            name,
            format!("{detail}; it is older than what is tried"),
            "upgrade it to Postgres 14 or later",
        );
    }
    if place.ends_with(&format!(":{TRANSACTION_PORT}")) {
        let detail = format!("{detail}, through a pooler in transaction mode");
        let fix = "better for a long-running server: the direct connection, or the session pooler on port 5432 \
                   (dashboard: Connect)";
        return Check::warn(name, detail, fix);
    }
    if is_local(&place) {
        return Check::ok(name, detail);
    }
    let ca = "append ?sslmode=verify-full&sslrootcert=prod-ca-2021.crt (dashboard: Database, Settings, SSL \
              Configuration, Download certificate)";
    match sslmode(url).as_deref() {
        Some("verify-full" | "verify-ca") => Check::ok(name, format!("{detail}, TLS verified")),
        Some("require") => Check::warn(
            name,
            format!("{detail}, TLS without verifying who answers"),
            ca,
        ),
        Some("disable") => Check::warn(
            name,
            format!("{detail}, without TLS: the password crosses a network"),
            ca,
        ),
        // What the server sees is the pooler's connection, where there is one; but then TLS was asked for, not demanded.
        _ if facts.is_encrypted => {
            Check::warn(name, format!("{detail}, TLS that is not demanded"), ca)
        }
        _ => Check::warn(
            name,
            format!("{detail}, without TLS: everything crosses a network readable"),
            ca,
        ),
    }
}

fn unreachable(name: &str, url: &SecretString, problem: &PgError) -> Check {
    let place = place(url);
    let detail = format!("{place}: {problem}");
    let fix = match problem.sqlstate.as_deref() {
        Some("28P01" | "28000") => "correct user and password in DATABASE_URL (dashboard: Connect; through the pooler \
                                    the user is role.<project ref>; special letters of a password are %-encoded)"
            .to_owned(),
        Some("3D000") => "correct the database's name at the end of DATABASE_URL: postgres on Supabase".to_owned(),
        _ => {
            "check host and port in DATABASE_URL (dashboard: Connect; the direct host has IPv6 only, the pooler IPv4), \
              and try: psql \"$DATABASE_URL\" -c 'select 1'"
                .to_owned()
        }
    };
    Check::fail(name, detail, fix)
}

/// `host:port` of a URL, without user, password and the rest.
fn place(url: &SecretString) -> String {
    let text = url.expose_secret();
    let rest = text
        .rsplit_once('@')
        .or_else(|| text.split_once("://"))
        .map_or("", |(_, rest)| rest);
    let place = rest.split(['/', '?']).next().unwrap_or_default();
    let has_port = place
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match place {
        "" => "the host in the URL".to_owned(),
        _ if has_port => place.to_owned(),
        _ => format!("{place}:5432"),
    }
}

fn is_local(place: &str) -> bool {
    let host = place
        .rsplit_once(':')
        .map_or(place, |(host, _)| host)
        .trim_matches(['[', ']']);
    host == "localhost"
        || host.starts_with("%2F")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The URL's `sslmode`.
fn sslmode(url: &SecretString) -> Option<String> {
    let (_, query) = url.expose_secret().rsplit_once('?')?;
    let mode = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("sslmode="))?;
    Some(mode.to_owned())
}

/// The URL, and the password in it, as it stands there.
pub(super) fn secrets(url: &SecretString) -> Vec<SecretString> {
    let text = url.expose_secret();
    let user = text
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'));
    let password = user
        .and_then(|(user, _)| user.split_once(':'))
        .map(|(_, password)| SecretString::from(password));
    [url.clone()].into_iter().chain(password).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn facts(is_encrypted: bool) -> ServerFacts {
        ServerFacts {
            version: 150_004,
            is_encrypted,
            is_standby: false,
            may_create: true,
            trip_ms: 1,
        }
    }

    #[test]
    fn a_place_is_told_without_user_and_password() {
        for (url, told) in [
            ("postgres://u:p@h/d", "h:5432"),
            ("postgres://u:p%40@h:6543/d?sslmode=require", "h:6543"),
            ("postgres://u:p@ss@[::1]:1?x=y", "[::1]:1"),
            ("postgres://h", "h:5432"),
        ] {
            assert_eq!(place(&url.into()), told);
        }
        let secrets = secrets(&"postgres://u:canary:1@h/d".into());
        assert_eq!(secrets.last().unwrap().expose_secret(), "canary:1");
    }

    #[test]
    fn transaction_poolers_and_unverified_tls_are_warned_about() {
        let line = |url: &str, is_encrypted| {
            modest("database", String::new(), &url.into(), &facts(is_encrypted))
        };
        let pooled = line(
            "postgres://u:p@aws-0-eu.pooler.supabase.com:6543/postgres",
            true,
        );
        assert!(pooled.status == Status::Warn && pooled.fix.unwrap().contains("port 5432"));
        assert_eq!(line("postgres://u:p@127.0.0.1/d", false).status, Status::Ok);
        assert_eq!(
            line("postgres://u:p@h/d?sslmode=verify-full&sslrootcert=x", true).status,
            Status::Ok
        );
        let bare = line("postgres://u:p@h/d", false);
        assert!(
            bare.status == Status::Warn && bare.fix.unwrap().contains("sslmode=verify-full"),
            "{}",
            bare.detail
        );
        assert!(
            line("postgres://u:p@h/d?sslmode=require", true)
                .detail
                .contains("without verifying")
        );
    }

    #[test]
    fn a_refused_password_is_told_apart_from_a_host_that_is_not_there() {
        let problem = |sqlstate: Option<&str>| PgError {
            sqlstate: sqlstate.map(str::to_owned),
            message: "no".to_owned(),
            unavailable: true,
            late: false,
        };
        let fix = |sqlstate| {
            unreachable("database", &"postgres://u:p@h/d".into(), &problem(sqlstate))
                .fix
                .unwrap()
        };
        assert!(fix(Some("28P01")).contains("password"));
        assert!(fix(Some("3D000")).contains("database's name"));
        assert!(fix(None).contains("psql"));
    }
}
