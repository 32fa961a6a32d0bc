//! Refusals: every way to say no, and the one mapping of them to HTTP.
//!
//! Making a refusal has no side effect. It carries what the caller may know and nothing else: never an upstream's body,
//! a key, or a path of this machine.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// The header that repeats a refusal's code, for clients that drop the body of a failed stream.
pub const CODE_HEADER: &str = "x-tollgate-error";

/// Tells OpenAI's SDKs, which send a 409 again, that this one is final.
const NO_RETRY_HEADER: &str = "x-should-retry";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $kind:literal;)+) => {
        /// The reason of a refusal, as clients see it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)+ }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code in `error.code` and in the header.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// `error.type`, in OpenAI's words.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self { $(Self::$name => $kind,)+ }
            }
        }
    };
}

codes! {
    /// A wrong shape, type or range; `param` names the field.
    InvalidRequest = "invalid_request", 400, "invalid_request_error";
    /// A field, or a value of one, that costs extra, keeps state at the provider, or is unknown.
    UnsupportedField = "unsupported_field", 400, "invalid_request_error";
    /// What the user said was flagged by the moderation of the plan; `error.categories` says why. Nothing is charged.
    ContentFlagged = "content_flagged", 400, "invalid_request_error";
    /// No bearer token.
    MissingToken = "missing_token", 401, "authentication_error";
    /// Not a token of a user of this project, or of another issuer that is let in; the message says what is wrong with it.
    InvalidToken = "invalid_token", 401, "authentication_error";
    /// On `/webhooks/…`: the event is not proven to come from the store.
    InvalidSignature = "invalid_signature", 401, "authentication_error";
    /// The token is valid, but too old: the app should refresh it.
    TokenExpired = "token_expired", 401, "authentication_error";
    /// A limit per day, month, period or lifetime is used up, or the request could never fit it.
    QuotaExceeded = "quota_exceeded", 402, "insufficient_quota";
    /// The model is not in the user's plan, does not exist, or does not serve this endpoint.
    ModelNotAllowed = "model_not_allowed", 403, "permission_error";
    /// The user is anonymous, and anonymous users have no plan here.
    AnonymousNotAllowed = "anonymous_not_allowed", 403, "permission_error";
    /// Only requests that prove a real device are answered here.
    AttestationRequired = "attestation_required", 403, "permission_error";
    /// The operator, or the operator's database, blocked this user.
    UserBlocked = "user_blocked", 403, "permission_error";
    /// On the operator's listener: the token may only read.
    InsufficientScope = "insufficient_scope", 403, "permission_error";
    /// On the operator's listener: a page of another origin, or a browser's request that does not say it is ours.
    CrossOrigin = "cross_origin", 403, "permission_error";
    /// No such path, no such model in the plan, no such prompt, or no answer of this user with this id.
    NotFound = "not_found", 404, "invalid_request_error";
    /// The path takes another method: see the header `Allow`.
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error";
    /// The request was sent before with the same `Idempotency-Key`, and its answer is not here: it is still open, or is kept
    /// no longer.
    AnswerGone = "answer_gone", 409, "invalid_request_error";
    /// The purchase belongs to another user, for whom it still counts.
    PurchaseTaken = "purchase_taken", 409, "invalid_request_error";
    /// The body is larger than `[server] body_bytes_max` or, if it has a file, `file_bytes_max`.
    BodyTooLarge = "body_too_large", 413, "invalid_request_error";
    /// The body is not of the endpoint's media type, which is JSON for most, or it is compressed (`Content-Encoding`).
    UnsupportedMediaType = "unsupported_media_type", 415, "invalid_request_error";
    /// Within the last 24 hours the user sent another request with this `Idempotency-Key`, to another path or with another
    /// body.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "invalid_request_error";
    /// More header bytes than `[server] header_bytes_max`; refused before anything is read, so without a body.
    HeadersTooLarge = "headers_too_large", 431, "invalid_request_error";
    /// A limit per minute or hour is used up, or too many new users came from one address.
    RateLimited = "rate_limited", 429, "rate_limit_error";
    /// The user has more open requests than the plan's `concurrent_requests` allows.
    TooManyConcurrent = "too_many_concurrent", 429, "rate_limit_error";
    /// The provider failed, sent an invalid answer, or refused the operator's key or budget.
    UpstreamError = "upstream_error", 502, "api_error";
    /// The ledger cannot be written.
    StoreUnavailable = "store_unavailable", 503, "api_error";
    /// The keys that verify tokens, of Supabase or of another issuer, could not be fetched.
    AuthUnavailable = "auth_unavailable", 503, "api_error";
    /// Nobody can say which plan the user has.
    DirectoryUnavailable = "directory_unavailable", 503, "api_error";
    /// The provider cannot be reached, is overloaded, or limits the operator.
    UpstreamUnavailable = "upstream_unavailable", 503, "api_error";
    /// The operator paused the app, or the day's ceiling is reached.
    Paused = "paused", 503, "api_error";
    /// There are more open requests than this server takes.
    Overloaded = "overloaded", 503, "api_error";
    /// The provider did not answer in time. The request is charged what was set aside, because the provider may have done the
    /// work.
    UpstreamTimeout = "upstream_timeout", 504, "api_error";
}

