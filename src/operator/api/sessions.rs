//! Sessions of the dashboard: in memory only, limited in number and in time, stored under a digest of the cookie.
//!
//! A session is valid as long as the token that started it: it names the token, which is checked again with every
//! request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};

use super::digest::{Digest, digest};
use crate::clock::Timestamp;
use crate::error::{Code, Refusal};

/// The name of the cookie.
pub(super) const COOKIE: &str = "tollgate_session";
/// How long a session is good.
const SESSION_LIFE: Duration = Duration::from_hours(12);
/// How many there may be; one more ends the oldest.
const SESSIONS_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Session {
    token: Digest,
    until: Timestamp,
}

/// All sessions, by the digests of their cookies.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Digest, Session>>);

impl Sessions {
    /// Starts a session for this token and returns the cookie's value.
    pub(super) fn begin(&self, token: Digest, now: Timestamp) -> Result<String, Refusal> {
        let mut bytes = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
            tracing::error!("this machine gives no random numbers: nobody can sign in");
            Refusal::new(Code::Overloaded, "No session can be made right now.")
        })?;
        let cookie = URL_SAFE_NO_PAD.encode(bytes);
        let mut sessions = self.lock();
        sessions.retain(|_, session| now < session.until);
        while sessions.len() >= SESSIONS_MAX {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| session.until)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            sessions.remove(&oldest);
        }
        sessions.insert(
            digest(cookie.as_bytes()),
            Session {
                token,
                until: now.plus(SESSION_LIFE),
            },
        );
        Ok(cookie)
    }

    /// The token of a session that is not over.
    pub(super) fn token_of(&self, cookie: &[u8], now: Timestamp) -> Option<Digest> {
        self.lock()
            .get(&digest(cookie))
            .filter(|session| now < session.until)
            .map(|session| session.token)
    }

    /// Ends a session.
    pub(super) fn end(&self, cookie: &[u8]) {
        self.lock().remove(&digest(cookie));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session that a request names.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&[u8]> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    cookies
        .map(<[u8]>::trim_ascii)
        .find_map(|pair| pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

/// The header that gives a browser its session, or takes it away. `is_local`: the browser is on this machine and came
/// straight here, where there is no TLS.
pub(super) fn set_cookie(session: Option<&str>, is_local: bool) -> Option<HeaderValue> {
    let age = session.map_or(0, |_| SESSION_LIFE.as_secs());
    let secure = if is_local { "" } else { "; Secure" };
    let value = session.unwrap_or_default();
    format!("{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_over_after_twelve_hours_or_when_it_is_ended() {
        let (sessions, now, token) = (
            Sessions::default(),
            Timestamp::from_secs(1_000),
            digest(b"t"),
        );
        let cookie = sessions.begin(token, now).unwrap();
        assert_eq!(cookie.len(), 43);
        let hours = |hours| now.plus(Duration::from_hours(hours));
        assert_eq!(sessions.token_of(cookie.as_bytes(), hours(11)), Some(token));
        assert_eq!(sessions.token_of(cookie.as_bytes(), hours(12)), None);
        assert_eq!(sessions.token_of(b"", now), None);
        sessions.end(cookie.as_bytes());
        assert_eq!(sessions.token_of(cookie.as_bytes(), now), None);
    }

    #[test]
    fn one_session_too_many_ends_the_oldest() {
        let (sessions, token) = (Sessions::default(), digest(b"t"));
        let at = |index: usize| Timestamp::from_secs(i64::try_from(index).unwrap());
        let cookies: Vec<String> = (0..=SESSIONS_MAX)
            .map(|index| sessions.begin(token, at(index)).unwrap())
            .collect();
        let alive = |index: usize| {
            sessions
                .token_of(cookies[index].as_bytes(), at(300))
                .is_some()
        };
        assert!(!alive(0) && alive(1) && alive(SESSIONS_MAX));
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let headers = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            headers
        };
        assert_eq!(
            cookie(&headers(&["a=b; tollgate_session=x; c=d"])),
            Some(&b"x"[..])
        );
        assert_eq!(
            cookie(&headers(&["a=b", "tollgate_session=y"])),
            Some(&b"y"[..])
        );
        for none in [
            "tollgate_sessions=x",
            "xtollgate_session=x",
            "tollgate_session",
            "",
        ] {
            assert_eq!(cookie(&headers(&[none])), None, "{none}");
        }
    }

    #[test]
    fn the_cookie_is_for_this_listener_and_for_no_script() {
        let text = |session, is_local| {
            set_cookie(session, is_local)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            text(Some("x"), false),
            "tollgate_session=x; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(
            text(None, true),
            "tollgate_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
        );
    }
}
