//! The product, its surroundings, and how each of them is broken and mended.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::credits;
use crate::ledger::{Place, Reader};
use crate::load;
use crate::script::{Fault, Mood, Script, Store};
use crate::support::caller::{Answer, Front};
use crate::support::disk::{self, Tmpfs};
use crate::support::door::Door;
use crate::support::faketime;
use crate::support::postgres::Postgres;
use crate::support::process::Process;
use crate::support::relay::Relay;
use crate::support::settings::Settings;
use crate::support::sibling::Sibling;

/// How big a disk is, in MiB: room for a run's ledger, or for a server and its log of writes.
const DISK_MIB: u64 = 200;

/// Short waits, so that what the upstream leaves hanging ends within a run.
const WAITS: &str = r#"
[server]
shutdown_grace = "2s"
body_timeout = "5s"
[proxy]
first_byte_timeout = "3s"
idle_timeout = "2s"
total_timeout = "10s"
drain_timeout = "3s"
min_output_tokens = 16
"#;

/// Settings that no product may take.
const BROKEN: &[&str] = &[
    "this is not TOML",
    "",
    "[server]\nno_such_key = 1\n",
    "plans.free.limits = [{ per = \"day\", requests = 0 }]",
    "plans.free.models = [\"a-model-without-a-price\"]",
    "ceiling.cost_usd_per_day = \"-1\"",
    "[plans.requests]\ndefault = true\n[plans.tokens]\ndefault = true\n",
];

/// Everything that runs.
pub(crate) struct World {
    pub(crate) door: Arc<Door>,
    siblings: Vec<Arc<Sibling>>,
    /// Whether a process is down because we took it down.
    down: Vec<AtomicBool>,
    settings: Settings,
    postgres: Option<Postgres>,
    /// Between the product and Postgres.
    wire: Option<Relay>,
    disk: Option<Tmpfs>,
    mood: Arc<Mutex<Mood>>,
    begun: Instant,
    pub(crate) faults: AtomicU64,
    /// What was seen to be wrong.
    complaints: Mutex<Vec<String>>,
}

impl World {
    /// Everything, running.
    pub(crate) async fn new(script: &Script, store: Store) -> Self {
        let settings = Settings::new()
            .with(WAITS)
            .with(&load::plans(&script.families))
            .with(&load::upstreams(&script.families))
            .with(&credits::products())
            .env(credits::AUTHORIZATION_ENV, credits::AUTHORIZATION)
            .with(&format!(
                "proxy.on_disconnect = \"{}\"",
                script.on_disconnect
            ))
            .with(&format!(
                "ceiling.cost_usd_per_day = \"0.{:06}\"",
                load::CEILING
            ));
        let mut settings = faketime::movable(settings)
            .on_sqlite()
            .under(disk::MAY_BE_LIMITED);
        let (mut postgres, mut disk, mut wire) = (None, None, None);
        if store == Store::Postgres {
            let (server, its_disk) = postgres_on_a_disk().await;
            server.create_database("ledger").await;
            let between = Relay::start(server.port()).await;
            let url = server
                .url("ledger")
                .replace(&server.port().to_string(), &between.port().to_string());
            settings = settings
                .env("TOLLGATE_STORE__URL", &url)
                .env("TOLLGATE_STORE__LEASE", "5s");
            (postgres, disk, wire) = (Some(server), its_disk, Some(between));
        }
        let door = Arc::new(Door::prepare(settings.clone()).await);
        if store == Store::Sqlite {
            disk = Tmpfs::mount(door.directory().join("data"), DISK_MIB);
        }
        faketime::ahead(&door, 0);
        let mood = Arc::new(Mutex::new(Mood::Scripted));
        let shared = mood.clone();
        door.upstream
            .always(move |seen| load::answer(seen, *shared.lock().unwrap()));
        door.start().await;
        let mut siblings = Vec::new();
        while siblings.len() + 1 < store.processes() {
            siblings.push(door.beside().await);
        }
        Self {
            down: (0..store.processes())
                .map(|_| AtomicBool::new(false))
                .collect(),
            door,
            siblings,
            settings,
            postgres,
            wire,
            disk,
            mood,
            begun: Instant::now(),
            faults: AtomicU64::new(0),
            complaints: Mutex::default(),
        }
    }

