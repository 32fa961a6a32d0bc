//! What a request may use of this server before anything is held for it in the ledger: a place among the open requests,
//! bytes of bodies, threads for counting, reads of the ledger.
//!
//! Each is a budget for the whole server with a smaller share for one user, so that no user can take what another
//! needs. A [`Place`] is one open request; dropping it returns what it has taken. Waits are first come, first served,
//! and bounded; one user waits for the server's budget with one request at a time. A computation that outlives its
//! caller keeps its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Code, Refusal};

/// How many bodies of `body_bytes_max` the whole server keeps at once; many more smaller ones. A body counts for as long as
/// its request is open, since it is kept to be priced by.
const BODIES_MAX: usize = 32;
/// How many of them one user may have.
const USER_BODIES_MAX: usize = 4;
/// How many bodies of `file_bytes_max` there is room for, whatever `body_bytes_max` is.
const FILES_MAX: usize = 8;
/// How many of them one user may have.
const USER_FILES_MAX: usize = 1;
/// Bodies up to this size are not counted: `open_requests_max` bounds them.
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// A body takes its bytes from the budget in steps of this size, as they arrive: a slow sender holds little.
const STEP_BYTES: usize = 64 * 1024;
/// How long a body waits for others of the same user.
const USER_BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a body waits for those of others.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a prompt waits to be read or counted, and a look at the usage log for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// The unit of the budget of bodies.
const KIB: usize = 1024;

/// All places of a server.
#[derive(Debug)]
pub(super) struct Places {
    open: AtomicUsize,
    users: Mutex<HashMap<Uuid, User>>,
    /// KiB of bodies.
    bodies: Arc<Semaphore>,
    user_bodies: u32,
    /// Threads that may be busy with prompts.
    work: Arc<Semaphore>,
}

/// What a place is for. The two are counted apart, so that a user with many open answers can still read what is left of their plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A request that is paid for.
    Paid,
    /// A look at an account: `/api/me` and its like.
    Look,
}

/// A user with an open request.
#[derive(Debug, Default)]
struct User {
    paid: u32,
    looks: u32,
    /// Made when it is first needed: most requests are short.
    shares: Option<Arc<Shares>>,
}

/// What one user may take.
#[derive(Debug)]
struct Shares {
    bodies: Arc<Semaphore>,
    work: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// One of the places.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    user_id: Uuid,
    errand: Errand,
    body: Option<Body>,
}

/// What a body takes.
#[derive(Debug)]
struct Body {
    /// Of the user's share, for all that it may become.
    share: OwnedSemaphorePermit,
    /// Of the whole budget, for what has come of it.
    come: Option<OwnedSemaphorePermit>,
}

/// The turn to keep a thread busy, or the connection to the usage log.
#[derive(Debug)]
pub(crate) struct WorkPermit {
    _of_user: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl User {
    const fn open(&mut self, errand: Errand) -> &mut u32 {
        match errand {
            Errand::Paid => &mut self.paid,
            Errand::Look => &mut self.looks,
        }
    }
}

impl Places {
    /// Places for bodies of at most this many bytes, and for those with a file of at most this many.
    pub(super) fn new(body_bytes_max: usize, file_bytes_max: usize) -> Arc<Self> {
        let budget = |bodies: usize, files: usize| {
            let bodies = body_bytes_max.saturating_mul(bodies);
            let files = file_bytes_max.saturating_mul(files);
            kib(bodies.max(files)).min(u32::MAX >> 4)
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Arc::new(Self {
            open: AtomicUsize::new(0),
            users: Mutex::default(),
            bodies: semaphore(budget(BODIES_MAX, FILES_MAX)),
            user_bodies: budget(USER_BODIES_MAX, USER_FILES_MAX),
            work: Arc::new(Semaphore::new(threads)),
        })
    }

    /// One of `most` places for a user who may have `share` of them for such errands.
    pub(super) fn take(
        self: &Arc<Self>,
        user_id: Uuid,
        most: usize,
        (errand, share): (Errand, u32),
    ) -> Result<Place, Refusal> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let mine = {
            let mut users = self.users();
            let user = users.entry(user_id).or_default();
            let open = user.open(errand);
            *open = open.saturating_add(1);
            *open
        };
        let place = Place {
            places: self.clone(),
            user_id,
            errand,
            body: None,
        };
        if before >= most {
            return Err(busy());
        }
        if mine > share {
            return Err(Refusal::new(
                Code::TooManyConcurrent,
                "Too many of your requests are open at once.",
            ));
        }
        Ok(place)
    }

