//! The writer thread: takes jobs from a queue and commits many of them at once.
//!
//! While one batch is being flushed to the disk the next one gathers, so a commit is shared by all who came meanwhile
//! (group commit). An ending that cannot be written is kept and tried again; a hold that cannot be written is refused.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::report::RequestRow;
use super::sqlite::{Book, Failure};
use super::{Ending, HoldRequest, Lag, Mark, NoHold, Settings, Settlement, Shared, UserStanding};
use crate::clock::{Clock, Timestamp};
use crate::plan::{Hold, Window};

/// How many jobs share a commit at most.
const BATCH_MAX: usize = 1024;
/// How often an idle writer looks for changes by others, and a failed write is tried again.
const TICK: Duration = Duration::from_millis(200);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    Hold(Box<HoldRequest>, oneshot::Sender<Result<Hold, NoHold>>),
    End(Ending),
    Standing { user_id: Uuid, now: Timestamp, windows: Vec<Window>, answer: oneshot::Sender<Option<UserStanding>> },
    Unsent { limit: u32, except: Vec<String>, answer: oneshot::Sender<Result<Vec<RequestRow>, Failure>> },
    Lag(oneshot::Sender<Result<Lag, Failure>>),
    Mark(Marking),
    Stop,
}

/// Rows to be marked for the outbox, and whoever waits for it.
#[derive(Debug)]
pub(super) struct Marking {
    pub(super) ids: Vec<String>,
    pub(super) mark: Mark,
    pub(super) answer: oneshot::Sender<Result<(), Failure>>,
}

/// A hold and whoever waits for it.
type Waiting = (Box<HoldRequest>, oneshot::Sender<Result<Hold, NoHold>>);

struct Writer {
    book: Book,
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
    owner: Uuid,
    /// Endings that are not on the disk yet.
    endings: VecDeque<Ending>,
    /// What the outbox has done since the last commit.
    markings: Vec<Marking>,
    paused: Option<String>,
    data_version: i64,
    renewed_at: Option<Instant>,
    pruned_at: Option<Instant>,
    failures: u32,
    /// Held for as long as the writer lives: a second server on the file would end our requests.
    _lock: File,
}

/// Opens the file, ends what an earlier process left, and starts the thread.
pub(super) fn start(
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
    queue: Receiver<Job>,
) -> Result<(JoinHandle<()>, String), Failure> {
    let lock = lock(&settings)?;
    let owner = Uuid::now_v7();
    let book = Book::open(&settings.path, owner)?.with_outbox(settings.outbox);
    let identifier_key = book.identifier_key()?;
    let mut writer = Writer {
        book,
        settings,
        clock,
        shared,
        owner,
        endings: VecDeque::new(),
        markings: Vec::new(),
        paused: None,
        data_version: -1,
        renewed_at: None,
        pruned_at: None,
        failures: 0,
        _lock: lock,
    };
    writer.sweep_at_start()?;
    writer.look_for_changes()?;
    writer.shared.writable.store(true, Ordering::Release);
    let builder = std::thread::Builder::new().name("ledger".to_owned());
    let thread = builder.spawn(move || writer.run(&queue));
    let thread = thread.map_err(|error| Failure::new(format!("no thread for the ledger: {error}")))?;
    Ok((thread, identifier_key))
}

