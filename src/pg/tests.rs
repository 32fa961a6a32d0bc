//! A Postgres of one test's own, and what is promised about connections to it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uuid::Uuid;

use super::*;

#[path = "../../tests/it/support/tools.rs"]
#[allow(
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "the door tests' own; they use all of it"
)]
mod tools;
use tools::{Tool, installed};

/// A Postgres in a temporary directory, gone at the end. TCP on a free port of this machine; no TLS unless told.
pub(crate) struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one; `None`, said aloud, where Postgres or openssl is not installed.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if !installed(&[Tool::Postgres, Tool::OpenSsl]) {
            return None;
        }
        let bin = Tool::Postgres.expect();
        let dir = std::env::temp_dir().join(format!("tollgate-pg-{}", Uuid::now_v7().simple()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = Self { bin, dir, port };
        let data = server.data();
        server.run(
            "initdb",
            &[
                "-D", &data, "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8",
            ],
        );
        certificates(&server);
        server.up(options);
        Some(server)
    }

    pub(crate) fn up(&self, options: &[&str]) {
        let dir = self.dir.display();
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={dir} -c fsync=off {}",
            self.port,
            options.join(" ")
        );
        let log = format!("{dir}/log");
        self.run(
            "pg_ctl",
            &[
                "-D",
                &self.data(),
                "-w",
                "-t",
                "60",
                "-l",
                &log,
                "-o",
                &options,
                "start",
            ],
        );
    }

    pub(crate) fn down(&self) {
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-w", "-m", "immediate", "stop"],
        );
    }

    pub(crate) fn url(&self, rest: &str) -> SecretString {
        SecretString::from(format!(
            "postgres://postgres@127.0.0.1:{}/postgres{rest}",
            self.port
        ))
    }

    fn data(&self) -> String {
        format!("{}/data", self.dir.display())
    }

    /// Runs a program as a user that Postgres accepts: never root.
    fn run(&self, program: &str, args: &[&str]) {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        let command = command
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        let status = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{}", program.display());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if Path::new(&self.data()).join("postmaster.pid").exists() {
            self.down();
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// An authority `ca.crt`, and a certificate of it for `localhost`, where the server looks for it.
fn certificates(server: &Postgres) {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt \
                  -addext basicConstraints=critical,CA:TRUE \
                  && openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout data/server.key -out s.csr \
                  && printf 'subjectAltName=DNS:localhost' > ext \
                  && openssl x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
                  -out data/server.crt && chmod 600 data/server.key";
    let shell = Postgres {
        bin: PathBuf::from("/bin"),
        dir: server.dir.clone(),
        port: 0,
    };
    shell.run("sh", &["-c", script]);
    std::mem::forget(shell);
}

fn settings(connections: usize, call_timeout: Duration) -> PgSettings {
    PgSettings {
        connections,
        call_timeout,
    }
}

fn database(url: &SecretString, connections: usize) -> Database {
    Database::new(
        url,
        settings(connections, Duration::from_secs(10)),
        TaskTracker::new(),
    )
    .unwrap()
}

async fn number(database: &Database, sql: &str) -> i64 {
    database.query(sql, vec![]).await.unwrap()[0].get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_whole_whoever_leaves_and_the_pool_survives_an_outage() {
    let Some(server) = Postgres::start(&[]) else {
        return;
    };
    let db = database(&server.url("?pgbouncer=true"), 2);
    db.batch("create table t (i int8); insert into t values (1)")
        .await
        .unwrap();
    let params = vec![
        Param::from(Uuid::nil()),
        Param::from("x"),
        Param::from(serde_json::json!({"a": [1]})),
    ];
    let rows = db.query("select $1::text, $2, $3", params).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), Uuid::nil().to_string());
    assert_eq!(rows[0].get::<_, serde_json::Value>(2)["a"][0], 1);

    // A caller that leaves does not cancel the call, and takes no connection along.
    for _ in 0..4 {
        let call = db.query("insert into t select 1 from pg_sleep(0.3)", vec![]);
        assert!(timeout(Duration::from_millis(20), call).await.is_err());
    }
    let watcher = database(&server.url("?application_name=watcher"), 1);
    let ours = "from pg_stat_activity where application_name = 'tollgate'";
    assert!(number(&watcher, &format!("select count(*) {ours}")).await <= 2);
    assert_eq!(number(&db, "select 1::int8").await, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(number(&db, "select count(*) from t").await, 5);
    assert_eq!(db.idle(), 2);
    assert_eq!(
        number(
            &db,
            &format!("select count(*) {ours} and state like 'idle in%'")
        )
        .await,
        0
    );
    assert_eq!(number(&db, &format!("select count(*) {ours}")).await, 2);
    assert_eq!(
        number(&db, "select count(*) from pg_prepared_statements").await,
        0
    );

    // Several statements are one transaction; a broken one leaves nothing behind, no transaction either.
    let error = db
        .batch("begin; insert into t values (2); select 1 / 0")
        .await
        .unwrap_err();
    assert_eq!(
        (error.sqlstate.as_deref(), error.unavailable),
        (Some("22012"), false)
    );
    // The server sees the end of a connection a moment later than we do.
    let until = Instant::now().checked_add(Duration::from_secs(5)).unwrap();
    while number(
        &db,
        &format!("select count(*) {ours} and state like 'idle in%'"),
    )
    .await
        > 0
    {
        assert!(Instant::now() < until, "a transaction stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(number(&db, "select count(*) from t").await, 5);

    server.down();
    let error = db.query("select 1", vec![]).await.unwrap_err();
    assert!(
        error.unavailable && error.sqlstate.is_none_or(|state| state.starts_with("57")),
        "{}",
        error.message
    );
    server.up(&[]);
    assert_eq!(number(&db, "select count(*) from t").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_too_long_is_given_up_on_the_server_too() {
    let Some(server) = Postgres::start(&[]) else {
        return;
    };
    let db = Database::new(
        &server.url(""),
        settings(1, Duration::from_millis(700)),
        TaskTracker::new(),
    )
    .unwrap();
    number(&db, "select 1::int8").await;
    let begun = Instant::now();
    let error = db.query("select pg_sleep(30)", vec![]).await.unwrap_err();
    assert!(
        error.unavailable && error.message.contains("no answer"),
        "{}",
        error.message
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Its connection is closed, not used again, and the place is free.
    assert_eq!(db.idle(), 0);
    let asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(number(&db, asleep).await, 0);
    // Who waits for a place waits no longer than for an answer.
    let busy = db.query_within(Duration::from_secs(5), "select pg_sleep(2)", vec![]);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        db.query("select 1", vec![]).await.unwrap_err().message
    };
    let (busy, late) = tokio::join!(busy, late);
    assert!(
        busy.is_ok() && late.contains("no connection was free"),
        "{late}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_verifies_as_much_as_sslmode_says() {
    let Some(server) = Postgres::start(&["-c ssl=on"]) else {
        return;
    };
    let ca = server.dir.join("ca.crt").display().to_string();
    let by_name = |rest: &str| {
        format!(
            "postgres://postgres@localhost:{}/postgres?hostaddr=127.0.0.1&{rest}",
            server.port
        )
    };
    let by_address = |rest: &str| {
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres?{rest}",
            server.port
        )
    };
    let trusted = format!("sslrootcert={}", ca.replace('/', "%2F"));
    for (url, encrypted) in [
        (
            by_name(&format!("sslmode=verify-full&{trusted}")),
            Some(true),
        ),
        (by_address(&format!("sslmode=verify-full&{trusted}")), None),
        (
            by_address(&format!("sslmode=verify-ca&{trusted}")),
            Some(true),
        ),
        (
            by_address(&format!("sslmode=require&{trusted}")),
            Some(true),
        ),
        (by_name("sslmode=verify-full"), None),
        (by_name("sslmode=verify-ca"), None),
        (by_name("sslmode=require"), Some(true)),
        (by_name("sslmode=prefer"), Some(true)),
        (by_name("sslmode=disable"), Some(false)),
    ] {
        let db = database(&SecretString::from(url.clone()), 1);
        let answer = db
            .query(
                "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
                vec![],
            )
            .await;
        let told = answer.as_ref().map(|rows| rows[0].get::<_, bool>(0));
        assert_eq!(told.as_ref().ok().copied(), encrypted, "{url} {told:?}");
        assert!(
            told.is_ok() || told.as_ref().is_err_and(|error| error.unavailable),
            "{url}"
        );
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_unavailable_and_tells_no_password() {
    let url = SecretString::from("postgres://u:canary-password@127.0.0.1:1/d");
    let error = database(&url, 1)
        .query("select 1", vec![])
        .await
        .unwrap_err();
    assert!(
        error.unavailable && error.message.contains("refused"),
        "{}",
        error.message
    );
    assert!(!format!("{error:?}").contains("canary"));
    for wrong in [
        "postgres://u:canary@h/d?sslmode=nope",
        "postgres://u:canary@h/d?sslrootcert=%zz",
        "postgres://h/d?user=u&password=x&canary=1",
        "postgres://u:can[canary]@h/d",
        "postgres://u:can/ary:canary@h/d",
        "postgres://u:canary%@h/d",
        "postgres://u:canary@h:canary/d",
        "postgres://u:can?ary=canary@h/d?sslcert=x",
        "mysql://u:canary@h/d",
        "postgres://u:canary@/d",
    ] {
        let told = check_url(&SecretString::from(wrong)).unwrap_err();
        assert!(
            !told.problem.contains("canary") && !told.fix.contains("canary"),
            "{told:?}"
        );
    }
}

#[test]
fn what_other_clients_write_into_a_url_is_taken_or_named() {
    let told = |url: &str| match check_url(&SecretString::from(url)) {
        Ok(()) => String::new(),
        Err(fault) => format!("{}. {}", fault.problem, fault.fix),
    };
    for query in [
        "supa=base-pooler.x",
        "schema=public",
        "pgbouncer=true&connection_limit=1",
        "pgbouncer",
        "prepareThreshold=0",
        "currentSchema=public&sslmode=require",
        "statement_cache_size=0&pool_timeout=0",
    ] {
        assert_eq!(
            told(&format!("postgres://u:p@h:6543/d?{query}")),
            "",
            "{query}"
        );
    }
    for (url, words) in [
        ("postgres://u:p@h/d?zebra=1", ["zebra", "take it out"]),
        ("postgres://u:p@h/d?ssl=true", ["ssl", "sslmode=require"]),
        (
            "postgres://postgres:[YOUR-PASSWORD]@h/d",
            ["[YOUR-PASSWORD]", "own password"],
        ),
        (
            "postgres://postgres:YOUR_PASSWORD@h/d",
            ["[YOUR-PASSWORD]", "own password"],
        ),
        ("postgres://postgres:[hunter2]@h/d", ["brackets", "%5B"]),
        (
            "postgres://u:p@db.[PROJECT-REF].supabase.co/d",
            ["placeholder", "host"],
        ),
        ("postgres://u:p@<host>/d", ["placeholder", "host"]),
        ("postgres://u:p@ss@h/d", ["has a @", "%40"]),
        ("postgres://u:p/ss@h/d", ["has a /", "%2F"]),
        ("postgres://u:100%@h/d", ["has a %", "%25"]),
        ("postgres://u:p%zz@h/d", ["has a %", "%25"]),
        (
            "postgresql+psycopg2://u:p@h/d",
            ["postgres://", "libraries"],
        ),
        ("jdbc:postgresql://h/d", ["postgres://", "libraries"]),
    ] {
        let told = told(url);
        assert!(
            words.iter().all(|word| told.contains(word)),
            "{url}: {told}"
        );
    }
    for good in [
        "postgres://u:p%40ss%2F%25@h/d",
        "postgres://u:p?s#s$@h/d",
        "postgres://u@[::1]:5432/d",
        "postgres://h/d?user=u",
    ] {
        assert_eq!(told(good), "", "{good}");
    }
}
