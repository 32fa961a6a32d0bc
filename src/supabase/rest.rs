//! The functions over Supabase's REST API (PostgREST), by their wrappers in `public`.
//!
//! Invariants: the key is sent to the project's own host and nowhere else (no redirect is followed); every answer is
//! limited in bytes and in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{AskedUser, CHECK_TIMEOUT, DatabaseFailure, LOG_TIMEOUT, is_about_the_call, short};
use crate::http_client::{HttpClient, HttpError, USER_AGENT};

/// The longest answer that is read.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How many calls are under way at once; more wait, within their own time-out.
const CALLS_MAX: usize = 32;

/// A project's REST API. No `Debug`: it holds the key.
pub(super) struct RestApi {
    /// `<project>/rest/v1/rpc`
    base: String,
    keys: ArcSwap<Keys>,
    client: HttpClient,
    places: Semaphore,
    /// A function has answered since the start.
    answered: AtomicBool,
}

/// `apikey`, and `Authorization` where the key is a JWT.
struct Keys {
    key: HeaderValue,
    bearer: Option<HeaderValue>,
}

impl Keys {
    fn of(service_key: &SecretString) -> Result<Self, String> {
        let key = service_key.expose_secret();
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| "the service key holds letters that no key has")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        // Secret keys (sb_secret_…) are no JWTs, and refused as a bearer token (FACTS: API keys).
        let bearer = key
            .starts_with("eyJ")
            .then(|| secret(&format!("Bearer {key}")))
            .transpose()?;
        Ok(Self {
            key: secret(key)?,
            bearer,
        })
    }
}

fn base(supabase_url: &str) -> String {
    format!("{supabase_url}/rest/v1/rpc")
}

impl RestApi {
    /// The API of a project, with its service key.
    pub(super) fn new(supabase_url: &str, service_key: &SecretString) -> Result<Self, String> {
        Ok(Self {
            base: base(supabase_url),
            keys: ArcSwap::from_pointee(Keys::of(service_key)?),
            client: HttpClient::new(BODY_BYTES_MAX, CALLS_MAX)
                .map_err(|error| format!("TLS could not be set up: {error}"))?,
            places: Semaphore::new(CALLS_MAX),
            answered: AtomicBool::new(false),
        })
    }

    /// Takes another key for the same project.
    pub(super) fn adopt(&self, supabase_url: &str, service_key: &SecretString) -> bool {
        let keys = Keys::of(service_key)
            .ok()
            .filter(|_| base(supabase_url) == self.base);
        keys.map(|keys| self.keys.store(Arc::new(keys))).is_some()
    }

    /// What `tollgate_check_user_limits` answers, or `tollgate_check_caller` for users of other issuers, where that is there.
    pub(super) async fn check_user(&self, user: AskedUser<'_>) -> Result<Value, DatabaseFailure> {
        let body = json!({ "user_id": user.user_id, "session_id": user.session_id });
        if let Some((issuer, subject)) = user.subject {
            let mut body = body.clone();
            if let Some(members) = body.as_object_mut() {
                members.insert("issuer".to_owned(), json!(issuer));
                members.insert("subject".to_owned(), json!(subject));
            }
            match self.ask("tollgate_check_caller", &body).await {
                Err(DatabaseFailure::Missing) => {}
                answered => return answered,
            }
        }
        self.ask("tollgate_check_user_limits", &body).await
    }

