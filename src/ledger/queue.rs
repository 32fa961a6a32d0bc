//! What the ledger is asked to do, and the way to whoever does it: a writer thread, or the lanes to Postgres.

use tokio::sync::oneshot;
use uuid::Uuid;

use super::postgres::Lanes;
use super::sqlite::Failure;
use super::users::NewUser;
use super::{Ending, HoldRequest, Lag, Mark, NoHold, Turn, UserBalance};
use crate::clock::Timestamp;
use crate::ledger::read::report::RequestRow;
use crate::plan::{Hold, LimitCounter};

/// What the ledger is asked to do. Jobs of one user are done in their order.
#[derive(Debug)]
pub(super) enum Job {
    /// Hold, and answer when it is durable.
    Hold(Box<HoldRequest>, oneshot::Sender<Result<Hold, NoHold>>),
    /// End a hold.
    End(Ending),
    /// Say what a user has used and holds.
    Standing {
        user_id: Uuid,
        now: Timestamp,
        counters: Vec<LimitCounter>,
        answer: oneshot::Sender<Option<UserBalance>>,
    },
    /// Read rows that wait for the outbox, of other users than these.
    Unsent {
        limit: u32,
        except: Vec<String>,
        answer: oneshot::Sender<Result<Vec<RequestRow>, Failure>>,
    },
    /// Let this process send to the outbox, now and for a while.
    Turn(oneshot::Sender<Result<Turn, Failure>>),
    /// Say how far the outbox is behind.
    Lag(oneshot::Sender<Result<Lag, Failure>>),
    /// Note whom a user's id stands for.
    Note(NewUser),
    /// Note what the outbox did.
    Mark(Marking),
    /// Write what is there, and stop.
    Stop,
}

/// Rows to be marked for the outbox, and whoever waits for it.
#[derive(Debug)]
pub(super) struct Marking {
    pub(super) ids: Vec<String>,
    pub(super) mark: Mark,
    pub(super) answer: oneshot::Sender<Result<(), Failure>>,
}

impl Job {
    /// Whose it is; nobody's is nil.
    pub(super) fn user_id(&self) -> Uuid {
        match self {
            Self::Hold(request, _) => request.user_id,
            Self::End(ending) => ending.user_id,
            Self::Standing { user_id, .. } => *user_id,
            Self::Note(user) => user.user_id,
            Self::Unsent { .. } | Self::Turn(_) | Self::Lag(_) | Self::Mark(_) | Self::Stop => {
                Uuid::nil()
            }
        }
    }
}

/// Where jobs go. Sending never waits: open requests are bounded, and each has at most one job of a kind on its way.
#[derive(Clone, Debug)]
pub(super) enum Jobs {
    Sqlite(std::sync::mpsc::Sender<Job>),
    Postgres(Lanes),
}

impl Jobs {
    /// Sends a job; false when nobody takes it any more.
    pub(super) fn send(&self, job: Job) -> bool {
        match self {
            Self::Sqlite(writer) => writer.send(job).is_ok(),
            Self::Postgres(lanes) => lanes.send(job).is_ok(),
        }
    }

    /// Tells whoever takes jobs to write what is there, and to stop.
    pub(super) fn stop(&self) -> bool {
        match self {
            Self::Sqlite(writer) => writer.send(Job::Stop).is_ok(),
            Self::Postgres(lanes) => {
                lanes.stop();
                true
            }
        }
    }
}
