//! The door: the real binary, running, between a fake Supabase and a fake upstream.
//!
//! `Door::open` starts it in a directory of its own; `close` waits until all is quiet, asks the oracle, and stops it.
//! A door that is dropped unclosed fails its test: nobody forgets the oracle.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use super::caller::{Answer, Call, Front, PROMPT_CANARY, User};
use super::collector::Collector;
use super::jwks::Supabase;
use super::keys::{Key, random_hex};
use super::leaks::{Canary, Kind};
use super::oracle::{self, Evidence, Row};
use super::postgres::{DATABASE_PASSWORD, free_port};
use super::process::{Printed, Process};
use super::settings::Settings;
use super::sibling::Sibling;
use super::store::Database;
use super::tokens;
use super::upstream::Upstream;

const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");

static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// The secrets of one door; each is a canary.
struct Secrets {
    operator_key: String,
    jwt_secret: String,
    service_key: String,
    admin_token: String,
}

/// The product, running, with everything around it.
pub(crate) struct Door {
    pub(crate) upstream: Upstream,
    pub(crate) supabase: Supabase,
    /// The shared secret that signs tokens.
    pub(crate) key: Key,
    pub(crate) front: Arc<Front>,
    pub(crate) process: Process,
    settings: Settings,
    secrets: Secrets,
    directory: PathBuf,
    /// Where the ledger is, if that is not a SQLite file in the directory.
    database: Option<Database>,
    other_keys: Mutex<Vec<String>>,
    siblings: Mutex<Vec<Arc<Sibling>>>,
    /// The operator's listeners that were talked to.
    offices: Mutex<Vec<Arc<Front>>>,
    collectors: Mutex<Vec<Collector>>,
    users: Mutex<Vec<User>>,
    clock_offset: Mutex<i64>,
    lowered: Mutex<bool>,
    panics: Mutex<usize>,
    closed: Mutex<bool>,
}

impl Drop for Door {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- what the product wrote last, in {}:\n{}",
                self.directory.display(),
                self.process.tail()
            );
            return;
        }
        let _ = fs::remove_dir_all(&self.directory);
        assert!(
            *self.closed.lock().unwrap(),
            "end each test with door.close().await: it asks the oracle"
        );
    }
}

impl Door {
    /// Starts the product and waits until it answers.
    pub(crate) async fn open(settings: Settings) -> Self {
        let door = Self::prepare(settings).await;
        door.start().await;
        door
    }

