//! The operator's tokens: `TOLLGATE_ADMIN_TOKEN`, and those made by `tollgate admin-token`, whose digests the ledger
//! stores.
//!
//! A token is looked up by its digest, so the time of a look-up reveals nothing. Wrong tokens are limited: above
//! [`WRONG_A_MINUTE`], guesses at `TOLLGATE_ADMIN_TOKEN` are refused without a check, and the ledger is asked once a
//! second for all valid digests instead of once a token. So a flood of wrong tokens does not lock out a valid one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time;
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::caller::{Admin, wrong_token};
use super::digest::{Digest, digest};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::error::{Code, Refusal};
use crate::ledger::hex::hex;
use crate::ledger::read::report::{Desk, Reports};
use crate::ledger::read::shared::SharedConnection;
use crate::operator::queries;
use crate::operator::queries::tokens::{Bearer, PREFIX, Scope, verify_digest};

/// How many wrong tokens are looked at in a minute.
const WRONG_A_MINUTE: u32 = 240;
/// How long the list of all good tokens serves while there are too many wrong ones.
const LIST_FRESH: Duration = Duration::from_secs(1);
/// How long the ledger's word on a token is good.
const FRESH: Duration = Duration::from_secs(10);
/// How many valid tokens are cached.
const KEPT_MAX: usize = 1_000;
/// A `TOLLGATE_ADMIN_TOKEN` of this many bytes cannot be guessed.
const UNGUESSABLE_BYTES: usize = 32;
/// How `TOLLGATE_ADMIN_TOKEN` is named.
const FROM_SETTINGS: &str = "TOLLGATE_ADMIN_TOKEN";

/// A valid token, and when the ledger confirmed it.
#[derive(Clone, Debug)]
struct CachedToken {
    admin: Admin,
    asked_at: Timestamp,
    epoch: u64,
}

/// A cache of valid tokens, and counts of wrong ones.
pub(super) struct TokenCache {
    desk: Arc<SharedConnection<Desk>>,
    known: Cache<Digest, CachedToken>,
    wrong: Mutex<Wrong>,
    /// Read by one at a time.
    good: tokio::sync::Mutex<ValidDigests>,
}

/// The digests of all valid tokens, and when they were read from the ledger.
#[derive(Debug, Default)]
struct ValidDigests {
    read_at: Option<Timestamp>,
    digests: HashSet<String>,
}

/// Wrong tokens of one minute.
#[derive(Clone, Copy, Debug, Default)]
struct Wrong {
    minute: i64,
    count: u32,
}

impl TokenCache {
    /// Those of this ledger. Nothing is asked yet.
    pub(super) fn new(desk: Arc<SharedConnection<Desk>>) -> Self {
        Self {
            desk,
            known: Cache::new(KEPT_MAX),
            wrong: Mutex::default(),
            good: tokio::sync::Mutex::default(),
        }
    }

    /// Whose token this is.
    pub(super) async fn verify(&self, app: &App, given: &[u8]) -> Result<Admin, Refusal> {
        let (token, now) = (digest(given), app.clock.now());
        if self.known.get(&token).is_some() {
            return self.still(app, token).await?.ok_or_else(wrong_token);
        }
        let wait = self
            .wait(now)
            .filter(|_| given.len() < UNGUESSABLE_BYTES || !is_from_settings(app, &token));
        if let Some(wait) = wait
            && !self.is_listed(&token, now).await?
        {
            let message =
                "Too many wrong tokens were sent: new ones are not looked at for a moment.";
            return Err(Refusal::new(Code::RateLimited, message).retry_after(wait));
        }
        // Nothing else can be one.
        let may_be = given.starts_with(PREFIX.as_bytes()) || is_from_settings(app, &token);
        let admin = if may_be {
            self.look_up(app, token, now).await?
        } else {
            None
        };
        if admin.is_none() {
            self.count_wrong(now);
        }
        admin.ok_or_else(wrong_token)
    }

    /// Whether the ledger has it, without asking for each.
    async fn is_listed(&self, token: &Digest, now: Timestamp) -> Result<bool, Refusal> {
        let mut good = self.good.lock().await;
        let is_fresh = good
            .read_at
            .is_some_and(|read_at| read_at <= now && now.since(read_at) < LIST_FRESH);
        if !is_fresh {
            let digests = self
                .desk
                .ask(queries::tokens::digests)
                .await
                .map_err(|error| unreadable(&error))?;
            *good = ValidDigests {
                read_at: Some(now),
                digests: digests.into_iter().collect(),
            };
        }
        Ok(good.digests.contains(&hex(token)))
    }

    /// Whose token this is, if it is right now as it was before.
    pub(super) async fn still(&self, app: &App, token: Digest) -> Result<Option<Admin>, Refusal> {
        let (now, epoch) = (app.clock.now(), app.ledger.epoch());
        let known = self.known.get(&token);
        let is_fresh = |known: &CachedToken| {
            known.asked_at <= now && now.since(known.asked_at) < FRESH && known.epoch == epoch
        };
        match known.filter(|known| is_fresh(known) && known.admin.name != FROM_SETTINGS) {
            Some(known) => Ok(Some(known.admin)),
            None => self.look_up(app, token, now).await,
        }
    }

