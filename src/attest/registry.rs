//! The three steps by which a device proves itself with App Attest: a challenge, a key that answers it, and later the key again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::app_attest::{check_assertion, check_attestation, sha256};
use super::{Devices, device_token};
use crate::clock::Timestamp;
use crate::config::AppAttest;
use crate::ledger::Failure;
use crate::ledger::device_keys;
use crate::ledger::read::report::Desk;

/// How long the ledger may take.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a device has proven.
#[derive(Debug)]
pub(crate) struct ProvenDevice {
    /// For `X-Tollgate-Device`.
    pub(crate) token: String,
    /// For the next assertion.
    pub(crate) next_challenge: String,
}

/// Why it has not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotProven {
    /// What it sent is wrong; why, for the log.
    Wrong(&'static str),
    /// The ledger cannot be asked.
    Store,
    /// This machine gives no random numbers.
    Random,
}

impl Devices {
    /// A challenge for a user's device.
    pub(crate) fn challenge(&self, user: Uuid) -> Result<String, NotProven> {
        let challenges = &self.shared.challenges;
        challenges.issue(user).ok_or(NotProven::Random)
    }

    /// Takes a new key in.
    pub(crate) async fn register(
        &self,
        user: Uuid,
        (key_id, attestation): (&[u8], &[u8]),
        (rules, now): (&AppAttest, Timestamp),
    ) -> Result<ProvenDevice, NotProven> {
        let open = self.shared.challenges.open(user);
        let checked = check_attestation((key_id, attestation), &open, rules, now);
        let (point, challenge) = checked.map_err(NotProven::Wrong)?;
        self.spend(user, challenge)?;
        let (id, key) = (STANDARD.encode(key_id), STANDARD.encode(point));
        let registered =
            self.at_desk(move |desk| device_keys::register(desk.db(), (&id, &key), user, now));
        if !registered.await? {
            return Err(NotProven::Wrong("the key is registered already"));
        }
        self.proven(user, now)
    }

    /// Takes the word of a key that is known.
    pub(crate) async fn assert(
        &self,
        user: Uuid,
        (key_id, assertion): (&[u8], &[u8]),
        (rules, now): (&AppAttest, Timestamp),
    ) -> Result<ProvenDevice, NotProven> {
        let id = STANDARD.encode(key_id);
        let asked = id.clone();
        let known = self.at_desk(move |desk| device_keys::public_key(desk.db(), &asked, user));
        let key = known.await?.and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|point| sha256(point) == key_id);
        let key = key.ok_or(NotProven::Wrong("no such key of this user"))?;
        let open = self.shared.challenges.open(user);
        let checked = check_assertion((&key, assertion), &open, rules);
        let (counter, challenge) = checked.map_err(NotProven::Wrong)?;
        self.spend(user, challenge)?;
        let raised = self
            .at_desk(move |desk| device_keys::raise_counter(desk.db(), (&id, user), counter, now));
        if !raised.await? {
            return Err(NotProven::Wrong("the counter has not risen"));
        }
        self.proven(user, now)
    }

    fn spend(&self, user: Uuid, challenge: &str) -> Result<(), NotProven> {
        let spent = self.shared.challenges.spend(user, challenge);
        spent
            .then_some(())
            .ok_or(NotProven::Wrong("the challenge was answered meanwhile"))
    }

    fn proven(&self, user: Uuid, now: Timestamp) -> Result<ProvenDevice, NotProven> {
        Ok(ProvenDevice {
            token: device_token::issue(&self.shared.ledger, user, now),
            next_challenge: self.challenge(user)?,
        })
    }

    async fn at_desk<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Desk) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, NotProven> {
        let asking = self.shared.desk.ask(ask);
        let asked = tokio::time::timeout(LEDGER_TIMEOUT, asking).await;
        let failed = |error: &str| {
            tracing::warn!(error, "the keys of devices cannot be reached");
            NotProven::Store
        };
        let asked = asked.map_err(|_| failed("it takes too long"))?;
        asked.map_err(|error| failed(&error))
    }
}