    /// How many are taken.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Uuid, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether a body of this many bytes fits into what the place has taken.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let come = self
            .body
            .as_ref()
            .and_then(|body| body.come.as_ref())
            .map_or(0, OwnedSemaphorePermit::num_permits);
        bytes <= SMALL_BODY_BYTES_MAX || bytes <= come.saturating_mul(KIB)
    }

    /// Takes the budget for a body of which `bytes` have arrived, and that may grow to `most`.
    ///
    /// # Errors
    /// `too_many_concurrent`: the user's other bodies stay for too long; `overloaded`: those of others do.
    pub(crate) async fn make_room(&mut self, bytes: usize, most: usize) -> Result<(), Refusal> {
        if self.has_room(bytes) {
            return Ok(());
        }
        let mut body = match self.body.take() {
            Some(body) => body,
            None => Body {
                share: self.share(most).await?,
                come: None,
            },
        };
        let come = body
            .come
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = kib(bytes.saturating_add(STEP_BYTES).min(most).max(bytes));
        let more = wanted
            .saturating_sub(u32::try_from(come).unwrap_or(u32::MAX))
            .max(1);
        let more = waited(
            BODY_TIMEOUT,
            self.places.bodies.clone().acquire_many_owned(more),
        )
        .await
        .ok_or_else(busy)?;
        match &mut body.come {
            Some(come) => come.merge(more),
            none => *none = Some(more),
        }
        self.body = Some(body);
        Ok(())
    }

    /// The body is whole: gives back what it did not need.
    pub(crate) fn body_is(&mut self, bytes: usize) {
        let needed = usize::try_from(kib(bytes)).unwrap_or(usize::MAX);
        let Some(Body { share, come }) = &mut self.body else {
            return;
        };
        for permit in [Some(share), come.as_mut()].into_iter().flatten() {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
    }

    /// Waits for the turn to keep a thread busy with this prompt: one at a time for a user, so that others have theirs.
    ///
    /// # Errors
    /// `too_many_concurrent`, `overloaded`, as for room.
    pub(crate) async fn work_turn(&self) -> Result<WorkPermit, Refusal> {
        let of_user = waited(TURN_TIMEOUT, self.shares().work.clone().acquire_owned())
            .await
            .ok_or_else(yours)?;
        let of_all = waited(TURN_TIMEOUT, self.places.work.clone().acquire_owned())
            .await
            .ok_or_else(busy)?;
        Ok(WorkPermit {
            _of_user: of_user,
            _of_all: Some(of_all),
        })
    }

    /// Waits for the turn to read the usage log: one at a time for a user.
    ///
    /// # Errors
    /// `too_many_concurrent`.
    pub(crate) async fn read_turn(&self) -> Result<WorkPermit, Refusal> {
        let of_user = waited(TURN_TIMEOUT, self.shares().reads.clone().acquire_owned())
            .await
            .ok_or_else(yours)?;
        Ok(WorkPermit {
            _of_user: of_user,
            _of_all: None,
        })
    }

    async fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let wanted = kib(bytes).min(self.places.user_bodies);
        let bodies = self.shares().bodies.clone();
        waited(USER_BODY_TIMEOUT, bodies.acquire_many_owned(wanted))
            .await
            .ok_or_else(yours)
    }

    fn shares(&self) -> Arc<Shares> {
        let mut users = self.places.users();
        let shares = &mut users.entry(self.user_id).or_default().shares;
        let made = || {
            let one = || semaphore(1);
            Arc::new(Shares {
                bodies: semaphore(self.places.user_bodies),
                work: one(),
                reads: one(),
            })
        };
        shares.get_or_insert_with(made).clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.fetch_sub(1, Ordering::AcqRel);
        let mut users = self.places.users();
        if let Some(user) = users.get_mut(&self.user_id) {
            let open = user.open(self.errand);
            *open = open.saturating_sub(1);
            if user.paid == 0 && user.looks == 0 {
                users.remove(&self.user_id);
            }
        }
    }
}