    async fn look_up(
        &self,
        app: &App,
        token: Digest,
        now: Timestamp,
    ) -> Result<Option<Admin>, Refusal> {
        let epoch = app.ledger.epoch();
        let admin = if is_from_settings(app, &token) {
            Some(Admin {
                name: FROM_SETTINGS.to_owned(),
                scope: Scope::Write,
                token,
            })
        } else {
            self.made(token, now).await?
        };
        match &admin {
            Some(admin) => self.known.insert(
                token,
                CachedToken {
                    admin: admin.clone(),
                    asked_at: now,
                    epoch,
                },
            ),
            None => drop(self.known.remove(&token)),
        }
        Ok(admin)
    }

    /// A token that was made, as the ledger knows it.
    async fn made(&self, token: Digest, now: Timestamp) -> Result<Option<Admin>, Refusal> {
        let bearer = self
            .desk
            .ask(move |desk| verify_digest(desk, &token, now))
            .await
            .map_err(|error| unreadable(&error))?;
        Ok(bearer.map(|Bearer { name, scope }| Admin { name, scope, token }))
    }

    /// How long until wrong tokens are looked at again, if there were too many.
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        let wrong = *self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let over = Timestamp::from_secs(minute(now).saturating_add(1).saturating_mul(60));
        (wrong.minute == minute(now) && wrong.count >= WRONG_A_MINUTE).then(|| over.since(now))
    }

    fn count_wrong(&self, now: Timestamp) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.minute != minute(now) {
            *wrong = Wrong {
                minute: minute(now),
                count: 0,
            };
        }
        wrong.count = wrong.count.saturating_add(1);
        if wrong.count == WRONG_A_MINUTE {
            tracing::warn!(
                count = wrong.count,
                "wrong tokens at the operator's listener: more are not looked at"
            );
        }
    }
}

fn unreadable(error: &str) -> Refusal {
    tracing::warn!(error, "the operator's tokens cannot be read");
    Refusal::new(
        Code::StoreUnavailable,
        "Tokens cannot be looked up right now.",
    )
}

const fn minute(now: Timestamp) -> i64 {
    now.secs().div_euclid(60)
}

fn is_from_settings(app: &App, token: &Digest) -> bool {
    app.config()
        .server
        .admin_token
        .as_ref()
        .is_some_and(|right| is_of(token, right))
}

/// Whether it is the digest of this secret; in constant time, though digests tell little.
fn is_of(token: &Digest, secret: &SecretString) -> bool {
    constant_time::verify_slices_are_equal(token, &digest(secret.expose_secret().as_bytes()))
        .is_ok()
}

/// The ledger has a token that somebody can use. Blocks.
pub(crate) fn has_made_token(store: &StoreUrl) -> bool {
    let tokens = Reports::open(store).and_then(|reports| queries::tokens::list(&reports));
    tokens.is_ok_and(|tokens| tokens.iter().any(|token| token.revoked_at.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_as_digests_and_in_constant_time() {
        let secret = SecretString::from("a token of the settings, long enough");
        let right = digest(secret.expose_secret().as_bytes());
        assert!(is_of(&right, &secret));
        for place in [0, 15, 31] {
            let mut wrong = right;
            wrong[place] ^= 1;
            assert!(!is_of(&wrong, &secret), "byte {place}");
        }
        assert!(!is_of(
            &digest(b"a token of the settings, long enoug"),
            &secret
        ));
        // A clock on a busy machine shows nothing of it: what compares is looked at instead.
        let source = include_str!("tokens.rs")
            .split("mod tests {")
            .next()
            .unwrap();
        assert_eq!(
            source
                .matches("constant_time::verify_slices_are_equal(")
                .count(),
            1
        );
        assert_eq!(
            source.matches("expose_secret()").count(),
            1,
            "a secret is only ever made a digest of"
        );
        let compares = source
            .lines()
            .filter(|line| line.contains("==") && !line.trim_start().starts_with("//"));
        let of_tokens: Vec<&str> = compares
            .filter(|line| line.contains("token") || line.contains("digest"))
            .collect();
        assert!(of_tokens.is_empty(), "compared as text is: {of_tokens:?}");
    }

    #[test]
    fn wrong_tokens_are_bounded_by_the_minute() {
        let desk = Arc::new(SharedConnection::nowhere());
        let (tokens, now) = (TokenCache::new(desk), Timestamp::from_secs(61));
        (1..WRONG_A_MINUTE).for_each(|_| tokens.count_wrong(now));
        assert_eq!(tokens.wait(now), None);
        tokens.count_wrong(now);
        assert_eq!(tokens.wait(now), Some(Duration::from_secs(59)));
        assert_eq!(tokens.wait(Timestamp::from_secs(120)), None);
        tokens.count_wrong(Timestamp::from_secs(120));
        assert_eq!(tokens.wait(Timestamp::from_secs(121)), None);
    }
}
