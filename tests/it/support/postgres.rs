//! A Postgres server of the test's own: made in a temporary directory, gone with the value that stands for it.
//!
//! It uses the installed `initdb`, `pg_ctl` and `psql`, and knows nothing of the product. Whoever may connect to it is
//! trusted: any password will do. A keeper process stops the server and removes its directory also when the test
//! is killed, so none is left behind.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{env, fs};

use tokio_postgres::{Client, NoTls};

use super::tools::Tool;

/// The password in every address of a test's Postgres; a canary.
pub(crate) const DATABASE_PASSWORD: &str = "canary-database-password";

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A running Postgres server.
pub(crate) struct Postgres {
    directory: PathBuf,
    port: u16,
    /// A shell that waits for the end of its standard input.
    keeper: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Postgres {
    /// A new, empty server. `fsync`: whether a commit is on disk before it is answered, as in production; tests that
    /// crash no machine are faster without.
    pub(crate) async fn start(fsync: bool) -> Self {
        Self::start_with(fsync, "").await
    }

    /// [`Postgres::start`] with more lines for `postgresql.conf`.
    pub(crate) async fn start_with(fsync: bool, settings: &str) -> Self {
        let settings = settings.to_owned();
        tokio::task::spawn_blocking(move || Self::start_blocking(fsync, &settings))
            .await
            .unwrap()
    }

    /// [`Postgres::start_with`] for tests without a runtime.
    pub(crate) fn start_blocking(fsync: bool, settings: &str) -> Self {
        Self::start_in(fsync, settings, |_| ()).0
    }

    /// The same; `prepare` is given the place of the data before there are any.
    pub(crate) fn start_in<T>(
        fsync: bool,
        settings: &str,
        prepare: impl FnOnce(&Path) -> T,
    ) -> (Self, T) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            env::temp_dir().join(format!("tollgate-pg-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        if let Some(uid) = server_uid() {
            chown(&directory, Some(uid), None).unwrap();
        }
        let keeper = keeper(&directory);
        let mut server = Self {
            directory,
            port: 0,
            keeper,
        };
        let prepared = prepare(&server.data());
        if let Some(uid) = server_uid().filter(|_| server.data().exists()) {
            chown(server.data(), Some(uid), None).unwrap();
        }
        let init = [
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ];
        must(
            server
                .tool("initdb")
                .arg("-D")
                .arg(server.data())
                .args(init),
        );
        for _ in 0..5 {
            server.port = free_port();
            server.write_settings(fsync, settings);
            if server.try_start() {
                return (server, prepared);
            }
        }
        panic!("PostgreSQL does not start:\n{}", server.log());
    }

    /// The address for the product: its superuser and a database.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The address with another user.
    pub(crate) fn url_as(&self, user: &str, database: &str) -> String {
        format!(
            "postgres://{user}:{DATABASE_PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// The port that it listens on, on 127.0.0.1.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Makes a file that only the server may read (a certificate's key); gives its path.
    pub(crate) fn put_file(&self, name: &str, contents: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, server_uid(), None).unwrap();
        path
    }

    /// A connection as a user. It ends when the client is dropped.
    pub(crate) async fn connect_as(&self, user: &str, database: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url_as(user, database), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// A connection as the superuser.
    pub(crate) async fn connect(&self, database: &str) -> Client {
        self.connect_as("postgres", database).await
    }

    /// A new database of this name, owned by the superuser.
    pub(crate) async fn create_database(&self, name: &str) {
        self.connect("postgres")
            .await
            .batch_execute(&format!("create database {name}"))
            .await
            .unwrap();
    }

    /// Runs a script by `psql`, as an operator would, over the unix socket. What it printed, or its complaint.
    pub(crate) fn psql(&self, user: &str, database: &str, script: &str) -> Result<String, String> {
        let mut command = Command::new(binaries().join("psql"));
        command.arg("-h").arg(&self.directory).args([
            "-p",
            &self.port.to_string(),
            "-U",
            user,
            "-d",
            database,
        ]);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(text)
        } else {
            Err(text)
        }
    }

    /// Stops the server: `fast` in order, `immediate` as in a crash. It stays down until [`Postgres::start_again`].
    pub(crate) fn stop(&self, mode: &str) {
        must(self.control().args(["stop", "-w", "-m", mode]));
    }

    /// Starts it again on the same port.
    pub(crate) fn start_again(&self) {
        assert!(
            self.try_start(),
            "PostgreSQL does not start again:\n{}",
            self.log()
        );
    }

    /// Starts it again if it has stopped by itself.
    #[allow(dead_code, reason = "for tests/chaos, which includes this file")]
    pub(crate) fn revive(&self) {
        let status = self
            .control()
            .arg("status")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if !status.status.success() {
            self.start_again();
        }
    }

    /// Crashes the server and starts it again: every connection breaks, and recovery runs.
    pub(crate) fn restart_immediate(&self) {
        self.stop("immediate");
        self.start_again();
    }

    /// A program beside the server, as its user, in its directory.
    pub(crate) fn program(&self, program: &Path) -> Command {
        let mut command = as_server(program);
        command.current_dir(&self.directory);
        command
    }

    /// What the server logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn try_start(&self) -> bool {
        let mut start = self.control();
        start
            .args(["start", "-w", "-t", "60", "-l"])
            .arg(self.directory.join("log"));
        // A pipe would stay open in the server, and nobody would ever see its end.
        start
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    fn write_settings(&self, fsync: bool, more: &str) {
        let mut text = fs::read_to_string(self.data().join("postgresql.conf")).unwrap();
        let (directory, port) = (self.directory.display(), self.port);
        let switch = if fsync { "on" } else { "off" };
        writeln!(
            text,
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{directory}'\nport = {port}"
        )
        .unwrap();
        // A crash of the server alone loses no commit even without fsync: the machine still has what was written.
        writeln!(
            text,
            "fsync = {switch}\nfull_page_writes = {switch}\n{more}"
        )
        .unwrap();
        fs::write(self.data().join("postgresql.conf"), text).unwrap();
    }

    fn control(&self) -> Command {
        let mut command = self.tool("pg_ctl");
        command.arg("-D").arg(self.data());
        command
    }

    /// A program of Postgres's.
    fn tool(&self, name: &str) -> Command {
        self.program(&binaries().join(name))
    }
}

/// A program as the user that the server runs as: it refuses to be root.
fn as_server(program: &Path) -> Command {
    if server_uid().is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

/// Outlives the test by the time it takes to stop the server and to remove its directory.
fn keeper(directory: &Path) -> Child {
    let as_server = if server_uid().is_some() {
        "runuser -u postgres -- "
    } else {
        ""
    };
    let script = format!(
        "cat >/dev/null; {as_server}\"{}/pg_ctl\" -D \"$1/data\" stop -m immediate >/dev/null 2>&1; \
         umount -l \"$1/data\" 2>/dev/null; rm -rf -- \"$1\"",
        binaries().display()
    );
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", &script, "keeper"]).arg(directory);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Where Postgres's programs are.
fn binaries() -> PathBuf {
    Tool::Postgres.expect()
}

/// Who the server runs as where we are root; `None`: as ourselves.
fn server_uid() -> Option<u32> {
    let id = |args: &[&str]| -> u32 {
        let output = Command::new("id").args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .expect("the user postgres, which its package makes")
    };
    (id(&["-u"]) == 0).then(|| id(&["-u", "postgres"]))
}

/// A port that is free now, and that nobody is given who asks for any: neither a fake, nor a connection, nor another
/// product of this process. So two are never mistaken for each other.
pub(crate) fn free_port() -> u16 {
    /// Below the range that the system gives ports from (32768 on, as Linux has it).
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id()
            .wrapping_mul(127)
            .wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + step % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn must(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