impl Code {
    /// What a 401 asks for (RFC 6750 §3): no error without a token, `invalid_token` for a bad or expired one. Never a bare
    /// `Bearer`: Swift's Foundation on Linux crashes on a challenge without parameters.
    const fn challenge(self) -> Option<&'static str> {
        match self {
            Self::MissingToken => Some(r#"Bearer realm="tollgate""#),
            Self::InvalidToken | Self::TokenExpired => {
                Some(r#"Bearer realm="tollgate", error="invalid_token""#)
            }
            _ => None,
        }
    }
}

/// A refusal, as the caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// For people; plain words, with the fix where there is one.
    pub message: String,
    /// The field at fault (`tools[0].type`).
    pub param: Option<String>,
    /// When to try again. Every 429 and 503 has one.
    pub retry_after: Option<Duration>,
    /// More members of the `error` object, such as `limit` and `plan`.
    pub details: Vec<(&'static str, Value)>,
    /// Another status than the code's, and a code: of the upstream, whose 400, 404 or 422 about the user's own request is passed
    /// on; or of a GET (410).
    pub passed_on: Option<(StatusCode, String)>,
}

impl Refusal {
    /// A refusal with a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after = match code.status() {
            429 => Some(Duration::from_secs(1)),
            503 => Some(Duration::from_secs(5)),
            _ => None,
        };
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after,
            details: Vec::new(),
            passed_on: None,
        }
    }

    /// `invalid_request` about a field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message).at(param)
    }

    /// `unsupported_field` about a field.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::UnsupportedField, message).at(param)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Without what a provider says of a request, which may quote it. Its status and code stay.
    #[must_use]
    pub fn without_quotes(self) -> Self {
        if self.passed_on.is_none() {
            return self;
        }
        Self {
            message: "The model's provider refused this request as invalid.".to_owned(),
            param: None,
            ..self
        }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a member to the `error` object.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.details.push((name, value));
        self
    }

    /// Answers with another status than the code's.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.passed_on = Some((status, self.code.as_str().to_owned()));
        self
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match &self.passed_on {
            Some((status, _)) => *status,
            None => StatusCode::from_u16(self.code.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// The code as clients see it: ours, or the upstream's where its answer is passed on.
    #[must_use]
    pub fn code_str(&self) -> &str {
        self.passed_on
            .as_ref()
            .map_or(self.code.as_str(), |(_, code)| code)
    }

    /// `{"error": {…}}`, the shape that OpenAI's clients decode.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "type": self.code.kind(),
            "code": self.code_str(),
            "param": self.param,
        });
        if let Some(members) = error.as_object_mut() {
            members.extend(
                self.details
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone())),
            );
        }
        json!({ "error": error })
    }
}

impl Refusal {
    /// `{"type": "error", …}`, the shape that Anthropic's clients decode. The code is in the header only.
    #[must_use]
    pub fn anthropic_body(&self, request_id: &str) -> Value {
        let mut error = json!({
            "type": anthropic_kind(self.status().as_u16()),
            "message": self.message,
        });
        if let Some(members) = error.as_object_mut() {
            members.extend(
                self.details
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone())),
            );
        }
        json!({ "type": "error", "error": error, "request_id": request_id })
    }
}

/// The body of a refusal as Anthropic's clients decode it, from the one that OpenAI's do: what is said beside message and
/// code (a limit, a plan, a request) is kept.
#[must_use]
pub fn anthropic_shape(status: StatusCode, body: &[u8], request_id: &str) -> Value {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut error = Map::new();
    error.insert("type".to_owned(), json!(anthropic_kind(status.as_u16())));
    for (name, value) in body
        .get("error")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !["type", "code", "param"].contains(&name.as_str()) {
            error.insert(name.clone(), value.clone());
        }
    }
    json!({ "type": "error", "error": error, "request_id": request_id })
}

/// `error.type` of a status, in Anthropic's words.
const fn anthropic_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            CODE_HEADER,
            HeaderValue::from_str(self.code_str())
                .unwrap_or(HeaderValue::from_static("upstream_error")),
        );
        if let Some(challenge) = self.code.challenge() {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if self.code == Code::AnswerGone && self.retry_after.is_none() {
            headers.insert(NO_RETRY_HEADER, HeaderValue::from_static("false"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// Seconds to wait, rounded up, at least one (RFC 9110 §10.2.3 takes whole seconds).
fn whole_seconds(wait: Duration) -> u64 {
    let rest = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(rest).max(1)
}
