//! The writer thread: takes jobs from a queue and commits many of them at once.
//!
//! While one batch is being flushed to the disk the next one gathers, so a commit is shared by all who came meanwhile
//! (group commit). Where that is a crowd already, it is given a little more time: then fewer commits write the pages that
//! they share. An ending that cannot be written is kept and tried again; a hold that cannot be written is refused.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::ledger::file::{Lock, Place, absolute};
use crate::ledger::queue::{Job, Marking};
use crate::ledger::sqlite::{Book, Failure, Last};
use crate::ledger::users::NewUser;
use crate::ledger::{Ending, HoldRequest, NoHold, Settings, Settlement, Shared, Turn};
use crate::plan::Hold;

/// How many jobs share a commit at most.
const BATCH_MAX: usize = 1024;
/// From how many holds and endings in a batch on the next one is given time to gather.
const CROWD: usize = 16;
/// How long. `PostgreSQL` has the same two settings: `commit_siblings` and `commit_delay`.
const GATHER: Duration = Duration::from_millis(4);
/// How often an idle writer looks for changes by others, and a failed write is tried again.
const TICK: Duration = Duration::from_millis(200);
/// How often it is looked whether the file is still where it was.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// A hold and whoever waits for it.
type Waiting = (Box<HoldRequest>, oneshot::Sender<Result<Hold, NoHold>>);

struct Writer {
    book: Book,
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
    owner: Uuid,
    /// Tells this ledger from every other.
    identifier_key: String,
    /// Endings that are not on the disk yet.
    endings: VecDeque<Ending>,
    /// What the outbox has done since the last commit.
    markings: Vec<Marking>,
    /// Users to be noted.
    users: Vec<NewUser>,
    paused: Option<String>,
    data_version: i64,
    renewed_at: Option<Instant>,
    pruned_at: Option<Instant>,
    failures: u32,
    path: PathBuf,
    place: Place,
    looked_at: Option<Instant>,
    /// The file is not where it was: nothing is written until it is again.
    is_away: bool,
    /// What was written last, by which a file that was put back is known.
    last: Option<Last>,
    /// What the transaction under way has ended last.
    ended: Option<Last>,
    /// Held for as long as the writer lives: a second server on the file would end our requests.
    lock: Lock,
}

/// Opens the file, ends what an earlier process left, and starts the thread.
pub(crate) fn start(
    path: PathBuf,
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
    queue: Receiver<Job>,
) -> Result<(JoinHandle<()>, String, Place), Failure> {
    let writer = Writer::open(path, settings, clock, shared)?;
    let (identifier_key, place) = (writer.identifier_key.clone(), writer.place.clone());
    let builder = std::thread::Builder::new().name("ledger".to_owned());
    let thread = builder.spawn(move || writer.run(&queue));
    let thread =
        thread.map_err(|error| Failure::new(format!("no thread for the ledger: {error}")))?;
    Ok((thread, identifier_key, place))
}

