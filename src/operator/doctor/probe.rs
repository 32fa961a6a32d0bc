//! One HTTP request of a check, and its answer.
//!
//! The answer is limited in bytes here and in time by the check. Redirects are not followed, so a key goes to the host
//! that the operator named and to no other.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use jiff::fmt::rfc2822::DateTimeParser;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::clock::{Clock, Timestamp};
use crate::http_client::{HttpClient, USER_AGENT};

/// The longest answer that is read: a list of models of a large provider is about a megabyte.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A probe.
pub(super) struct ProbeRequest {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Bytes,
}

impl ProbeRequest {
    /// A GET.
    pub(super) fn get(url: impl Into<String>) -> Self {
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
        ]);
        Self {
            method: Method::GET,
            url: url.into(),
            headers,
            body: Bytes::new(),
        }
    }

    /// A POST of JSON.
    pub(super) fn post(url: impl Into<String>, body: &Value) -> Self {
        let mut probe = Self {
            method: Method::POST,
            body: body.to_string().into(),
            ..Self::get(url)
        };
        probe.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        probe
    }

    /// Of the schema `public`, which need not be the first of those that PostgREST exposes.
    pub(super) fn profile_public(mut self) -> Self {
        self.headers
            .insert("content-profile", HeaderValue::from_static("public"));
        self
    }

    /// With `Authorization: Bearer …`.
    pub(super) fn bearer(self, key: &SecretString) -> Self {
        self.secret_header(
            header::AUTHORIZATION,
            &format!("Bearer {}", key.expose_secret()),
        )
    }

    /// With Supabase's `apikey: …`.
    pub(super) fn apikey(self, key: &SecretString) -> Self {
        self.secret_header(
            header::HeaderName::from_static("apikey"),
            key.expose_secret(),
        )
    }

    /// A value that cannot stand in a header is left out, and the other side misses it.
    fn secret_header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        self
    }
}

/// What came back.
pub(super) struct ProbeAnswer {
    pub(super) status: StatusCode,
    /// The body, null where it is no JSON.
    pub(super) body: Value,
    /// What the other side's clock said, to the second.
    pub(super) date: Option<Timestamp>,
    /// Our clock before the probe and after the head of the answer.
    pub(super) asked: Timestamp,
    pub(super) answered: Timestamp,
}

/// The client of an examination.
pub(super) struct Http {
    client: Option<HttpClient>,
    clock: Clock,
}

impl Http {
    /// Each probe has a connection of its own: none fails because another closed.
    pub(super) fn new(clock: Clock) -> Self {
        let client = HttpClient::new(BODY_BYTES_MAX, 0).ok();
        Self { client, clock }
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer, in plain words.
    pub(super) async fn ask(&self, probe: ProbeRequest) -> Result<ProbeAnswer, String> {
        let client = self.client.as_ref().ok_or("TLS could not be set up")?;
        let mut request = Request::new(probe.body);
        *request.method_mut() = probe.method;
        *request.uri_mut() = probe.url.parse().map_err(|_| "it is no URL")?;
        *request.headers_mut() = probe.headers;
        let asked = self.clock.now();
        let answer = client.send(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let answered = self.clock.now();
        let status = answer.status();
        let date = answer.headers().get(header::DATE).and_then(date);
        let body = client.read(answer.into_body()).await;
        let body = body.map_err(|error| error.to_string())?;
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Ok(ProbeAnswer {
            status,
            body,
            date,
            asked,
            answered,
        })
    }
}

/// An HTTP date (RFC 9110 §5.6.7).
fn date(value: &HeaderValue) -> Option<Timestamp> {
    let moment = DateTimeParser::new()
        .parse_timestamp(value.to_str().ok()?)
        .ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_is_read_and_nonsense_is_none() {
        let read = |text: &str| date(&HeaderValue::from_str(text).unwrap());
        assert_eq!(
            read("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Timestamp::from_secs(784_111_777))
        );
        assert_eq!(read("yesterday"), None);
    }

    #[test]
    fn a_key_in_a_probe_is_marked_so_that_nothing_prints_it() {
        let probe = ProbeRequest::get("http://x").bearer(&SecretString::from("sk-canary"));
        assert!(!format!("{:?}", probe.headers).contains("canary"));
    }
}
