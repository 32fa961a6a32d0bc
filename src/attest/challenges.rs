//! Challenges that devices answer: random, for one user, for five minutes, once.
//!
//! They are in this process's memory, which is bounded: of one user the newest, of all users those who asked last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a challenge may be answered.
pub(crate) const CHALLENGE_TIMEOUT: Duration = Duration::from_mins(5);
/// How many challenges of one user are open; older ones are forgotten.
const USER_CHALLENGES_MAX: usize = 4;
/// How many users have open challenges.
const USERS_MAX: usize = 16 * 1024;

type Open = Arc<Mutex<VecDeque<(String, Instant)>>>;

/// Open challenges.
pub(super) struct Challenges(Cache<Uuid, Open>);

impl Default for Challenges {
    fn default() -> Self {
        Self(Cache::new(USERS_MAX))
    }
}

impl Challenges {
    /// A new one; `None`: this machine gives no random numbers.
    pub(super) fn issue(&self, user: Uuid) -> Option<String> {
        let mut random = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let challenge = URL_SAFE_NO_PAD.encode(random);
        let made = self
            .0
            .get_or_insert_with(&user, || Ok::<_, std::convert::Infallible>(Open::default()));
        let open = match made {
            Ok(open) => open,
            Err(never) => match never {},
        };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((challenge.clone(), Instant::now()));
        while open.len() > USER_CHALLENGES_MAX {
            open.pop_front();
        }
        Some(challenge)
    }

    /// Those of a user that may be answered.
    pub(super) fn open(&self, user: Uuid) -> Vec<String> {
        let Some(open) = self.0.get(&user) else {
            return Vec::new();
        };
        let open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = open
            .iter()
            .filter(|(_, at)| at.elapsed() < CHALLENGE_TIMEOUT);
        fresh.map(|(challenge, _)| challenge.clone()).collect()
    }

    /// Takes one away. False: somebody has.
    pub(super) fn spend(&self, user: Uuid, challenge: &str) -> bool {
        let Some(open) = self.0.get(&user) else {
            return false;
        };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let place = open.iter().position(|(one, _)| one == challenge);
        place.and_then(|place| open.remove(place)).is_some()
    }
}