    /// Since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What could not be tried here.
    pub(crate) fn untried(&self) -> Option<&'static str> {
        self.disk
            .is_none()
            .then_some("a full disk: there is no right to mount a small one here")
    }

    /// The settings as they should be.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the ledger is.
    pub(crate) fn place(&self) -> Place {
        match &self.postgres {
            Some(server) => Place::Server(server.url("ledger")),
            None => Place::File(self.door.directory().join("data/tollgate.db")),
        }
    }

    fn seat(&self, number: usize) -> (&Arc<Front>, &Process) {
        match number.checked_sub(1) {
            None => (&self.door.front, &self.door.process),
            Some(number) => (&self.siblings[number].front, &self.siblings[number].process),
        }
    }

    /// One of the processes.
    pub(crate) fn front(&self, number: u64) -> Arc<Front> {
        self.seat((number % self.down.len() as u64) as usize)
            .0
            .clone()
    }

    /// Something is wrong.
    pub(crate) fn complain(&self, what: String) {
        self.complaints.lock().unwrap().push(what);
    }

    /// Everything that was wrong so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    /// A call that had to be refused.
    pub(crate) fn expect_refusal(&self, answer: &io::Result<Answer>, status: u16) {
        if !load::is_as_expected(answer, status) {
            self.complain(format!("not refused with {status}: {answer:?}"));
        }
    }

    /// Complains of a process that ended by itself.
    pub(crate) fn look_for_the_dead(&self) {
        for (number, down) in self.down.iter().enumerate() {
            let (_, process) = self.seat(number);
            if !down.load(Ordering::SeqCst)
                && let Some(status) = process.exit_status()
                && !down.load(Ordering::SeqCst)
            {
                down.store(true, Ordering::SeqCst);
                self.complain(format!(
                    "process {number} ended by itself: {status}\n{}",
                    process.tail()
                ));
            }
        }
    }

    /// Breaks one thing, waits, and mends it.
    pub(crate) async fn suffer(&self, fault: Fault) {
        self.faults.fetch_add(1, Ordering::SeqCst);
        match fault {
            Fault::Kill(number, gap) => {
                self.down[number].store(true, Ordering::SeqCst);
                self.seat(number).1.kill9();
                sleep(gap).await;
                let orphans = self.orphans().await;
                self.revive(number).await;
                self.expect_swept(&orphans).await;
            }
            Fault::Terminate(number) => {
                self.down[number].store(true, Ordering::SeqCst);
                self.seat(number).1.term(Duration::from_secs(30)).await;
                self.revive(number).await;
            }
            Fault::DiskFull(lasts) => {
                let Some(disk) = &self.disk else { return };
                tokio::task::block_in_place(|| disk.fill());
                sleep(lasts).await;
                disk.free();
                // A server that cannot write its log stops, and is started again as its machine would.
                if let Some(postgres) = &self.postgres {
                    tokio::task::block_in_place(|| postgres.revive());
                }
            }
            Fault::NoGrowth(lasts) => {
                self.limit_files("4096");
                sleep(lasts).await;
                self.limit_files("unlimited");
            }
            Fault::PostgresCrash => self.postgres_down(Duration::ZERO).await,
            Fault::PostgresUnheard(lasts) => {
                let Some(wire) = &self.wire else { return };
                wire.lose_answers();
                sleep(lasts).await;
                wire.cut();
            }
            Fault::PostgresDown(lasts) => self.postgres_down(lasts).await,
            Fault::Clock(ahead) => faketime::ahead(&self.door, ahead),
            Fault::Upstream(mood, lasts) => {
                *self.mood.lock().unwrap() = mood;
                sleep(lasts).await;
                *self.mood.lock().unwrap() = Mood::Scripted;
            }
            Fault::BrokenSettings(which, lasts) => {
                self.break_settings(which);
                self.reload();
                sleep(lasts).await;
                self.door.write_settings(&self.settings);
                self.reload();
            }
            Fault::OtherSettings => {
                self.door.write_settings(
                    &self
                        .settings
                        .clone()
                        .with("plans.free.max_input_tokens = 15000"),
                );
                self.reload();
            }
        }
    }

    /// Asks the oracle of the door as well, and stops everything.
    pub(crate) async fn close(self) {
        let directory = self.door.directory().to_owned();
        Arc::into_inner(self.door)
            .expect("nobody else has the door any more")
            .close()
            .await;
        drop((self.siblings, self.postgres, self.disk));
        // The door could not remove where the disk was mounted.
        let _ = std::fs::remove_dir_all(directory);
    }

    /// What a dead process left open on SQLite: there is no other.
    async fn orphans(&self) -> Vec<String> {
        let place = self.place();
        let (Place::File(_), Ok(reader)) = (&place, Reader::connect(&place).await) else {
            return Vec::new();
        };
        let rows = reader
            .look()
            .await
            .map(|seen| seen.rows)
            .unwrap_or_default();
        rows.into_iter()
            .filter(|row| row.state == "held")
            .map(|row| row.id)
            .collect()
    }

    /// A process that serves has ended what the one before left open.
    async fn expect_swept(&self, orphans: &[String]) {
        let Ok(reader) = Reader::connect(&self.place()).await else {
            return;
        };
        let rows = reader
            .look()
            .await
            .map(|seen| seen.rows)
            .unwrap_or_default();
        for row in rows
            .iter()
            .filter(|row| row.state == "held" && orphans.contains(&row.id))
        {
            self.complain(format!(
                "left by a dead process, and still held after the next start: {row:?}"
            ));
        }
    }

    async fn postgres_down(&self, lasts: Duration) {
        let Some(postgres) = &self.postgres else {
            return;
        };
        tokio::task::block_in_place(|| postgres.stop("immediate"));
        sleep(lasts).await;
        tokio::task::block_in_place(|| postgres.start_again());
    }

    /// (One that is started meanwhile has no limit.)
    fn limit_files(&self, bytes: &str) {
        if !self.down[0].load(Ordering::SeqCst) {
            disk::limit_files(self.door.process.pid(), bytes);
        }
    }

    fn break_settings(&self, which: usize) {
        let good = self.settings.text().unwrap();
        let text = match BROKEN[which % BROKEN.len()] {
            // Half a file, as an editor or a copy leaves it for a moment.
            "" => good[..good.len() / 2].to_owned(),
            "this is not TOML" => "this is not TOML".to_owned(),
            broken => self
                .settings
                .clone()
                .with(broken)
                .text()
                .unwrap()
                .replace("{upstream}", self.door.upstream.base_url()),
        };
        self.door.write_file("tollgate.toml", &text);
    }

    fn reload(&self) {
        for number in 0..self.down.len() {
            // Told only to a process that is up; one that starts reads the file by itself.
            if !self.down[number].load(Ordering::SeqCst) {
                self.seat(number).1.signal("HUP");
            }
        }
    }

    /// Starts a process again and again until it serves, as whatever keeps it running would.
    async fn revive(&self, number: usize) {
        let (front, process) = self.seat(number);
        let begun = Instant::now();
        while !self.door.try_run(front, process).await {
            sleep(Duration::from_millis(100)).await;
            if begun.elapsed() > Duration::from_secs(40) {
                self.complain(format!(
                    "process {number} does not start again:\n{}",
                    process.tail()
                ));
                return;
            }
        }
        self.down[number].store(false, Ordering::SeqCst);
    }
}

/// A Postgres server on a small disk of its own, where we may mount one; else on ours.
async fn postgres_on_a_disk() -> (Postgres, Option<Tmpfs>) {
    // Little is written ahead, so that the disk's room is what the tables want.
    let settings = "max_wal_size = 64MB\nmin_wal_size = 32MB";
    let start = || {
        Postgres::start_in(false, settings, |data| {
            Tmpfs::mount(data.to_owned(), DISK_MIB)
        })
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}