    /// The fakes and the files; nothing runs yet.
    pub(crate) async fn prepare(settings: Settings) -> Self {
        let (upstream, supabase) = (Upstream::start().await, Supabase::start().await);
        let secrets = Secrets {
            operator_key: format!("sk-canary-operator-{}", random_hex(16)),
            // With what JSON, URLs and base64 write differently.
            jwt_secret: format!("canary-jwt-{}/+=%&\\?~>", random_hex(24)),
            service_key: format!("sb_secret_canary-{}", random_hex(16)),
            admin_token: format!("canary-admin-{}", random_hex(24)),
        };
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("door-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let database = Database::wanted_by(&settings).await;
        let door = Self {
            key: Key::hs256(secrets.jwt_secret.clone()),
            front: Arc::new(Front::new(SocketAddr::from(([127, 0, 0, 1], 1)))),
            process: Process::default(),
            upstream,
            supabase,
            settings,
            secrets,
            directory,
            database,
            other_keys: Mutex::default(),
            siblings: Mutex::default(),
            offices: Mutex::default(),
            collectors: Mutex::default(),
            users: Mutex::default(),
            clock_offset: Mutex::default(),
            lowered: Mutex::default(),
            panics: Mutex::default(),
            closed: Mutex::default(),
        };
        door.write_settings(&door.settings);
        door
    }

    /// Starts the binary on a free port and waits until it answers.
    pub(crate) async fn start(&self) {
        self.run(&self.front, &self.process).await;
    }

    /// Starts another process with the same settings, on the same ledger (which must then be on Postgres).
    pub(crate) async fn beside(&self) -> Arc<Sibling> {
        let sibling = Arc::new(Sibling::default());
        self.run(&sibling.front, &sibling.process).await;
        self.siblings.lock().unwrap().push(sibling.clone());
        sibling
    }

    /// Starts a sibling again that was stopped.
    pub(crate) async fn start_sibling(&self, sibling: &Sibling) {
        self.run(&sibling.front, &sibling.process).await;
    }

    async fn run(&self, front: &Arc<Front>, process: &Process) {
        for _ in 0..5 {
            if self.try_run(front, process).await {
                return;
            }
            // Somebody else took the port between finding it free and binding it.
            assert!(
                process.output().contains("in use"),
                "the server did not start:\n{}",
                process.tail()
            );
        }
        panic!("no free port in five tries:\n{}", process.tail());
    }

    /// Starts a process of the product once, on a free port. Whether it came to answer before it ended.
    pub(crate) async fn try_run(&self, front: &Arc<Front>, process: &Process) -> bool {
        let port = free_port();
        process.start(self.serve(port));
        front.moved(SocketAddr::from(([127, 0, 0, 1], port)));
        answers(front, process).await
    }

    /// Starts the binary as systemd does with a socket: it gets `socket`, which stays open here when it ends.
    pub(crate) async fn start_on(&self, socket: &std::net::TcpListener) {
        let handed = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
        self.process
            .start_with(self.serve(free_port()), handed.into());
        self.front.moved(socket.local_addr().unwrap());
        assert!(
            answers(&self.front, &self.process).await,
            "it did not start:\n{}",
            self.process.tail()
        );
    }

    /// Starts a product that must refuse to, and waits until it has.
    pub(crate) async fn refused_to_start(settings: Settings) -> Printed {
        let door = Self::prepare(settings).await;
        door.process.start(door.serve(free_port()));
        let status = door.process.exited(Duration::from_secs(20)).await;
        sleep(Duration::from_millis(50)).await; // the last words are still in the pipe
        let printed = Printed {
            code: status.code(),
            stdout: String::new(),
            stderr: door.process.output(),
        };
        let is_shown = |canary: &Canary| {
            canary
                .forms()
                .iter()
                .any(|(_, form)| memchr::memmem::find(printed.stderr.as_bytes(), form).is_some())
        };
        let leaks: Vec<_> = door.canaries().into_iter().filter(is_shown).collect();
        assert!(leaks.is_empty(), "a refusal to start shows {leaks:?}");
        assert!(
            !printed.stderr.contains("panicked at"),
            "it panicked: {}",
            printed.stderr
        );
        *door.closed.lock().unwrap() = true;
        printed
    }

    fn serve(&self, port: u16) -> Command {
        let mut words: Vec<String> = self.settings.wrapper().to_vec();
        words.extend([BINARY.to_owned(), "serve".to_owned()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.environment(&mut command, port);
        command
    }

    /// Nothing of the machine's environment but what a process needs to run; then the quick start's variables.
    fn environment(&self, command: &mut Command, port: u16) {
        command.current_dir(&self.directory).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("SUPABASE_URL", self.supabase.url());
        command.env("SUPABASE_SERVICE_KEY", &self.secrets.service_key);
        command.env("JWT_SECRET", &self.secrets.jwt_secret);
        command.env("OPENAI_API_KEY", &self.secrets.operator_key);
        command.env("TOLLGATE_ADMIN_TOKEN", &self.secrets.admin_token);
        command.env("TOLLGATE_SERVER__ADMIN_BIND", "");
        command.env("PORT", port.to_string());
        command.env("TOLLGATE_SERVER__BIND", format!("127.0.0.1:{port}"));
        if let Some(database) = &self.database {
            command.env("TOLLGATE_STORE__URL", database.url());
            // The shortest there is: what a killed process held is lost after it, and not at the next start.
            command.env("TOLLGATE_STORE__LEASE", "5s");
        }
        if !self.settings.mentions("upstreams") {
            command.env("OPENAI_BASE_URL", self.upstream.base_url());
        }
        for name in self.settings.unset_names() {
            command.env_remove(name);
        }
        command.envs(
            self.settings
                .environment()
                .iter()
                .map(|(name, value)| (name, value)),
        );
    }

    /// Writes the settings to `tollgate.toml`, which a running product may then reload. `{upstream}` and `{supabase}`
    /// in them are the addresses of the fakes.
    pub(crate) fn write_settings(&self, settings: &Settings) {
        if let Some(text) = settings.text() {
            let text = text
                .replace("{upstream}", self.upstream.base_url())
                .replace("{supabase}", self.supabase.url());
            // In one step: a process that starts meanwhile cannot know that half a file is not all of it.
            self.write_file("tollgate.toml.new", &text);
            fs::rename(
                self.directory.join("tollgate.toml.new"),
                self.directory.join("tollgate.toml"),
            )
            .unwrap();
        }
    }

    /// Writes a file into the working directory.
    pub(crate) fn write_file(&self, name: &str, contents: &str) {
        fs::write(self.directory.join(name), contents).unwrap();
    }

    /// The working directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A signed-in user.
    pub(crate) fn user(&self, name: &str) -> User {
        self.user_with(name, &serde_json::json!({}))
    }

    /// A signed-in user, with other claims.
    pub(crate) fn user_with(&self, name: &str, changes: &Value) -> User {
        let claims = tokens::with(self.claims(name), changes);
        let user = User {
            id: tokens::user_id(name),
            token: tokens::sign(&self.key, &claims),
            front: self.front.clone(),
        };
        self.users.lock().unwrap().push(user.clone());
        user
    }

    /// The claims of a signed-in user of this project.
    pub(crate) fn claims(&self, name: &str) -> Value {
        tokens::claims(
            name,
            &self.supabase.issuer(),
            tokens::now() + *self.clock_offset.lock().unwrap(),
        )
    }

    /// The product's clock is now so many seconds ahead of ours.
    pub(crate) fn clock_is_ahead(&self, seconds: i64) {
        *self.clock_offset.lock().unwrap() = seconds;
    }

    /// From here on a limit may be below what is used.
    pub(crate) fn lowers_a_limit(&self) {
        *self.lowered.lock().unwrap() = true;
    }

    /// The operator's listener at an address: what it answers is looked through like everything else.
    pub(crate) fn office(&self, address: SocketAddr) -> Arc<Front> {
        let front = Arc::new(Front::new(address));
        self.offices.lock().unwrap().push(front.clone());
        front
    }

    /// What this collector gets is looked through as well.
    pub(crate) fn tells(&self, collector: Collector) {
        self.collectors.lock().unwrap().push(collector);
    }

    /// Makes a task of the product panic, with its settings in the message, and waits until it says so.
    pub(crate) async fn panics(&self) {
        self.process.signal("USR2");
        self.process.until_it_says("panicked at").await;
        *self.panics.lock().unwrap() += 1;
    }

    /// Sends any call.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        self.front.send(call).await
    }

    /// Runs a command of the binary beside the server.
    pub(crate) fn tollgate(&self, arguments: &[&str]) -> Printed {
        self.tollgate_with(arguments, &[])
    }

    /// The same with other variables.
    pub(crate) fn tollgate_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Printed {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        self.environment(&mut command, self.front.address().port());
        command.envs(variables.iter().copied());
        self.process.run(command)
    }

    /// Runs a command, gives it this on stdin, waits until it has read and written all of it, and kills it.
    pub(crate) fn killed_while_reading(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        stdin: &str,
    ) {
        use std::io::Write;
        let mut command = Command::new(BINARY);
        command.args(arguments).stdin(std::process::Stdio::piped());
        self.environment(&mut command, self.front.address().port());
        command.envs(variables.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(child.try_wait().unwrap(), None, "it waits for the rest");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a second server beside the first, on the same ledger and another port, for at most ten seconds.
    pub(crate) fn second_server(&self) -> Printed {
        let mut command = Command::new("timeout");
        command.args(["10", BINARY, "serve"]);
        self.environment(&mut command, free_port());
        self.process.run(command)
    }

    /// From the next start on, and for every command, this variable too.
    pub(crate) fn moves_to(&mut self, name: &str, value: &str) {
        self.settings = self.settings.clone().env(name, value);
    }

    /// The same with an empty environment, in an empty directory.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Printed {
        let empty = self.directory.join("empty");
        fs::create_dir_all(&empty).unwrap();
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().current_dir(empty);
        self.process.run(command)
    }

    /// The same for a command that must succeed. What it printed.
    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let printed = self.tollgate(arguments);
        assert_eq!(printed.code, Some(0), "tollgate {arguments:?}: {printed:?}");
        printed.stdout
    }

    /// The ledger, row by row.
    pub(crate) fn ledger_rows(&self) -> Vec<Row> {
        let printed = self.must(&["usage", "--requests", "--json"]);
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
        };
        printed
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(parse)
            .collect()
    }

    /// The row of an answer, once it has ended.
    pub(crate) async fn row(&self, answer: &Answer) -> Row {
        let id = answer.id().expect("an answer with an id");
        let rows = self.quiet_rows().await;
        rows.into_iter()
            .find(|row| row.id == id)
            .unwrap_or_else(|| panic!("no row of {id}: {}", answer.what))
    }

    /// The ledger once nothing is held any more; as it is after ten seconds otherwise.
    pub(crate) async fn quiet_rows(&self) -> Vec<Row> {
        let begun = Instant::now();
        loop {
            let rows = self.ledger_rows();
            if rows.iter().all(|row| row.state != "held")
                || begun.elapsed() > Duration::from_secs(10)
            {
                return rows;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until what a killed process held is lost: on SQLite that is so as soon as the next one answers.
    pub(crate) async fn swept(&self) {
        if self.database.is_some() {
            self.quiet_rows().await;
        }
    }

    /// The database that the ledger is in.
    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().expect("a door on Postgres")
    }

    /// Looks at a user's limits again and again until the watch is dropped; the oracle judges what was seen.
    pub(crate) fn watch(user: &User) -> Watch {
        let user = user.clone();
        Watch(tokio::spawn(async move {
            loop {
                let _ = user
                    .front
                    .try_send(Call::get("/api/me").bearer(&user.token))
                    .await;
                sleep(Duration::from_millis(15)).await;
            }
        }))
    }

    /// SIGTERM, then a new process on the same ledger.
    pub(crate) async fn restart(&self) {
        self.process.term(Duration::from_secs(20)).await;
        self.start().await;
    }

    fn canaries(&self) -> Vec<Canary> {
        let secrets = &self.secrets;
        let mut canaries = vec![
            Canary::new(
                Kind::OperatorKey,
                "the operator's key",
                &secrets.operator_key,
            ),
            Canary::new(Kind::JwtSecret, "the JWT secret", &secrets.jwt_secret),
            Canary::new(Kind::ServiceKey, "the service key", &secrets.service_key),
            Canary::new(Kind::AdminToken, "the admin token", &secrets.admin_token),
            Canary::new(Kind::Prompt, "a prompt", PROMPT_CANARY),
            Canary::new(Kind::Password, "the database's password", DATABASE_PASSWORD),
        ];
        let others = self.other_keys.lock().unwrap().clone();
        canaries.extend(
            others
                .iter()
                .map(|key| Canary::new(Kind::OperatorKey, "another operator's key", key)),
        );
        let users = self.users.lock().unwrap().clone();
        let token = |user: &User| {
            Canary::new(
                Kind::UserToken,
                format!("the token of {}", user.id),
                &user.token,
            )
        };
        canaries.extend(users.iter().map(token));
        canaries
    }

    /// The operator's key, for upstreams that echo it.
    pub(crate) fn admin_token(&self) -> &str {
        &self.secrets.admin_token
    }

    /// A new key of the operator, which the product may use as well.
    pub(crate) fn another_key(&self) -> String {
        let key = format!("sk-canary-another-{}", random_hex(16));
        self.other_keys.lock().unwrap().push(key.clone());
        key
    }

    /// The operator's key at the upstream.
    pub(crate) fn operator_key(&self) -> &str {
        &self.secrets.operator_key
    }

    /// The service key, for callers who found it.
    pub(crate) fn service_key(&self) -> &str {
        &self.secrets.service_key
    }

    /// The shared secret, for callers who try it as a token.
    pub(crate) fn jwt_secret(&self) -> &str {
        &self.secrets.jwt_secret
    }

    /// What every user is told once nothing of theirs is open any more; as it is after ten seconds otherwise.
    async fn quiet_me(&self) -> Vec<(Uuid, Value)> {
        let mut told = Vec::new();
        let mut users = self.users.lock().unwrap().clone();
        users.reverse();
        users.sort_by_key(|user| user.id);
        users.dedup_by_key(|user| user.id);
        for user in users {
            let begun = Instant::now();
            loop {
                let answer = user.get("/api/me").await;
                let me = answer.json();
                let held = me["limits"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|limit| oracle::amount(limit, "held") != 0);
                if answer.status != 200 {
                    break;
                }
                if !held && me["concurrent"]["open"] == 0
                    || begun.elapsed() > Duration::from_secs(10)
                {
                    told.push((user.id, me));
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        told
    }

    /// The end of a test whose product cannot start: there is nothing to ask the oracle about.
    pub(crate) fn never_starts(self) {
        assert!(!self.process.is_there());
        *self.closed.lock().unwrap() = true;
    }

    /// The end of a test that had rows forgotten, without which the oracle cannot tell what was served for nothing.
    pub(crate) fn close_unjudged(self) {
        assert!(
            !self.process.output().contains("panicked at"),
            "it panicked:\n{}",
            self.process.tail()
        );
        *self.closed.lock().unwrap() = true;
    }

    /// Waits until all is quiet and asks the oracle.
    pub(crate) async fn close(self) {
        self.judge().await;
    }

    /// The same where the test changed the prices: the oracle then leaves the cost of each request to the test.
    pub(crate) async fn close_without_prices(mut self) {
        self.settings = self
            .settings
            .clone()
            .with("[prices.gpt-4o-mini]\n[prices.gpt-4o]\n");
        self.judge().await;
    }

    async fn judge(&self) {
        if !self.process.is_there() {
            self.start().await;
        }
        assert!(
            self.process.exit_status().is_none(),
            "the process died:\n{}",
            self.process.tail()
        );
        let rows = self.quiet_rows().await;
        let me = self.quiet_me().await;
        assert_eq!(self.send(Call::get("/")).await.status, 200);
        let siblings = self.siblings.lock().unwrap().clone();
        let mut files = files_below(&self.directory);
        files.extend(
            self.database
                .as_ref()
                .map(|database| ("the database".to_owned(), database.dump())),
        );
        let evidence = Evidence {
            settings: self.settings.clone(),
            rows,
            served: self.upstream.log(),
            heard: siblings.iter().fold(self.front.heard(), |heard, sibling| {
                [heard, sibling.front.heard()].concat()
            }),
            me,
            output: siblings.iter().fold(self.process.output(), |output, one| {
                output + &one.process.output()
            }),
            files,
            operators: self
                .offices
                .lock()
                .unwrap()
                .iter()
                .flat_map(|office| office.heard())
                .collect(),
            project: self.supabase.requests(),
            collected: self
                .collectors
                .lock()
                .unwrap()
                .iter()
                .flat_map(Collector::requests)
                .collect(),
            canaries: self.canaries(),
            operator_key: self.secrets.operator_key.clone(),
            other_keys: self.other_keys.lock().unwrap().clone(),
            kills: self.process.kills()
                + siblings
                    .iter()
                    .map(|sibling| sibling.process.kills())
                    .sum::<usize>(),
            lowered: *self.lowered.lock().unwrap(),
            panics: *self.panics.lock().unwrap(),
        };
        let found = oracle::violations(&evidence);
        *self.closed.lock().unwrap() = true;
        assert!(found.is_empty(), "the oracle:\n- {}", found.join("\n- "));
    }
}

/// Whether it comes to answer, before it ends.
async fn answers(front: &Arc<Front>, process: &Process) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if front
            .try_send(Call::get("/"))
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            return true;
        }
        if process.exit_status().is_some() {
            sleep(Duration::from_millis(50)).await; // the last words are still in the pipe
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the server answers nothing:\n{}", process.tail());
}

/// A sampler of a user's limits; it stops when it is dropped.
pub(crate) struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Every file below a directory, but the settings that the test itself wrote.
fn files_below(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_none_or(|extension| extension != "toml")
            && !path.ends_with(".env")
        {
            files.push((
                path.display().to_string(),
                fs::read(&path).unwrap_or_default(),
            ));
        }
    }
    files
}