    async fn ask(&self, function: &str, body: &Value) -> Result<Value, DatabaseFailure> {
        let answer = self.call(function, body, CHECK_TIMEOUT).await?;
        let not_json =
            |_| DatabaseFailure::Unavailable("the REST API's answer is not JSON".to_owned());
        if answer.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&answer).map_err(not_json)
        }
    }

    /// Hands entries to `tollgate_log_requests`, which is one transaction.
    pub(super) async fn log_requests(&self, entries: &[Value]) -> Result<(), DatabaseFailure> {
        let answer = self
            .call(
                "tollgate_log_requests",
                &json!({ "entries": entries }),
                LOG_TIMEOUT,
            )
            .await?;
        // The function answers nothing. A page of somebody in between is no word of its own, whatever its status.
        match answer.trim_ascii() {
            b"" | b"null" => Ok(()),
            _ => Err(DatabaseFailure::Unavailable(
                "tollgate_log_requests answers, and it has nothing to say".to_owned(),
            )),
        }
    }

    /// Hands entries to `tollgate_on_purchases`, which is one transaction. False: there is no `on_purchase`.
    pub(super) async fn on_purchases(&self, entries: &[Value]) -> Result<bool, DatabaseFailure> {
        let name = "tollgate_on_purchases";
        let body = json!({ "entries": entries });
        let answer = self.call(name, &body, LOG_TIMEOUT).await?;
        serde_json::from_slice(&answer).map_err(|_| {
            DatabaseFailure::Unavailable(format!("{name} does not answer true or false"))
        })
    }

    async fn call(
        &self,
        function: &str,
        body: &Value,
        call_timeout: Duration,
    ) -> Result<Bytes, DatabaseFailure> {
        let Ok(answered) = timeout(call_timeout, self.call_unbounded(function, body)).await else {
            return Err(DatabaseFailure::Unavailable(format!(
                "no answer of the REST API within {call_timeout:?}"
            )));
        };
        answered
    }

    async fn call_unbounded(&self, function: &str, body: &Value) -> Result<Bytes, DatabaseFailure> {
        let unavailable = |why: &str| DatabaseFailure::Unavailable(why.to_owned());
        // The semaphore is never closed.
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| unavailable("closed"))?;
        let request = self
            .request(function, body)
            .map_err(|_| unavailable("supabase_url does not make a URL"))?;
        let response = self.client.send(request).await.map_err(|error| {
            tracing::debug!(%error, "the REST API was not reached");
            match error {
                HttpError::Connect(_) => unavailable("cannot connect to the REST API"),
                other => unavailable(other.summary()),
            }
        })?;
        let status = response.status();
        let answer = self.client.read(response.into_body()).await;
        let answer =
            answer.map_err(|_| unavailable("the REST API's answer broke off or was too long"))?;
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            self.answered.store(true, Ordering::Relaxed);
            return Ok(answer);
        }
        // A project without this API at all (self-hosted Auth alone, a stand-in for it): there is no function to ask.
        // One that has answered does not vanish; then the proxy in front has failed.
        if is_no_such_path(status)
            && answer_code(&answer).is_empty()
            && !self.answered.load(Ordering::Relaxed)
        {
            return Err(DatabaseFailure::Missing);
        }
        Err(failure(status, &answer, function))
    }

    fn request(&self, function: &str, body: &Value) -> Result<Request<Bytes>, http::Error> {
        let keys = self.keys.load();
        let mut request = Request::post(format!("{}/{function}", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            // The wrappers are in `public`, which need not be the first of the exposed schemas.
            .header("content-profile", "public")
            .header(header::USER_AGENT, USER_AGENT)
            .header("apikey", keys.key.clone());
        if let Some(bearer) = &keys.bearer {
            request = request.header(header::AUTHORIZATION, bearer.clone());
        }
        request.body(Bytes::from(body.to_string()))
    }
}

fn is_no_such_path(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
    )
}

/// PostgREST's code in an error; empty where something else answered.
fn answer_code(body: &[u8]) -> String {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    error
        .get("code")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// What an answer that is no success means. Errors of PostgREST are `{"code", "message", …}`; what stands before it
/// (a gateway) may answer anything.
fn failure(status: StatusCode, body: &[u8], function: &str) -> DatabaseFailure {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| short(error.get(key).and_then(Value::as_str).unwrap_or_default());
    let (code, message) = (text("code"), text("message"));
    let why = match (code.as_str(), message.as_str()) {
        ("", "") => format!(
            "{function}: the REST API answered with status {}",
            status.as_u16()
        ),
        _ => format!("{function}: {message} ({code}, status {})", status.as_u16()),
    };
    match status {
        StatusCode::NOT_FOUND if code == "PGRST202" => DatabaseFailure::Missing,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => DatabaseFailure::Unavailable(format!(
            "{why}: is SUPABASE_SERVICE_KEY right, and were the grants of `tollgate sql` run?"
        )),
        StatusCode::PAYLOAD_TOO_LARGE => DatabaseFailure::Refused(why),
        _ if status.is_client_error() && is_about_the_call(&code) => DatabaseFailure::Refused(why),
        _ => DatabaseFailure::Unavailable(why),
    }
}