/// Rounded up, so that many small bodies count as well.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX)
}

fn semaphore(permits: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(
        usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS),
    ))
}

/// What was waited for, if it came in time. (No semaphore here is ever closed.)
async fn waited<T, E>(patience: Duration, coming: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(patience, coming).await.ok()?.ok()
}

fn busy() -> Refusal {
    Refusal::new(
        Code::Overloaded,
        "The server is busy; try again in a moment.",
    )
}

fn yours() -> Refusal {
    Refusal::new(
        Code::TooManyConcurrent,
        "Your other requests are still being worked on; try again in a moment.",
    )
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "small numbers, in a test"
    )]

    use super::*;

    const ALICE: Uuid = Uuid::from_u128(1);
    const MIB: usize = 1024 * KIB;

    fn place(places: &Arc<Places>, user: Uuid) -> Place {
        places.take(user, 100, (Errand::Paid, 100)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_one_user_wait_for_each_other_and_not_those_of_another() {
        let places = Places::new(MIB, 2 * MIB);
        let mut mine: Vec<Place> = (0..=USER_BODIES_MAX)
            .map(|_| place(&places, ALICE))
            .collect();
        let mut late = mine.pop().unwrap();
        for place in &mut mine {
            place.make_room(MIB, MIB).await.unwrap();
        }
        assert_eq!(
            late.make_room(MIB, MIB).await.unwrap_err().code,
            Code::TooManyConcurrent
        );
        place(&places, Uuid::from_u128(2))
            .make_room(MIB, MIB)
            .await
            .unwrap();
        drop(mine);
        late.make_room(MIB, MIB).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_are_bounded_and_what_is_not_needed_is_given_back() {
        let places = Places::new(MIB, 2 * MIB);
        let mut all = Vec::new();
        for user in 0..BODIES_MAX {
            let mut place = place(&places, Uuid::from_u128(user as u128));
            place.make_room(MIB, MIB).await.unwrap();
            all.push(place);
        }
        let mut late = place(&places, Uuid::from_u128(1000));
        assert_eq!(
            late.make_room(MIB, MIB).await.unwrap_err().code,
            Code::Overloaded
        );
        late.make_room(SMALL_BODY_BYTES_MAX, MIB)
            .await
            .expect("a short one is not counted");
        all[0].body_is(MIB / 2);
        late.make_room(MIB / 2, MIB / 2)
            .await
            .expect("half a body was given back");
        drop((all, late));
        assert_eq!(
            (places.bodies.available_permits(), places.open()),
            (BODIES_MAX * 1024, 0)
        );
        assert!(places.users().is_empty());
    }

    /// A body that is announced and does not come holds nothing that others need.
    #[tokio::test(start_paused = true)]
    async fn a_body_takes_of_the_whole_budget_what_has_come_of_it() {
        let places = Places::new(MIB, 2 * MIB);
        let mut place = place(&places, ALICE);
        place
            .make_room(SMALL_BODY_BYTES_MAX + 1, MIB)
            .await
            .unwrap();
        let left = places.bodies.available_permits();
        assert!(left >= BODIES_MAX * 1024 - 81, "{left}");
        place.make_room(MIB, MIB).await.unwrap();
        assert_eq!(places.bodies.available_permits(), (BODIES_MAX - 1) * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_one_turn_at_a_time() {
        let places = Places::new(MIB, 2 * MIB);
        let (first, second, other) = (
            place(&places, ALICE),
            place(&places, ALICE),
            place(&places, Uuid::from_u128(2)),
        );
        let turn = first.work_turn().await.unwrap();
        assert_eq!(
            second.work_turn().await.unwrap_err().code,
            Code::TooManyConcurrent
        );
        if places.work.available_permits() > 0 {
            other.work_turn().await.unwrap();
        }
        drop(turn);
        second.work_turn().await.unwrap();
    }
}
