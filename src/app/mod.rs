//! The state of the running server: every part that a request may use, built once.
//!
//! Tasks that must outlive a caller run on `work`, and the server waits for them when it stops.

mod caller;
pub(crate) mod descriptors;
mod new_users;
pub(crate) mod place;
mod request_id;
pub(crate) mod sender_address;
pub(crate) mod stranger_bodies;

use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::answers::Answers;
use crate::attest::Devices;
use crate::auth::Authenticator;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Via};
use crate::directory::Directory;
use crate::error::Refusal;
use crate::ledger::{Failure, Ledger, Settings, Writer};
use crate::observe::metrics::Metrics;
use crate::observe::traces::Telemetry;
use crate::outbox::{self, OutboxLag};
use crate::purchases::intake::Intake;
use crate::supabase::DeveloperDatabase;
use crate::upstream::Upstreams;

pub use caller::Caller;
use caller::SubjectCache;
use descriptors::Descriptors;
use new_users::NewUsers;
pub use place::Place;
use place::{Errand, Places};
pub use request_id::RequestId;
use stranger_bodies::StrangerBodies;

/// How many requests one user may have open beyond what the plan lets be held: those that are still sending or draining. And,
/// counted by themselves, how many looks at the account.
pub(crate) const USER_PLACES: u32 = 64;

/// Everything a request may use.
pub struct App {
    pub(crate) config: ArcSwap<Config>,
    /// Wall time.
    pub clock: Clock,
    /// Bearer → principal.
    pub auth: Authenticator,
    /// Principal → plan.
    pub directory: Directory,
    /// Money.
    pub ledger: Ledger,
    pub(crate) upstreams: ArcSwap<Upstreams>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The way to a collector, where one is configured.
    pub telemetry: Option<Arc<Telemetry>>,
    /// How far the developer's `log_request` is behind.
    pub(crate) progress: OutboxLag,
    /// The way in for events of stores.
    pub(crate) intake: Intake,
    /// Tasks that outlive their caller: drained answers, fetched keys, counted estimates.
    pub work: TaskTracker,
    /// Cancelled when the shutdown's grace is over: what still runs settles at once.
    pub cut: CancellationToken,
    /// Stopping: readiness is red, but new callers are served for `shutdown_delay`.
    pub(crate) is_leaving: AtomicBool,
    /// When the day ends whose ceiling was last reported as reached.
    pub ceiling_reported: AtomicI64,
    /// Every way to the developer's database, for keys that change.
    databases: Mutex<Vec<DeveloperDatabase>>,
    places: Arc<Places>,
    subjects: SubjectCache,
    new_users: NewUsers,
    /// Bodies that are on their way from senders without a token.
    pub(crate) stranger_bodies: StrangerBodies,
    /// What proves a device.
    pub(crate) devices: Devices,
    /// Answers that may be asked for again.
    pub(crate) answers: Arc<Answers>,
    /// What was there at the start.
    pub(crate) descriptors: Descriptors,
    /// What `/openapi.json` says, once somebody has asked.
    pub(crate) described: OnceLock<Bytes>,
}

impl App {
    /// Builds the parts and opens the ledger. Connects to nothing but the JWKS, in the background.
    ///
    /// # Errors
    /// The ledger cannot be opened.
    pub fn open(config: Config, clock: Clock) -> Result<(Arc<Self>, Writer), Failure> {
        let settings = Settings {
            store: config.store.url.clone(),
            lease: config.store.lease,
            keep_requests: config.store.keep_requests,
            time_zone: config.server.time_zone.clone(),
            outbox: !matches!(config.directory.via, Via::None),
        };
        let work = TaskTracker::new();
        let database =
            DeveloperDatabase::new(&config.directory.via, work.clone()).map_err(Failure::new)?;
        let telemetry = Telemetry::start(&config.telemetry).map_err(Failure::new)?;
        let (ledger, writer) = Ledger::open(settings, clock.clone())?;
        let places = Places::new(config.server.body_bytes_max, config.server.file_bytes_max);
        let app = Self {
            auth: Authenticator::new(&config.auth, work.clone(), clock.clone()),
            devices: Devices::new(&ledger, work.clone(), clock.clone()),
            databases: Mutex::new(database.iter().cloned().collect()),
            directory: Directory::new(ledger.clone(), database, work.clone()),
            upstreams: ArcSwap::from_pointee(Upstreams::new(&config.proxy)),
            intake: Intake::new(&ledger),
            progress: OutboxLag::default(),
            telemetry,
            metrics: Arc::new(Metrics::new(&config, clock.now())),
            descriptors: Descriptors::now(&config),
            answers: Answers::new(config.answers),
            config: ArcSwap::from_pointee(config),
            clock,
            ledger,
            work,
            cut: CancellationToken::new(),
            is_leaving: AtomicBool::new(false),
            ceiling_reported: AtomicI64::new(0),
            places,
            subjects: SubjectCache::default(),
            new_users: NewUsers::default(),
            stranger_bodies: StrangerBodies::default(),
            described: OnceLock::new(),
        };
        app.auth.warm_up();
        Ok((Arc::new(app), writer))
    }

    /// Keeps keys fresh, and lets go of answers whose time is over, until `stop` is cancelled.
    pub(crate) fn keep_house(self: &Arc<Self>, stop: &CancellationToken) {
        let (auth, answers) = (self.auth.clone(), self.answers.clone());
        let (devices, app) = (self.devices.clone(), self.clone());
        let all = async move {
            let settings = || app.config().attest.clone();
            let keys = devices.keep_fresh(settings);
            tokio::join!(auth.keep_fresh(), answers.keep_swept(), keys)
        };
        self.work.spawn(stop.clone().run_until_cancelled_owned(all));
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Providers, with the timeouts in force.
    #[must_use]
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.upstreams.load_full()
    }

    /// What to say where the descriptors of this process are too few for the settings.
    pub(crate) fn too_few_descriptors(&self) -> Option<String> {
        self.descriptors
            .too_few(self.config.load().server.open_requests_max)
    }

    /// A place among the open requests. A user may take `share` of them: how many may be open by the plan is decided by
    /// the ledger, but bodies are read, and prompts counted, before that.
    ///
    /// # Errors
    /// `overloaded`: all are taken; `too_many_concurrent`: the user's share is.
    pub fn place(&self, user_id: Uuid, share: u32) -> Result<Place, Refusal> {
        self.places
            .take(user_id, self.places_max(), (Errand::Paid, share))
    }

    fn places_max(&self) -> usize {
        self.config
            .load()
            .server
            .open_requests_max
            .min(self.descriptors.open_requests())
    }

    /// Another way to the developer's database is in use.
    pub(crate) fn use_database(&self, database: &DeveloperDatabase) {
        self.databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(database.clone());
    }

    /// Gives them a new key. False: they differ by more than that.
    pub(crate) fn databases_adopt(&self, via: &Via) -> bool {
        if self.config.load().directory.via == *via {
            return true;
        }
        let databases = self
            .databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !databases.is_empty() && databases.iter().all(|database| database.adopt(via))
    }

    /// How far the outbox is behind, where there is one.
    #[must_use]
    pub fn outbox_health(&self, now: Timestamp) -> Option<outbox::OutboxHealth> {
        self.ledger.has_outbox().then(|| self.progress.health(now))
    }

    /// How many places are taken.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.places.open()
    }
}
