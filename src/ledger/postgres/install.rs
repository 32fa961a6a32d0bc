//! Makes and migrates the tables in Postgres, and installs the functions of `functions.sql`.
//!
//! Each name in that text carries the digest of the text, so processes of two releases on one database call their own
//! functions. A process installs its set when it starts, and says once an hour that it uses it. A set that nobody has
//! used for [`UNUSED_MS`] is dropped when a process starts. A process that comes back after that (its machine slept, or
//! the database's clock jumped) installs its set again.
//!
//! The functions of `migrations/postgres/0001_ledger.sql` have names without a digest. They stay for processes of the
//! release that called them.
//!
//! A migration runs while an older release still calls its functions. So it may add tables, and columns with a default.
//! To `windows` it may add only columns that can be null: the functions of `0001_ledger.sql` insert whole rows there.

use std::sync::LazyLock;

use crate::ledger::sqlite::Failure;
use crate::pg;

/// The advisory lock of a process that makes the tables, or that wants the whole ledger for itself.
pub(super) const MAKING: i64 = 7_160_412_533;
/// How long a set of functions stays after its last use: a day.
const UNUSED_MS: i64 = 24 * 3_600_000;
/// Scripts that bring an older database up to date.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_ledger.sql"),
    include_str!("../../../migrations/postgres/0002_operator.sql"),
    include_str!("../../../migrations/postgres/0003_search_path.sql"),
    include_str!("../../../migrations/postgres/0004_quantities.sql"),
    include_str!("../../../migrations/postgres/0005_tallies.sql"),
    include_str!("../../../migrations/postgres/0006_grants.sql"),
    include_str!("../../../migrations/postgres/0007_purchases.sql"),
    include_str!("../../../migrations/postgres/0008_purchase_outbox.sql"),
    include_str!("../../../migrations/postgres/0009_users.sql"),
    include_str!("../../../migrations/postgres/0010_device_keys.sql"),
];
const FUNCTIONS: &str = include_str!("functions.sql");

/// What `_v0` stands for: the first 48 bits of the text's SHA-256.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, FUNCTIONS.as_bytes());
    let first = digest.as_ref().iter().take(6);
    first.fold("_v".to_owned(), |version, byte| {
        format!("{version}{byte:02x}")
    })
});

/// The suffix of this process's functions.
pub(super) fn version() -> &'static str {
    &VERSION
}

/// A statement that calls functions of `functions.sql` by their names there, with the names under which they are
/// installed.
pub(crate) fn versioned(sql: &str) -> String {
    sql.replace("_v0", version())
}

/// One transaction under a lock: processes that start together make the tables and functions once.
///
/// # Errors
/// Another process has the lock for longer than 3 s, or the database refuses a statement.
pub(super) async fn bring_up_to_date(db: &pg::Database) -> Result<(), Failure> {
    db.batch(script()).await.map_err(|error| {
        if error.is("55P03") {
            return Failure::new(
                "another tollgate makes this ledger's tables, or carries it: wait for its end"
                    .to_owned(),
            );
        }
        error.into()
    })
}

fn script() -> String {
    // Whoever may use the schema need not have the right to make one.
    let mut script = format!(
        "select pg_catalog.set_config('lock_timeout', '3s', true), pg_catalog.pg_advisory_xact_lock({MAKING});
         do $schema$ begin
            if not exists (select 1 from pg_catalog.pg_namespace where nspname = 'tollgate_ledger') then
                create schema tollgate_ledger;
                revoke all on schema tollgate_ledger from public;
            end if;
            -- An operator may have made the schema, empty, for a role that may make none.
            if pg_catalog.to_regclass('tollgate_ledger.migrations') is null then
                create table tollgate_ledger.migrations (number bigint primary key);
            end if;
            if pg_catalog.to_regclass('tollgate_ledger.functions') is null then
                create table tollgate_ledger.functions (version text primary key, used_at bigint not null);
            end if;
         end $schema$;",
    );
    script.extend(
        MIGRATIONS
            .iter()
            .zip(1..)
            .map(|(migration, number)| step(number, migration)),
    );
    script.push_str(&install());
    script.push_str(&drop_unused());
    script
}

/// A migration that runs once.
fn step(number: i64, migration: &str) -> String {
    format!(
        "do $migration$ begin
            if not exists (select 1 from tollgate_ledger.migrations where number = {number}) then
                execute $script$ {migration} $script$;
                insert into tollgate_ledger.migrations values ({number});
            end if;
         end $migration$;"
    )
}

