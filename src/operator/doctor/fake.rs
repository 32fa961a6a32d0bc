//! A fake Supabase project and upstream on a free port. Tests make it misbehave.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

/// What the fake answers; each test changes one thing.
#[derive(Clone)]
pub(super) struct Says {
    /// The answer of `jwks.json`.
    pub(super) keys: (u16, Value),
    /// By function, for the service key.
    pub(super) check: (u16, Value),
    pub(super) log: (u16, Value),
    pub(super) examine: (u16, Value),
    /// For the publishable key.
    pub(super) stranger: (u16, Value),
    /// The answer of `/v1/models`.
    pub(super) models: (u16, Value),
    /// In seconds, added to the `Date` of Supabase.
    pub(super) skew: i64,
}

/// What a caller sent, to be looked at.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

pub(super) struct Fake {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    _serving: tokio::task::JoinSet<()>,
}

pub(super) const ES256: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"one",
    "x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

impl Says {
    /// All is well.
    pub(super) fn well() -> Self {
        Self {
            keys: (200, serde_json::from_str(ES256).unwrap()),
            check: (200, Value::Null),
            log: (204, Value::Null),
            examine: (200, json!({"unsafe": [], "writable": []})),
            stranger: (
                401,
                json!({"code": "42501", "message": "permission denied for function x"}),
            ),
            models: (
                200,
                json!({"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]}),
            ),
            skew: 0,
        }
    }

    fn to(&self, path: &str, headers: &HeaderMap) -> (u16, Value) {
        let is_stranger = headers
            .get("apikey")
            .is_some_and(|key| key.as_bytes().starts_with(b"sb_publishable_"));
        match path {
            "/auth/v1/.well-known/jwks.json" => self.keys.clone(),
            "/v1/models" => self.models.clone(),
            _ if path.starts_with("/rest/v1/rpc/") && is_stranger => self.stranger.clone(),
            "/rest/v1/rpc/tollgate_check_user_limits" => self.check.clone(),
            "/rest/v1/rpc/tollgate_log_requests" => self.log.clone(),
            "/rest/v1/rpc/tollgate_examine" => self.examine.clone(),
            _ => (404, json!({"message": "no such path"})),
        }
    }
}

impl Fake {
    pub(super) async fn start(says: Says) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = seen.clone();
        let app = Router::new().fallback(
            move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
                let answer = answer(&says, uri.path(), &headers);
                let body = serde_json::from_slice(&body).unwrap_or_default();
                noted.lock().unwrap().push(Seen {
                    method,
                    path: uri.path().to_owned(),
                    headers,
                    body,
                });
                async move { answer }
            },
        );
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            seen,
            _serving: serving,
        }
    }

    pub(super) fn requests_to(&self, path: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| seen.path == path)
            .cloned()
            .collect()
    }
}

fn answer(says: &Says, path: &str, headers: &HeaderMap) -> Response {
    let (status, body) = says.to(path, headers);
    let mut response = body.to_string().into_response();
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let now = crate::clock::Clock::system().now().secs();
    let at = jiff::Timestamp::from_second(now.saturating_add(says.skew)).unwrap();
    let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response
        .headers_mut()
        .insert(header::DATE, date.parse().unwrap());
    response
}