impl Writer {
    fn open(
        path: PathBuf,
        settings: Settings,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> Result<Self, Failure> {
        let lock = Lock::take(&path)?;
        let owner = Uuid::now_v7();
        let (book, made) = Book::open_or_make(&path, owner)?;
        if made {
            tracing::info!(ledger = %absolute(&path).display(), "a new ledger is made: nobody has used anything yet");
        }
        let book = book.with_outbox(settings.outbox);
        let mut writer = Self {
            identifier_key: book.identifier_key()?,
            book,
            settings,
            clock,
            shared,
            owner,
            endings: VecDeque::new(),
            markings: Vec::new(),
            users: Vec::new(),
            paused: None,
            data_version: -1,
            renewed_at: None,
            pruned_at: None,
            failures: 0,
            place: Place::of(path.clone()),
            path,
            looked_at: None,
            is_away: false,
            last: None,
            ended: None,
            lock,
        };
        writer.lock.note(&writer.place)?;
        writer.sweep_at_start()?;
        writer.look_for_changes()?;
        writer.shared.writable.store(true, Ordering::Release);
        Ok(writer)
    }

    fn run(mut self, queue: &Receiver<Job>) {
        let (mut going, mut crowded) = (true, false);
        while going {
            let jobs = match queue.recv_timeout(TICK) {
                Ok(job) => gather(job, queue, crowded),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            crowded = is_crowd(&jobs);
            going = self.batch(jobs);
        }
        let late = queue.try_iter().collect();
        self.batch(late);
        self.last_words();
    }

    /// Does what was asked; false when it was asked to stop.
    fn batch(&mut self, jobs: Vec<Job>) -> bool {
        let (mut holds, mut questions, mut going) = (VecDeque::new(), Vec::new(), true);
        for job in jobs {
            match job {
                Job::Hold(request, answer) => holds.push_back((request, answer)),
                // A hold of this batch that its caller has already let go need not be made.
                Job::End(ending) if withdraw(&mut holds, &ending) => {}
                Job::End(ending) => self.endings.push_back(ending),
                Job::Mark(marking) => self.markings.push(marking),
                // Those of a ledger that fails are noted when they come again.
                Job::Note(user) if self.users.len() < BATCH_MAX => self.users.push(user),
                Job::Note(_) => {}
                question @ (Job::Standing { .. }
                | Job::Unsent { .. }
                | Job::Turn(_)
                | Job::Lag(_)) => {
                    questions.push(question);
                }
                Job::Stop => going = false,
            }
        }
        self.look_for_file();
        if self.is_away {
            self.out_of_use(holds);
        } else {
            if let Err(error) = self.look_for_changes() {
                tracing::warn!(%error, "the ledger cannot be read");
            }
            self.write(holds);
        }
        for question in questions {
            self.answer(question);
        }
        going
    }

    /// Answers what only reads. Whoever asked may have left.
    fn answer(&self, question: Job) {
        match question {
            // What a file says that is not the ledger any more is no answer: whoever asked is told so.
            Job::Standing { .. } | Job::Unsent { .. } | Job::Lag(_) if self.is_away => {
                drop(question);
            }
            Job::Standing {
                user_id,
                now,
                counters,
                answer,
            } => {
                let standing = self.book.standing(user_id, now, &counters);
                if let Err(error) = &standing {
                    tracing::warn!(%error, "the ledger cannot be read");
                }
                drop(answer.send(standing.ok()));
            }
            Job::Unsent {
                limit,
                except,
                answer,
            } => drop(answer.send(self.book.unsent(limit, &except))),
            // A file has one process.
            Job::Turn(answer) => drop(answer.send(Ok(Turn::Renewed))),
            Job::Lag(answer) => drop(answer.send(self.book.unsent_lag())),
            Job::Hold(..) | Job::End(_) | Job::Mark(_) | Job::Note(_) | Job::Stop => {}
        }
    }

    /// Reloads the pause switch when another process wrote to the file.
    fn look_for_changes(&mut self) -> Result<(), Failure> {
        let version = self.book.data_version()?;
        if version == self.data_version {
            return Ok(());
        }
        self.paused = self.book.paused()?;
        self.data_version = version;
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Writes what waits, in one transaction; answers the holds when it is on the disk.
    fn write(&mut self, holds: VecDeque<Waiting>) {
        if holds.is_empty()
            && self.endings.is_empty()
            && self.markings.is_empty()
            && self.users.is_empty()
            && !self.chores_are_due()
        {
            return;
        }
        // A ledger that failed is tried without holds first, so that few are ever in doubt however long it fails.
        if self.failures > 0 && !holds.is_empty() {
            self.write(VecDeque::new());
            if self.failures > 0 {
                return refuse(holds);
            }
        }
        match self.transaction(&holds) {
            Ok(answers) => {
                self.last = last_of(&holds, &answers).or(self.ended).or(self.last);
                if !self.endings.is_empty() {
                    self.shared.ended.notify_one();
                }
                self.endings.clear();
                self.users.clear();
                for marking in self.markings.drain(..) {
                    drop(marking.answer.send(Ok(())));
                }
                self.succeeded();
                for ((_, waiting), answer) in holds.into_iter().zip(answers) {
                    // A caller that left has dropped its reservation, which ends the hold.
                    drop(waiting.send(answer));
                }
            }
            Err((error, in_doubt)) => self.failed(&error, holds, in_doubt),
        }
    }

    /// One transaction; when it fails, also whether a commit was tried of which nobody knows what reached the disk.
    fn transaction(
        &mut self,
        holds: &VecDeque<Waiting>,
    ) -> Result<Vec<Result<Hold, NoHold>>, (Failure, bool)> {
        self.book.begin().map_err(|error| (error, false))?;
        let answers = self.steps(holds).map_err(|error| {
            self.book.roll_back();
            (error, false)
        })?;
        self.book
            .commit()
            .map_err(|error| (error, self.book.roll_back()))?;
        Ok(answers)
    }

    /// Endings first: they make room for the holds.
    fn steps(&mut self, holds: &VecDeque<Waiting>) -> Result<Vec<Result<Hold, NoHold>>, Failure> {
        let now = self.clock.now();
        let mut ended = None;
        let mut batch = self.book.batch();
        for ending in &self.endings {
            if batch.end(ending, now)? {
                ended = Some(Last {
                    id: ending.id,
                    ended: true,
                });
            } else {
                tracing::debug!(request_id = %ending.id, "there was no open hold to end");
            }
        }
        drop(batch);
        self.ended = ended;
        for marking in &self.markings {
            self.book.mark(&marking.ids, marking.mark)?;
        }
        for user in &self.users {
            self.book.note_user(user)?;
        }
        self.chores(now)?;
        if let Some(reason) = &self.paused {
            let refused = |(request, _): &Waiting| {
                let first = self.book.repetition(request)?;
                let paused = || NoHold::Paused(reason.clone());
                Ok(Err(first.map_or_else(paused, NoHold::Repeated)))
            };
            return holds.iter().map(refused).collect();
        }
        let mut batch = self.book.batch();
        holds
            .iter()
            .map(|(request, _)| batch.hold(request))
            .collect()
    }

    fn chores_are_due(&self) -> bool {
        let renew_every = self
            .settings
            .lease
            .checked_div(3)
            .unwrap_or(self.settings.lease);
        // A ledger that failed is tried again at every tick, so that readiness turns by itself.
        self.failures > 0
            || self.renewed_at.is_none_or(|at| at.elapsed() >= renew_every)
            || self.prune_is_due()
    }

    fn prune_is_due(&self) -> bool {
        self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_EVERY)
    }

    /// Renews the lease, sweeps what others left, forgets what is old.
    fn chores(&mut self, now: Timestamp) -> Result<(), Failure> {
        if !self.chores_are_due() {
            return Ok(());
        }
        self.book.renew_lease(now, self.settings.lease)?;
        self.book.sweep(now, false, 100)?;
        if self.prune_is_due() {
            let gone = self.book.prune(
                now.minus(self.settings.keep_requests),
                now,
                &self.settings.time_zone,
            )?;
            // A full helping means that there is more: go on at the next tick.
            if gone < 500 {
                self.pruned_at = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the ledger can be written again");
        }
        if self.chores_are_due() {
            self.renewed_at = Some(Instant::now());
        }
        self.failures = 0;
        self.shared.writable.store(true, Ordering::Release);
    }

    /// Keeps the endings for later and refuses the holds. Where nobody knows whether the commit reached the disk, each
    /// hold is voided as well.
    fn failed(&mut self, error: &Failure, holds: VecDeque<Waiting>, in_doubt: bool) {
        self.failures = self.failures.saturating_add(1);
        self.shared.writable.store(false, Ordering::Release);
        if self.failures.is_power_of_two() {
            tracing::error!(%error, endings_waiting = self.endings.len(), "the ledger cannot be written");
        }
        for marking in self.markings.drain(..) {
            drop(marking.answer.send(Err(Failure::new(error.to_string()))));
        }
        if error.is_constraint() {
            self.isolate_poison();
        }
        if in_doubt {
            let void = |(request, _): &Waiting| {
                let HoldRequest { id, user_id, .. } = **request;
                Ending {
                    id,
                    user_id,
                    settlement: Settlement::void(),
                }
            };
            // One that has a hold already ends as its caller says.
            let is_new = |(request, _): &&Waiting| request.replaces.is_none();
            self.endings.extend(holds.iter().filter(is_new).map(void));
        }
        refuse(holds);
        self.reopen();
    }

    /// One ending that the database refuses must not stop the others: each is tried alone, and one that can never be
    /// written is given up, loudly; its row stays held and is lost at the next start.
    fn isolate_poison(&mut self) {
        let now = self.clock.now();
        let mut kept = VecDeque::new();
        for ending in std::mem::take(&mut self.endings) {
            let done = self
                .book
                .begin()
                .and_then(|()| self.book.end(&ending, now))
                .and_then(|_| self.book.commit());
            let Err(error) = done else { continue };
            self.book.roll_back();
            if error.is_constraint() {
                tracing::error!(%error, request_id = %ending.id, "the ledger refuses this ending");
                continue;
            }
            kept.push_back(ending);
        }
        self.endings = kept;
    }

    /// A disk that came back wants a new connection.
    fn reopen(&mut self) {
        if self.failures.is_multiple_of(5) {
            match Book::reopen(&self.path, self.owner, &self.identifier_key) {
                Ok(book) => self.go_on_with(book),
                Err(error) => tracing::error!(%error, "the ledger cannot be opened again"),
            }
        }
    }

    fn go_on_with(&mut self, book: Book) {
        self.book = book.with_outbox(self.settings.outbox);
        self.data_version = -1;
    }

    /// Looks, now and then, whether the file is where it was. While it is not, nothing is written: nobody would ever
    /// find it.
    fn look_for_file(&mut self) {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(Instant::now());
        match self.place.look() {
            Ok(_) if self.is_away => self.found(),
            Ok(_) => {}
            Err(error) if !self.is_away => self.lost(&error),
            Err(_) => self.try_what_lies_there(),
        }
    }

    fn lost(&mut self, error: &Failure) {
        self.is_away = true;
        self.shared.writable.store(false, Ordering::Release);
        tracing::error!(%error, "the ledger is not where it was: every request is refused until it is put back");
        if self.place.lacks_only_what_lies_beside() {
            match self.book.take_in_log() {
                Ok(()) => tracing::warn!(
                    "what the ledger's lost -wal had was taken into the ledger itself"
                ),
                Err(error) => {
                    tracing::error!(%error, "what the ledger's lost -wal had is lost with this process");
                }
            }
        }
    }

    /// It is where it was.
    fn found(&mut self) {
        self.is_away = false;
        // So the next thing to be written is what waits, and then all is well.
        self.failures = self.failures.max(1);
        self.data_version = -1;
    }

    /// A copy that was put back, from another disk, say, is the ledger if it has all that was ever written; what lacks
    /// anything would give it back to those who used it.
    fn try_what_lies_there(&mut self) {
        if !self.place.has_other_files() {
            return;
        }
        let Ok(book) = Book::reopen(&self.path, self.owner, &self.identifier_key) else {
            return;
        };
        if !matches!(book.has(self.last.as_ref()), Ok(true)) {
            return;
        }
        if !self.lock.is_in_place() {
            match Lock::take(&self.path) {
                Ok(lock) => self.lock = lock,
                Err(error) => {
                    return tracing::error!(%error, "the ledger was put back, and is somebody else's now");
                }
            }
        }
        crate::ledger::file::keep_private(&self.path);
        self.go_on_with(book);
        self.place.opened_again();
        if let Err(error) = self.lock.note(&self.place) {
            tracing::warn!(%error, "commands cannot tell which ledger is served from");
        }
        self.found();
    }

    /// Refuses what would be written; endings wait.
    fn out_of_use(&mut self, holds: VecDeque<Waiting>) {
        for marking in self.markings.drain(..) {
            drop(marking.answer.send(Err(Failure::new(
                "the ledger is not where it was".to_owned(),
            ))));
        }
        refuse(holds);
    }

    fn sweep_at_start(&mut self) -> Result<(), Failure> {
        let now = self.clock.now();
        self.book.begin()?;
        self.book.renew_lease(now, self.settings.lease)?;
        let swept = self.book.sweep(now, true, u32::MAX)?;
        self.book.commit()?;
        self.renewed_at = Some(Instant::now());
        if swept > 0 {
            tracing::warn!(
                requests = swept,
                "requests that were open when the last process ended are charged their hold"
            );
        }
        Ok(())
    }

    /// The last try for endings that wait.
    fn last_words(&mut self) {
        if !self.is_away {
            self.write(VecDeque::new());
        }
        if !self.endings.is_empty() {
            tracing::error!(
                requests = self.endings.len(),
                "not written: the next start ends these requests as lost"
            );
        }
    }
}

/// What is done together with a first job: what is here, and after a crowd also what comes in a moment.
fn gather(first: Job, queue: &Receiver<Job>, after_crowd: bool) -> Vec<Job> {
    if after_crowd {
        std::thread::sleep(GATHER);
    }
    let mut jobs = vec![first];
    jobs.extend(queue.try_iter().take(BATCH_MAX));
    jobs
}

/// The last hold that a transaction wrote.
fn last_of(holds: &VecDeque<Waiting>, answers: &[Result<Hold, NoHold>]) -> Option<Last> {
    let held = holds
        .iter()
        .zip(answers)
        .rev()
        .find(|(_, answer)| answer.is_ok());
    held.map(|((request, _), _)| Last {
        id: request.id,
        ended: false,
    })
}

/// Whether so many want to write that the next would rather wait for each other.
fn is_crowd(jobs: &[Job]) -> bool {
    jobs.iter()
        .filter(|job| matches!(job, Job::Hold(..) | Job::End(_)))
        .count()
        >= CROWD
}

/// Tells who waits that nothing was held.
fn refuse(holds: VecDeque<Waiting>) {
    for (_, waiting) in holds {
        // A caller that left has nothing to be told.
        drop(waiting.send(Err(NoHold::Store)));
    }
}

/// Takes a hold that its caller has let go out of the batch; false if there is something to end all the same.
fn withdraw(holds: &mut VecDeque<Waiting>, ending: &Ending) -> bool {
    let place = holds
        .iter()
        .position(|(request, _)| request.id == ending.id);
    let withdrawn = place.and_then(|place| holds.remove(place));
    withdrawn.is_some_and(|(request, _)| request.replaces.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone with its owner.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("tollgate-writer-{}", Uuid::now_v7()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn writer(&self) -> Writer {
            let settings = Settings {
                store: crate::config::StoreUrl::Sqlite(self.0.join("ledger.db")),
                outbox: false,
                lease: Duration::from_mins(1),
                keep_requests: Duration::from_hours(24 * 400),
                time_zone: jiff::tz::TimeZone::UTC,
            };
            let path = self.0.join("ledger.db");
            Writer::open(path, settings, Clock::system(), Arc::new(Shared::default())).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn hold(id: Uuid) -> (Job, oneshot::Receiver<Result<Hold, NoHold>>) {
        let price = crate::price::PriceTable::shipped()
            .models
            .remove("gpt-4o-mini")
            .unwrap();
        let quote = crate::plan::Quote {
            price,
            base: crate::price::Quantities::of_input(10),
            output_cap: 10,
            output_floor: 10,
            choices: 1,
        };
        let request = HoldRequest {
            id,
            user_id: Uuid::from_u128(7),
            now: Clock::system().now(),
            plan: "free".to_owned(),
            endpoint: "/v1/chat/completions".into(),
            model: "gpt-4o-mini".to_owned(),
            plan_model: None,
            requested_model: None,
            feature: None,
            prompt_version: None,
            upstream: "openai".to_owned(),
            quote,
            limits: Vec::new(),
            concurrent: None,
            ceiling: None,
            idempotency: None,
            replaces: None,
            credits: false,
        };
        let (answer, wait) = oneshot::channel();
        (Job::Hold(Box::new(request), answer), wait)
    }

    #[test]
    fn only_a_crowd_is_given_time_to_gather_and_who_only_asks_is_none() {
        let (send, queue) = std::sync::mpsc::channel();
        let ask = || Job::Lag(oneshot::channel().0);
        let end = || {
            Job::End(Ending {
                id: Uuid::nil(),
                user_id: Uuid::nil(),
                settlement: Settlement::void(),
            })
        };
        for _ in 0..CROWD {
            send.send(ask()).unwrap();
        }
        for _ in 1..CROWD {
            send.send(end()).unwrap();
        }
        let mut jobs = gather(ask(), &queue, false);
        assert_eq!(jobs.len(), 2 * CROWD);
        assert!(!is_crowd(&jobs));
        jobs.push(end());
        assert!(is_crowd(&jobs));
        let begun = Instant::now();
        let _sending = std::thread::spawn(move || send.send(end()));
        let jobs = gather(ask(), &queue, true);
        assert!(
            begun.elapsed() >= GATHER,
            "{} jobs after {:?}",
            jobs.len(),
            begun.elapsed()
        );
    }

    #[test]
    fn a_locked_ledger_refuses_holds_keeps_few_endings_and_tries_them_together() {
        let folder = Folder::new();
        let mut writer = folder.writer();
        let ids: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
        let (jobs, waits): (Vec<_>, Vec<_>) = ids.iter().map(|id| hold(*id)).unzip();
        writer.batch(jobs);
        assert!(
            waits
                .into_iter()
                .all(|mut wait| wait.try_recv().unwrap().is_ok())
        );
        let other = rusqlite::Connection::open(&writer.path).unwrap();
        other.execute_batch("begin immediate").unwrap();
        writer
            .book
            .db
            .busy_timeout(Duration::from_millis(50))
            .unwrap();
        let end = |id: &Uuid| {
            Job::End(Ending {
                id: *id,
                user_id: Uuid::nil(),
                settlement: Settlement::void(),
            })
        };
        let started = Instant::now();
        writer.batch(ids.iter().map(end).collect());
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "the lock is waited for once, not for every ending"
        );
        for _ in 0..5 {
            let (job, mut wait) = hold(Uuid::now_v7());
            writer.batch(vec![job]);
            assert_eq!(wait.try_recv().unwrap(), Err(NoHold::Store));
        }
        assert_eq!(
            writer.endings.len(),
            40,
            "a hold that was never tried to be committed needs no ending"
        );
        other.execute_batch("rollback").unwrap();
        let (job, mut wait) = hold(Uuid::now_v7());
        writer.batch(vec![job]);
        assert!(
            wait.try_recv().unwrap().is_ok(),
            "it goes on with the first batch after the lock"
        );
        assert!(writer.endings.is_empty());
        let open: i64 = other
            .query_row(
                "select count(*) from requests where state = 'held'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(open, 1);
    }

    #[test]
    fn an_ending_that_the_database_refuses_does_not_stop_the_others() {
        let folder = Folder::new();
        let mut writer = folder.writer();
        let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        writer.batch(ids.iter().map(|id| hold(*id).0).collect());
        let poison = format!(
            "create trigger poison before update on requests when old.id = '{}' begin select raise(abort, 'no'); end",
            ids[1]
        );
        rusqlite::Connection::open(&writer.path)
            .unwrap()
            .execute_batch(&poison)
            .unwrap();
        let end = |id: &Uuid| {
            Job::End(Ending {
                id: *id,
                user_id: Uuid::nil(),
                settlement: Settlement::void(),
            })
        };
        writer.batch(ids.iter().map(end).collect());
        assert!(writer.endings.is_empty());
        let open = "select id from requests where state = 'held'";
        let open: Vec<String> = writer
            .book
            .db
            .prepare(open)
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(open, [ids[1].to_string()]);
    }

    #[test]
    fn an_empty_folder_or_another_ledger_is_not_taken_for_the_ledger_that_was_lost() {
        let (folder, other) = (Folder::new(), Folder::new());
        let writer = folder.writer();
        let path = writer.path.clone();
        let reopen = || Book::reopen(&path, writer.owner, &writer.identifier_key);
        assert!(reopen().is_ok(), "the same ledger");
        for suffix in ["", "-wal", "-shm"] {
            let name = |folder: &Folder| folder.0.join(format!("ledger.db{suffix}"));
            std::fs::rename(name(&folder), folder.0.join(format!("away{suffix}"))).unwrap();
        }
        assert!(reopen().is_err(), "none");
        assert!(!path.exists(), "none was made");
        std::fs::write(&path, "").unwrap();
        assert!(reopen().is_err(), "an empty file");
        drop(other.writer());
        std::fs::copy(other.0.join("ledger.db"), &path).unwrap();
        assert!(reopen().is_err(), "another ledger");
    }
}