/// One server a file: the lock goes with the process, however it ends.
fn lock(settings: &Settings) -> Result<File, Failure> {
    let mut name = settings.path.clone().into_os_string();
    name.push(".lock");
    if let Some(folder) = settings.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::new(format!("cannot make the folder {}: {error}", folder.display())))?;
    }
    let path = std::path::PathBuf::from(name);
    let cannot = |error: &dyn std::fmt::Display| Failure::new(format!("cannot write {}: {error}", path.display()));
    let file = File::options().create(true).append(true).open(&path).map_err(|error| cannot(&error))?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => Failure::new(format!(
            "another tollgate serves from {}: stop it, or give this one its own [store] url",
            settings.path.display()
        )),
        std::fs::TryLockError::Error(error) => cannot(&error),
    })?;
    Ok(file)
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut going = true;
        while going {
            let mut jobs = Vec::new();
            match queue.recv_timeout(TICK) {
                Ok(job) => jobs.push(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => going = false,
            }
            jobs.extend(queue.try_iter().take(BATCH_MAX));
            going &= self.batch(jobs);
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
                question @ (Job::Standing { .. } | Job::Unsent { .. } | Job::Lag(_)) => questions.push(question),
                Job::Stop => going = false,
            }
        }
        if let Err(error) = self.look_for_changes() {
            tracing::warn!(%error, "the ledger cannot be read");
        }
        self.write(holds);
        for question in questions {
            self.answer(question);
        }
        going
    }

    /// Answers what only reads. Whoever asked may have left.
    fn answer(&self, question: Job) {
        match question {
            Job::Standing { user_id, now, windows, answer } => {
                let standing = self.book.standing(user_id, now, &windows);
                if let Err(error) = &standing {
                    tracing::warn!(%error, "the ledger cannot be read");
                }
                drop(answer.send(standing.ok()));
            }
            Job::Unsent { limit, except, answer } => drop(answer.send(self.book.unsent(limit, &except))),
            Job::Lag(answer) => drop(answer.send(self.book.unsent_lag())),
            Job::Hold(..) | Job::End(_) | Job::Mark(_) | Job::Stop => {}
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
        if holds.is_empty() && self.endings.is_empty() && self.markings.is_empty() && !self.chores_are_due() {
            return;
        }
        let done = self.transaction(&holds);
        let in_doubt = done.is_err() && self.book.roll_back();
        match done {
            Ok(answers) => {
                if !self.endings.is_empty() {
                    self.shared.ended.notify_one();
                }
                self.endings.clear();
                for marking in self.markings.drain(..) {
                    drop(marking.answer.send(Ok(())));
                }
                self.succeeded();
                for ((_, waiting), answer) in holds.into_iter().zip(answers) {
                    // A caller that left has dropped its reservation, which ends the hold.
                    drop(waiting.send(answer));
                }
            }
            Err(error) => self.failed(&error, holds, in_doubt),
        }
    }

    fn transaction(&mut self, holds: &VecDeque<Waiting>) -> Result<Vec<Result<Hold, NoHold>>, Failure> {
        self.book.begin()?;
        let answers = self.steps(holds)?;
        self.book.commit()?;
        Ok(answers)
    }

    /// Endings first: they make room for the holds.
    fn steps(&mut self, holds: &VecDeque<Waiting>) -> Result<Vec<Result<Hold, NoHold>>, Failure> {
        let now = self.clock.now();
        for ending in &self.endings {
            if !self.book.end(ending, now)? {
                tracing::debug!(request_id = %ending.id, "there was no open hold to end");
            }
        }
        for marking in &self.markings {
            self.book.mark(&marking.ids, marking.mark)?;
        }
        self.chores(now)?;
        holds.iter().map(|(request, _)| self.hold(request)).collect()
    }

    fn hold(&self, request: &HoldRequest) -> Result<Result<Hold, NoHold>, Failure> {
        match &self.paused {
            Some(reason) => Ok(Err(NoHold::Paused(reason.clone()))),
            None => self.book.hold(request),
        }
    }

    fn chores_are_due(&self) -> bool {
        let renew_every = self.settings.lease.checked_div(3).unwrap_or(self.settings.lease);
        // A ledger that failed is tried again at every tick, so that readiness turns by itself.
        self.failures > 0 || self.renewed_at.is_none_or(|at| at.elapsed() >= renew_every) || self.prune_is_due()
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
            let gone = self.book.prune(now.minus(self.settings.keep_requests), now, &self.settings.time_zone)?;
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
        self.isolate_poison();
        for marking in self.markings.drain(..) {
            drop(marking.answer.send(Err(Failure::new(error.to_string()))));
        }
        for (request, waiting) in holds {
            if in_doubt {
                self.endings.push_back(Ending { id: request.id, settlement: Settlement::void() });
            }
            drop(waiting.send(Err(NoHold::Store)));
        }
        self.reopen();
    }

    /// One ending that the database refuses must not stop the others: each is tried alone, and one that can never be
    /// written is given up, loudly; its row stays held and is lost at the next start.
    fn isolate_poison(&mut self) {
        let now = self.clock.now();
        let mut kept = VecDeque::new();
        for ending in std::mem::take(&mut self.endings) {
            let done = self.book.begin().and_then(|()| self.book.end(&ending, now)).and_then(|_| self.book.commit());
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

    /// A file that was moved or a disk that came back wants a new connection.
    fn reopen(&mut self) {
        if self.failures.is_multiple_of(5)
            && let Ok(book) = Book::open(&self.settings.path, self.owner)
        {
            self.book = book.with_outbox(self.settings.outbox);
            self.data_version = -1;
        }
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
        self.write(VecDeque::new());
        if !self.endings.is_empty() {
            tracing::error!(requests = self.endings.len(), "not written: the next start ends these requests as lost");
        }
    }
}

/// Takes a hold that its caller has let go out of the batch; false if it is not in it.
fn withdraw(holds: &mut VecDeque<Waiting>, ending: &Ending) -> bool {
    let place = holds.iter().position(|(request, _)| request.id == ending.id);
    place.and_then(|place| holds.remove(place)).is_some()
}
