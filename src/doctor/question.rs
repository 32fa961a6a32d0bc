//! One question over HTTP, and what came back.
//!
//! It knows no service. The whole answer is bounded in bytes here and in time by the check that asks; redirects are not
//! followed, so a key goes to the host that the operator named and to no other.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::fmt::rfc2822::DateTimeParser;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::clock::{Clock, Timestamp};

/// The longest answer that is read: a list of models of a large provider is about a megabyte.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A question.
pub(super) struct Question {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Question {
    /// A GET.
    pub(super) fn get(url: impl Into<String>) -> Self {
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            // A plain name: Supabase refuses secret keys from anything that looks like a browser.
            (header::USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")))),
        ]);
        Self { method: Method::GET, url: url.into(), headers, body: Bytes::new() }
    }

    /// A POST of JSON.
    pub(super) fn post(url: impl Into<String>, body: &Value) -> Self {
        let mut question = Self { method: Method::POST, body: body.to_string().into(), ..Self::get(url) };
        question.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        question
    }

    /// Of the schema `public`, which need not be the first of those that PostgREST exposes.
    pub(super) fn profile_public(mut self) -> Self {
        self.headers.insert("content-profile", HeaderValue::from_static("public"));
        self
    }

    /// With `Authorization: Bearer …`.
    pub(super) fn bearer(self, key: &SecretString) -> Self {
        self.secret_header(header::AUTHORIZATION, &format!("Bearer {}", key.expose_secret()))
    }

    /// With Supabase's `apikey: …`.
    pub(super) fn apikey(self, key: &SecretString) -> Self {
        self.secret_header(header::HeaderName::from_static("apikey"), key.expose_secret())
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
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The body, null where it is no JSON.
    pub(super) body: Value,
    /// What the other side's clock said, to the second.
    pub(super) date: Option<Timestamp>,
    /// Our clock before the question and after the head of the answer.
    pub(super) asked: Timestamp,
    pub(super) answered: Timestamp,
}

/// The client of an examination.
pub(super) struct Http {
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    clock: Clock,
}

impl Http {
    /// HTTP/1.1, TLS by rustls with the web's public roots.
    pub(super) fn new(clock: Clock) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map(|builder| builder.https_or_http().enable_http1().build());
        let client = connector.ok().map(|connector| {
            // Each question has its own connection: none fails because another closed.
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        });
        Self { client, clock }
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer, in plain words.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, String> {
        let client = self.client.as_ref().ok_or("TLS could not be set up")?;
        let mut request = Request::new(Full::new(question.body));
        *request.method_mut() = question.method;
        *request.uri_mut() = question.url.parse().map_err(|_| "it is no URL")?;
        *request.headers_mut() = question.headers;
        let asked = self.clock.now();
        let answer = client.request(request).await.map_err(|error| trouble(&error))?;
        let answered = self.clock.now();
        let status = answer.status();
        let date = answer.headers().get(header::DATE).and_then(date);
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|_| "the answer broke off, or was longer than 4 MiB")?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { status, body, date, asked, answered })
    }
}

/// An HTTP date (RFC 9110 §5.6.7).
fn date(value: &HeaderValue) -> Option<Timestamp> {
    let moment = DateTimeParser::new().parse_timestamp(value.to_str().ok()?).ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

/// What kept the answer away: the first cause is the one that says something (`Connection refused`).
fn trouble(error: &hyper_util::client::legacy::Error) -> String {
    let what = if error.is_connect() { "cannot connect" } else { "the connection broke" };
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{what}: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_is_read_and_nonsense_is_none() {
        let read = |text: &str| date(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp::from_secs(784_111_777)));
        assert_eq!(read("yesterday"), None);
    }

    #[test]
    fn a_key_in_a_question_is_marked_so_that_nothing_prints_it() {
        let question = Question::get("http://x").bearer(&SecretString::from("sk-canary"));
        assert!(!format!("{:?}", question.headers).contains("canary"));
    }
}