/// Installs this process's functions if they are not there, and notes that they are in use.
fn install() -> String {
    let (version, functions) = (version(), versioned(FUNCTIONS));
    format!(
        "do $install$ begin
            if not exists (select 1 from tollgate_ledger.functions where version = '{version}') then
                execute $script$ {functions} $script$;
            end if;
            insert into tollgate_ledger.functions
            values ('{version}', (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint)
            on conflict (version) do update set used_at = excluded.used_at;
         end $install$;"
    )
}

/// Drops the sets of functions that nobody has used for a day. One that cannot be dropped (another role owns it, or a
/// call holds its types) stays for the next start.
fn drop_unused() -> String {
    format!(
        "do $drop$
         declare
            old record;
            names text;
         begin
            for old in
                delete from tollgate_ledger.functions
                where used_at < (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint - {UNUSED_MS}
                returning version
            loop
                begin
                    select pg_catalog.string_agg(p.oid::regprocedure::text, ', ') into names
                    from pg_catalog.pg_proc p
                    where p.pronamespace = 'tollgate_ledger'::regnamespace
                      and pg_catalog.right(p.proname, pg_catalog.length(old.version)) = old.version;
                    if names is not null then
                        execute pg_catalog.format('drop function %s', names);
                    end if;
                    select pg_catalog.string_agg(t.oid::regtype::text, ', ') into names
                    from pg_catalog.pg_type t
                    where t.typnamespace = 'tollgate_ledger'::regnamespace and t.typcategory = 'C'
                      and pg_catalog.right(t.typname, pg_catalog.length(old.version)) = old.version;
                    if names is not null then
                        execute pg_catalog.format('drop type %s', names);
                    end if;
                exception when insufficient_privilege or lock_not_available then
                    insert into tollgate_ledger.functions values (old.version, 0);
                end;
            end loop;
         end $drop$;"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name without a version would be that of another release.
    #[test]
    fn every_function_and_type_has_a_versioned_name() {
        let made = FUNCTIONS
            .split("create function ")
            .skip(1)
            .chain(FUNCTIONS.split("create type ").skip(1));
        let names: Vec<&str> = made
            .map(|rest| rest.split(['(', ' ']).next().unwrap())
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in &names {
            assert!(name.ends_with("_v0"), "{name}");
            let bare = name.trim_end_matches("_v0");
            let called = FUNCTIONS.matches(&format!("{bare}(")).count();
            assert_eq!(called, 0, "{bare} is called without its version");
        }
        // A version may begin with a zero itself.
        let text = versioned(FUNCTIONS).replace(version(), "");
        assert!(!text.contains("_v0"));
    }

    /// How many functions and types there are whose names end so.
    async fn installed(db: &pg::Database, suffix: &str) -> i64 {
        let sql = "select (select count(*) from pg_proc where right(proname, length($1)) = $1)
                          + (select count(*) from pg_type where right(typname, length($1)) = $1 and typcategory = 'C')";
        let rows = db.query(sql, vec![suffix.to_owned().into()]).await.unwrap();
        rows.first().unwrap().try_get(0).unwrap()
    }

    #[tokio::test]
    async fn functions_of_another_release_stay_for_a_day_after_their_last_use() {
        let Some(server) = crate::pg::tests::Postgres::start(&[]) else {
            return;
        };
        let db = super::super::connect(&server.url(""), 8).unwrap();
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let db = db.clone();
            starting.spawn(async move { bring_up_to_date(&db).await.unwrap() });
        }
        starting.join_all().await;
        let ours = installed(&db, version()).await;
        assert!(ours > 20, "{ours}");

        let theirs = "_v0123456789ab";
        db.batch(FUNCTIONS.replace("_v0", theirs)).await.unwrap();
        let used = |hours: i64| {
            format!(
                "insert into tollgate_ledger.functions values
                     ('{theirs}', extract(epoch from clock_timestamp())::bigint * 1000 - {hours} * 3600000)
                 on conflict (version) do update set used_at = excluded.used_at"
            )
        };
        for (hours, left) in [(23, ours), (25, 0)] {
            db.batch(used(hours)).await.unwrap();
            bring_up_to_date(&db).await.unwrap();
            assert_eq!(installed(&db, theirs).await, left, "{hours} hours");
        }

        // Dropped by a newer process, while this one slept.
        let drop_ours = drop_unused().replace("used_at <", "used_at <> ");
        db.batch(drop_ours).await.unwrap();
        assert_eq!(installed(&db, version()).await, 0);
        bring_up_to_date(&db).await.unwrap();
        assert_eq!(installed(&db, version()).await, ours);
    }
}
