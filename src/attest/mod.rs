//! What the device of a caller proves of itself.
//!
//! It knows the proofs, not users or plans. A wrong proof is as none: it is never a refusal by itself. Whether one is needed is
//! decided by `app`, and what it gives by `plan`.

pub(crate) mod app_attest;
mod app_check;
mod cbor;
pub(crate) mod challenges;
pub(crate) mod device_token;
pub(crate) mod registry;

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::Device;
use crate::auth::keys::{self, Jwks};
use crate::clock::{Clock, Timestamp};
use crate::config::{Attest, AttestMode};
use crate::ledger::Ledger;
use crate::ledger::read::report::Desk;
use crate::ledger::read::shared::SharedConnection;
use app_check::APP_CHECK_HEADER;
use challenges::Challenges;
use device_token::DEVICE_HEADER;

/// Looks at devices. Clones share the keys.
#[derive(Clone)]
pub(crate) struct Devices {
    shared: Arc<DeviceKeys>,
}

struct DeviceKeys {
    /// Those of App Check, at the URL of the settings that were seen last.
    app_check: Mutex<Option<Jwks>>,
    tracker: TaskTracker,
    clock: Clock,
    ledger: Ledger,
    challenges: Challenges,
    /// The way to the keys of devices.
    desk: Arc<SharedConnection<Desk>>,
}

impl Devices {
    /// Fetches nothing yet; fetches will run on the tracker.
    #[must_use]
    pub(crate) fn new(ledger: &Ledger, tracker: TaskTracker, clock: Clock) -> Self {
        Self {
            shared: Arc::new(DeviceKeys {
                app_check: Mutex::default(),
                tracker,
                clock,
                ledger: ledger.clone(),
                challenges: Challenges::default(),
                desk: Arc::new(SharedConnection::changing(ledger)),
            }),
        }
    }

    /// What the headers of a user's request prove of its device. It is not for this to say who the user is.
    pub(crate) async fn device_of(
        &self,
        (headers, user): (&HeaderMap, Uuid),
        attest: &Attest,
        now: Timestamp,
    ) -> Device {
        if attest.mode == AttestMode::Off {
            return Device::Unattested;
        }
        if attest.app_attest.is_some() {
            let token = only(headers, &DEVICE_HEADER).and_then(|token| token.to_str().ok());
            if token
                .is_some_and(|token| device_token::is_good(&self.shared.ledger, token, user, now))
            {
                return Device::Attested;
            }
        }
        let Some(app_check) = &attest.app_check else {
            return Device::Unattested;
        };
        let Some(token) = only(headers, &APP_CHECK_HEADER) else {
            return Device::Unattested;
        };
        let jwks = self.keys_at(&app_check.jwks_url);
        app_check::device_of(token, app_check, &jwks, now).await
    }

    /// Keeps the keys of these settings fresh. Never ends: its owner drops it at shutdown.
    pub(crate) async fn keep_fresh(&self, attest: impl Fn() -> Attest) {
        loop {
            let attest = attest();
            if let Some(app_check) = attest.app_check.filter(|_| attest.mode != AttestMode::Off) {
                let now = self.shared.clock.now();
                self.keys_at(&app_check.jwks_url).tick(now);
            }
            tokio::time::sleep(keys::TICK).await;
        }
    }

    fn keys_at(&self, url: &str) -> Jwks {
        let shared = &self.shared;
        let kept = shared.app_check.lock();
        let mut kept = kept.unwrap_or_else(PoisonError::into_inner);
        if let Some(jwks) = kept.as_ref().filter(|jwks| jwks.url() == url) {
            return jwks.clone();
        }
        let jwks = Jwks::new(url.to_owned(), shared.tracker.clone(), shared.clock.clone());
        kept.insert(jwks).clone()
    }
}

/// A header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}
